"""PauseVm and ResumeVm."""

import time

from rig import alive, expect_rpc_error, need_kvm, until
from test_console import Reader, attached

KINDS = ["vmm"]
RUNNING, STOPPING, PAUSED = 2, 3, 100


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def stands_still(pid):
    """No thread of a guest that spins uses the CPU: over half a second, which would be 50 ticks."""
    before = cpu_ticks(pid)
    time.sleep(0.5)
    return cpu_ticks(pid) - before <= 5


def test_pause_and_resume(server):
    need_kvm()
    with server.client() as c, server.client() as d, server.client() as e:
        info = server.start(c, "a", "echo", cpus=2)
        duplex, a = attached(d)
        events = e.stream("WatchEvents", name="a")
        while not next(events).initial_done:
            pass
        duplex.send(data=b"one\n")
        a.until(b"one\n")
        c.PauseVm(name="a")
        assert c.GetVmInfo(name="a").vm_info.state == PAUSED
        assert next(events).state == PAUSED
        assert stands_still(info.pid)
        duplex.send(data=b"two\n")
        c.PauseVm(name="a")  # again: nothing changes
        assert b"two" not in a.data
        c.ResumeVm(name="a")
        assert next(events).state == RUNNING
        a.until(b"two\n")
        c.ResumeVm(name="a")
        assert c.GetVmInfo(name="a").vm_info.state == RUNNING
        duplex.send(data=b"off\n")
        a.rest()


def test_many_times(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "echo", cpus=4)
        duplex, a = attached(d)
        for i in range(50):
            c.PauseVm(name="a")
            c.ResumeVm(name="a")
        calls = [(m, c.begin(m, name="a")) for m in ("PauseVm", "PauseVm", "ResumeVm", "PauseVm", "ResumeVm") * 10]
        for m, call in calls:
            c.finish(m, call)
        c.ResumeVm(name="a")
        duplex.send(data=b"alive\n")
        a.until(b"alive\n")


def test_only_when_it_runs(server):
    need_kvm()
    with server.client() as c:
        for method in ("PauseVm", "ResumeVm"):
            expect_rpc_error("NOT_FOUND", c.call, method, name="a")
        server.start(c, "a", "spin")
        for method in ("PauseVm", "ResumeVm"):
            expect_rpc_error("NOT_FOUND", c.call, method, name="b")
        stop = c.begin("StopVm", name="a", timeout_ms=300)
        for method in ("PauseVm", "ResumeVm"):
            expect_rpc_error("FAILED_PRECONDITION", c.call, method, name="a")
        assert c.finish("StopVm", stop).success


def test_stop_of_a_paused_vm(server):
    """The guest runs again, and shuts down."""
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "button")
        a = Reader(d.stream("ReadConsole", name="a")).until(b"waiting\n")
        c.PauseVm(name="a")
        wait = c.begin("WaitVm", name="a")
        stop = c.begin("StopVm", name="a")
        assert c.finish("StopVm", stop).success
        assert c.finish("WaitVm", wait).exit_status == 0
        assert a.rest().endswith(b"pressed\n")


def test_force_of_a_paused_vm(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin", cpus=2)
        c.PauseVm(name="a")
        began = time.monotonic()
        assert c.StopVm(name="a", force=True).success
        assert time.monotonic() - began < 3
        until("the process is gone", lambda: not alive(info.pid))


def test_signal_to_a_paused_vm(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "button")
        c.PauseVm(name="a")
        assert server.end() == 0


def test_stop_while_it_is_being_paused(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "button", cpus=2)
        pause = c.begin("PauseVm", name="a")
        stop = c.begin("StopVm", name="a")
        try:
            c.finish("PauseVm", pause)
        except Exception as e:  # it may have been faster than the pause
            assert "being stopped" in str(e), e
        assert c.finish("StopVm", stop).success


def test_guest_that_ends_while_it_is_being_paused(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "echo")
        duplex, a = attached(d)
        a.until(b"echo\n")
        duplex.send(data=b"off\n")
        d.sock.setblocking(True)
        try:
            c.PauseVm(name="a")
            c.ResumeVm(name="a")
        except Exception:
            pass  # gone
        a.rest()
