"""Events and ends of many VMs: what every client is told, also when a process is killed."""

import os
import signal

from rig import expect_rpc_error, need_kvm, payload_file, until

KINDS = ["serve"]
STARTING, RUNNING, STOPPING, GONE = 1, 2, 3, 0
POWEROFF, REBOOT, PANIC, CRASH, STOPPED, START_FAILED, ERROR, KILLED = range(1, 9)


def watch(client, **fields):
    """A stream of which the initial part is read, and that part."""
    events, initial = client.stream("WatchEvents", **fields), []
    for event in events:
        if event.initial_done:
            return events, initial
        assert event.initial
        initial.append(event)
    raise AssertionError("no initial_done")


def test_each_end_is_told(server):
    need_kvm()
    ends = [("hello", POWEROFF, 0, "powered off"), ("reset", REBOOT, 3, "reboot"), ("panic", PANIC, 4, "panicked")]
    if payload_file("triple-fault").exists():  # an x86 processor's
        ends.append(("triple-fault", CRASH, 5, "triple fault"))
    for payload, end, status, text in ends:
        with server.client() as c, server.client() as d:
            events, _ = watch(c)
            reply = d.StartVm(name=payload, **server.spec(payload))
            assert reply.success, reply
            server.vms.add(reply.vm_info.pid)
            seen = [next(events)]
            while seen[-1].state != GONE:
                seen.append(next(events))
            assert [e.state for e in seen[:2]] == [STARTING, RUNNING], seen
            last = seen[-1]
            assert (last.name, last.end, last.exit_status) == (payload, end, status) and text in last.reason, last
            assert last.pid == reply.vm_info.pid


def test_a_killed_process(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        info = server.start(c, "a", "spin")
        events, initial = watch(d)
        assert [(e.name, e.state, e.pid) for e in initial] == [("a", RUNNING, info.pid)]
        wait = c.begin("WaitVm", name="a")
        os.kill(info.pid, signal.SIGKILL)
        last = next(events)
        assert (last.state, last.end) == (GONE, KILLED) and "SIGKILL" in last.reason, last
        reply = c.finish("WaitVm", wait)
        assert (reply.end, reply.reason) == (KILLED, last.reason)
        expect_rpc_error("NOT_FOUND", c.WaitVm, name="a")


def test_a_killed_process_that_was_found_again(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin")
    server.process.kill()
    server.process.wait()
    server.begin()
    with server.client() as c, server.client() as d:
        events, initial = watch(d)
        assert len(initial) == 1 and initial[0].state == RUNNING
        os.kill(info.pid, signal.SIGKILL)
        assert next(events).end == KILLED
        assert c.StartVm(name="a", **server.spec()).success
        until("it can be stopped", lambda: c.StopVm(name="a", force=True).success)


def test_stopped_and_failed(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        events, initial = watch(d)
        assert initial == []
        server.start(c, "a")
        wait = c.begin("WaitVm", name="a")
        assert c.StopVm(name="a").success
        seen = [next(events) for _ in range(4)]
        assert [e.state for e in seen] == [STARTING, RUNNING, STOPPING, GONE], seen
        assert seen[-1].end == STOPPED and c.finish("WaitVm", wait).end == STOPPED
        assert not c.StartVm(name="b", vm=dict(kernel="/absent")).success
        while seen[-1].name != "b" or seen[-1].state != GONE:
            seen.append(next(events))
        assert seen[-1].end == START_FAILED and "/absent" in seen[-1].reason, seen[-1]


def test_events_of_one_name(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        events, _ = watch(d, name="b")
        server.start(c, "a")
        server.start(c, "b")
        c.StopAllVms(force=True)
        seen = [next(events)]
        while seen[-1].state != GONE:
            seen.append(next(events))
        assert {e.name for e in seen} == {"b"}


def test_who_does_not_read_events_costs_nothing(server):
    """A watcher that never reads is ended; the server's memory does not grow, and the others are told all."""
    def resident():
        with open(f"/proc/{server.process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    with server.client() as c, server.client() as slow, server.client() as d:
        for _ in range(100):
            slow.begin("WatchEvents")
        events, _ = watch(d)
        before = None
        for i in range(150):
            assert not c.StartVm(name=f"n{i}" + "x" * 50, vm=dict(kernel="/absent")).success
            if i == 50:
                before = resident()
        names = set()
        while len(names) < 150:
            event = next(events)
            if event.state == GONE:
                names.add(event.name)
        assert resident() - before < 16384, "events are kept for who does not read them"


def test_server_info(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a")
        info = c.GetServerInfo()
        assert (info.pid, info.vms, info.read_only) == (server.process.pid, 1, False) and info.version
        assert 0 < info.uptime_ns < c.GetServerInfo().uptime_ns


def test_a_call_to_a_hung_vm_can_be_given_up(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        info = server.start(c, "a", "spin")
        os.kill(info.pid, signal.SIGSTOP)
        fds = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        for _ in range(20):
            expect_rpc_error("DEADLINE_EXCEEDED", c.call, "PauseVm", timeout_ns=10**7, name="a")
        for _ in range(20):
            with server.client() as e:
                e.begin("ReadConsole", name="a")
                e.open("AttachConsole").send(open=dict(name="a"))
        assert d.GetVmInfo(name="a").success
        until("their connections are closed",
              lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= fds)
        os.kill(info.pid, signal.SIGCONT)


def test_passed_calls_name_their_vm(server):
    with server.client() as c:
        for method in ("PauseVm", "ResumeVm", "ResizeVmDisk", "ReadConsole", "GetMetrics"):
            expect_rpc_error("NOT_FOUND", c.call, method, name="nobody")
        assert not c.GetMetrics().vms
        duplex = c.open("AttachConsole")
        duplex.end()
        expect_rpc_error("INVALID_ARGUMENT", lambda: list(duplex))
        duplex = c.open("AttachConsole")
        duplex.send(data=b"x")
        expect_rpc_error("INVALID_ARGUMENT", lambda: list(duplex))


def test_metrics_of_many(server):
    need_kvm()
    with server.client() as c:
        pids = {name: server.start(c, name, "spin").pid for name in ("a", "b", "c")}
        assert {vm.name: vm.pid for vm in c.GetMetrics().vms} == pids
        assert [vm.name for vm in c.GetMetrics(name="b").vms] == ["b"]
        text = c.GetMetricsText().text
        assert text.count("# TYPE ") == len({line for line in text.splitlines() if line.startswith("# TYPE ")})
        assert all(f'"{name}"' in text for name in pids)
        os.kill(pids["b"], signal.SIGSTOP)  # who does not answer is left out
        assert {vm.name for vm in c.GetMetrics().vms} == {"a", "c"}
        os.kill(pids["b"], signal.SIGCONT)


def test_pause_is_passed_on_and_told(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "spin")
        events, _ = watch(d)
        c.PauseVm(name="a")
        assert next(events).state == 100
        until("it is known", lambda: c.GetVmInfo(name="a").vm_info.state == 100)
        c.ResumeVm(name="a")
        assert next(events).state == RUNNING
