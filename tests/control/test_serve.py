"""Many VMs, and a server that dies: only `lodge serve`."""

import os
import random
import signal
import subprocess
import time

from rig import B, alive, need_kvm, until

KINDS = ["serve"]


def names(client):
    return sorted(vm.name for vm in client.ListVms().vms)


def test_many_at_once(server):
    need_kvm()
    with server.client() as c:
        calls = [c.begin("StartVm", name=f"vm{i}", **server.spec()) for i in range(12)]
        replies = [c.finish("StartVm", s) for s in calls]
        assert all(r.success for r in replies), replies
        server.vms.update(r.vm_info.pid for r in replies)
        assert len(server.vms) == 12 and names(c) == sorted(f"vm{i}" for i in range(12))
        c.StopAllVms()
        assert names(c) == [] and not any(map(alive, server.vms))


def test_slow_stop_delays_nothing(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "slow", "spin")
        stop = c.begin("StopVm", name="slow", timeout_ms=1500)
        began = time.monotonic()
        server.start(c, "quick")
        assert c.GetVmInfo(name="quick").success and c.StopVm(name="quick").success
        assert c.GetVmInfo(name="slow").vm_info.state == 3
        late = c.StartVm(name="slow", **server.spec())
        assert not late.success and "about to end" in late.failure_reason
        assert time.monotonic() - began < 1.4
        assert c.finish("StopVm", stop).success


def test_stopped_name_can_be_started_again(server):
    need_kvm()
    with server.client() as c:
        for _ in range(3):
            server.start(c, "a")
            assert c.StopVm(name="a").success
            assert not c.GetVmInfo(name="a").success


def test_vm_that_ends_leaves_nothing(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin")
        disk = server.rootfs
        os.kill(info.pid, signal.SIGKILL)
        until("it has left the table", lambda: names(c) == [])
        assert not list(server.runtime.glob("vm.*"))
        server.start(c, "a", vm=dict(rootfs=disk, rootfs_writable=True))


def test_hung_vm_is_killed(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin")
        os.kill(info.pid, signal.SIGSTOP)
        assert c.GetVmInfo(name="a").success
        assert c.StopVm(name="a", force=True).success
        assert not alive(info.pid)


def test_failed_start_leaves_nothing(server):
    with server.client() as c:
        for _ in range(5):
            assert not c.StartVm(name="a", vm=dict(kernel="/absent")).success
            assert names(c) == [] and not list(server.runtime.iterdir())[1:]
        children = subprocess.run(["ps", "--ppid", str(server.process.pid), "-o", "pid="], capture_output=True)
        assert not children.stdout.strip()


def test_disconnect_while_it_starts(server):
    need_kvm()
    with server.client() as c:
        c.begin("StartVm", name="a", **server.spec())
    with server.client() as c:
        info = until("it runs", lambda: c.GetVmInfo(name="a").vm_info)
        server.vms.add(info.pid)
        assert c.StopVm(name="a").success


def test_kill_9_leaves_vms_and_they_are_found(server):
    need_kvm()
    with server.client() as c:
        infos = [server.start(c, f"vm{i}") for i in range(3)]
        server.process.kill()
        server.process.wait()
    assert all(alive(i.pid) for i in infos)
    server.begin()
    with server.client() as c:
        assert names(c) == ["vm0", "vm1", "vm2"]
        for info in infos:
            assert c.GetVmInfo(name=info.name).vm_info == info
            assert server.start(c, info.name).pid == info.pid
        gone = c.DestroyDiskImage(cryptohome_id="ab", disk_path="x")
        assert gone.status == 4
        os.kill(infos[0].pid, signal.SIGKILL)
        until("its end is noticed", lambda: names(c) == ["vm1", "vm2"])
        assert c.StopVm(name="vm1").success


def test_killed_at_random_points_nothing_is_lost(server):
    need_kvm()
    rng = random.Random(8)
    for round_ in range(6):
        with server.client() as c:
            for i in range(6):
                c.begin("StartVm", name=f"vm{round_}.{i}", **server.spec())
                c.begin("CreateDiskImage", cryptohome_id="0123456789abcdef", disk_path=f"{round_}.{i}", disk_size=4096)
            time.sleep(rng.random() * 0.03)
            server.process.kill()
            server.process.wait()
        server.begin()
    with server.client() as c:
        vms = c.ListVms().vms
        server.vms.update(vm.pid for vm in vms)
        until("nothing starts any more", lambda: all(vm.state == 2 for vm in c.ListVms().vms))
        assert len(list(server.runtime.glob("vm.*"))) == len(c.ListVms().vms)
        for disk in (server.storage / "home/root/0123456789abcdef/crosvm").iterdir():
            assert disk.stat().st_size == 4096
        socket_dirs = str(server.runtime)
        c.StopAllVms()
        fds = subprocess.run(f"grep -l -- --socket-fd /proc/[0-9]*/cmdline 2>/dev/null | "
                             f"while read -r f; do ls -l ${{f%/cmdline}}/fd; done | grep -c {socket_dirs}",
                             shell=True, capture_output=True, text=True)
        assert fds.stdout.strip() == "0", fds.stdout


def holders(folder):
    """Processes that have a file below it open, or name it: what is left of a server and its VMs."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode(errors="replace")
        except OSError:
            continue
        if int(pid) != os.getpid() and any(folder in text for text in (*links, words)):
            found.add(int(pid))
    return found


def streams(server, names):
    """Clients in the middle of every kind of call that is passed on to a VM; of each a connection of its own."""
    clients = []
    for name in names:
        for method in ("AttachConsole", "ReadConsole", "WatchEvents", "GetMetrics", "WaitVm", "PauseVm"):
            client = server.client()
            clients.append(client)
            if method == "AttachConsole":
                duplex = client.open(method)
                duplex.send(open=dict(name=name))
                duplex.send(data=b"flood 1000\n" if name != "p" else b"x" * 1000)
            else:
                client.begin(method, name=name)
    return clients


def read_to_the_end(client):
    """What has come is whole frames, and then the connection ends; nothing hangs."""
    try:
        while True:
            client._pump()
    except TimeoutError:
        raise AssertionError("a stream neither goes on nor ends")
    except OSError:
        pass


def test_killed_at_random_points_under_streams(server):
    """The server or VMs, under passed-on console, event and metrics calls: nothing is left of either, and locks are free."""
    need_kvm()
    rng = random.Random(9)
    for round_ in range(5):
        with server.client() as c:
            pids = {n: server.start(c, n, "echo" if n != "p" else "spin",
                                    vm=dict(rootfs=str(server.disk(n)), rootfs_writable=True)).pid for n in ("a", "b", "p")}
        clients = streams(server, pids)
        time.sleep(rng.random() * 0.1)
        if round_ % 2:
            server.process.kill()
            server.process.wait()
            for client in clients:
                read_to_the_end(client)
            server.begin()
        victims = rng.sample(sorted(pids), 2)
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        with server.client() as c:
            until("their ends are noticed", lambda: not set(victims) & set(names(c)))
            for victim in victims:  # its disk is free again
                server.start(c, victim, vm=dict(rootfs=str(server.dir / victim), rootfs_writable=True))
            c.StopAllVms(force=True)
            assert names(c) == [] and not list(server.runtime.glob("vm.*"))
        for client in clients:
            client.close()
        until("the server alone is left", lambda: holders(str(server.dir)) == {server.process.pid})
    fds = lambda: len(os.listdir(f"/proc/{server.process.pid}/fd"))
    server.client().ListVms()
    until("its descriptors are those of a server without VMs", lambda: fds() < 20)


def test_stale_directories_are_removed(server):
    server.end()
    (server.runtime / "vm.stale1").mkdir()
    (server.runtime / "vm.stale2").mkdir()
    (server.runtime / "vm.stale2" / "socket").touch()
    server.begin()
    assert not list(server.runtime.glob("vm.*"))


def test_one_server_for_each_runtime_directory(server):
    run = subprocess.run([B / "lodge", "serve", "--socket", server.socket + "2", "--runtime-dir", server.runtime],
                         capture_output=True, text=True)
    assert run.returncode == 1 and "another lodge serve uses it" in run.stderr, run


def test_places_that_are_not_there_are_named_with_the_cure(server):
    for socket, runtime, text in ((server.dir / "no/s", server.dir / "run2", "no/s: its directory does not exist"),
                                  (server.socket + "2", server.dir / "no/run", "no/run: the directory above it does not exist")):
        run = subprocess.run([B / "lodge", "serve", "--socket", socket, "--runtime-dir", runtime],
                             capture_output=True, text=True)
        assert run.returncode == 1 and text in run.stderr and "mkdir -p" in run.stderr and run.stderr.count("\n") == 1, run


def test_sigterm_stops_all(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a")
        server.start(c, "b", "spin")  # looks at no button: it is ended after a time
    assert server.end() == 0
    assert not any(map(alive, server.vms)) and not list(server.runtime.glob("vm.*"))


def test_info_is_quick_among_a_hundred_vms(server):
    need_kvm()
    with server.client() as c:
        for i in range(100):
            server.start(c, f"vm{i}")
            c.PauseVm(name=f"vm{i}")  # or they take the processors from each other
        took = []
        for _ in range(500):
            began = time.perf_counter()
            assert c.GetVmInfo(name="vm0").success
            took.append(time.perf_counter() - began)
        print(f"     GetVmInfo: median {sorted(took)[250] * 1e6:.0f} us from Python, 100 VMs")
        c.StopAllVms()
