"""lodge.v1.Vms of one VM: the server, the end, events."""

import os
import time

from rig import SANITIZED, alive, expect_rpc_error, need_kvm, need_triple_fault, until

KINDS = ["vmm"]

STARTING, RUNNING, STOPPING, GONE = 1, 2, 3, 0


def ended(server, payload, end, status, text):
    """A VM that ends, by itself or as asked: what the last event and WaitVm say, and its process with them."""
    with server.client() as c, server.client() as watcher:
        events = watcher.stream("WatchEvents")
        assert next(events).initial_done
        reply = c.StartVm(name="a", **server.spec(payload))
        assert reply.success, reply
        server.vms.add(reply.vm_info.pid)
        if payload == "button":
            call = c.begin("WaitVm", name="a")
            c.begin("StopVm", name="a")
            waited = c.finish("WaitVm", call)
        seen = list(events)
        assert seen[0].state == STARTING and seen[1].state == RUNNING and seen[-1].state == GONE, seen
        last = seen[-1]
        assert (last.name, last.end, last.exit_status) == ("a", end, status), last
        assert text in last.reason
        if payload == "button":
            assert (waited.end, waited.reason, waited.exit_status) == (last.end, last.reason, last.exit_status)
        assert server.process.wait(10) == status
        return seen


def test_power_off(server):
    need_kvm()
    ended(server, "hello", 1, 0, "powered off")


def test_reboot(server):
    need_kvm()
    ended(server, "reset", 2, 3, "reboot")


def test_panic(server):
    need_kvm()
    ended(server, "panic", 3, 4, "panicked")


def test_triple_fault(server):
    need_kvm()
    need_triple_fault()
    ended(server, "triple-fault", 4, 5, "triple fault")


def test_stopped(server):
    need_kvm()
    seen = ended(server, "button", 5, 0, "powered off")
    assert [e.state for e in seen] == [STARTING, RUNNING, STOPPING, GONE], seen
    assert all(abs(e.time_ns - time.time_ns()) < 60e9 for e in seen)
    assert [e.time_ns for e in seen] == sorted(e.time_ns for e in seen)


def test_forced(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "spin")
        call = c.begin("WaitVm", name="a")
        assert c.StopVm(name="a", force=True).success
        reply = c.finish("WaitVm", call)
        assert (reply.end, reply.exit_status) == (5, 0), reply


def test_start_that_fails(server):
    with server.client() as c, server.client() as d:
        events = d.stream("WatchEvents")
        assert next(events).initial_done
        assert not c.StartVm(name="a", **server.spec(vm=dict(kernel="/absent"))).success
        assert next(events).state == STARTING
        last = next(events)
        assert (last.state, last.end, last.exit_status) == (GONE, 6, 1), last
        assert "/absent" in last.reason
        expect_rpc_error("NOT_FOUND", c.WaitVm, name="a")


def test_initial_events(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin")
        for name, n in (("", 1), ("a", 1), ("b", 0)):
            with server.client() as d:
                events = d.stream("WatchEvents", name=name)
                if n:
                    first = next(events)
                    assert (first.name, first.state, first.pid, first.initial) == ("a", RUNNING, info.pid, True)
                assert next(events).initial_done
        with server.client() as d:  # of another name: nothing, until the server ends
            events = d.stream("WatchEvents", name="b")
            assert next(events).initial_done
            assert c.StopVm(name="a", force=True).success
            assert list(events) == []


def test_wait_for_nobody(server):
    with server.client() as c:
        expect_rpc_error("NOT_FOUND", c.WaitVm, name="a")


def test_waiting_calls_that_are_given_up(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin")

        def resident():
            with open(f"/proc/{info.pid}/status") as f:
                return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

        def give_up(n):
            for _ in range(n):
                for method in ("WaitVm", "StopVm"):
                    fields = dict(timeout_ms=1 << 31) if method == "StopVm" else {}
                    expect_rpc_error("DEADLINE_EXCEEDED", c.call, method, timeout_ns=1, name="a", **fields)

        give_up(100)
        before = resident()
        give_up(3000)
        # the address sanitizer keeps what was freed, for a while
        assert SANITIZED or resident() - before < 300, "calls that nobody waits for are kept"
        assert c.StopVm(name="a", force=True).success


def test_server_info(server):
    with server.client() as c:
        info = c.GetServerInfo()
        assert info.version and info.pid == server.process.pid and info.vms == 0 and not info.read_only
        assert 0 < info.uptime_ns < c.GetServerInfo().uptime_ns


def test_list_and_stop_all(server):
    need_kvm()
    with server.client() as c:
        assert not c.ListVms().vms
        c.StopAllVms()
        info = server.start(c, "a", "spin")
        assert list(c.ListVms().vms) == [info]
        assert c.GetServerInfo().vms == 1
        began = time.monotonic()
        c.StopAllVms(timeout_ms=200)
        assert 0.15 < time.monotonic() - began < 5
        until("the process is gone", lambda: not alive(info.pid))
        assert not os.path.exists(server.socket)
