"""`lodge serve` from its configuration to its end: files of options, a service manager's socket and ear, restarts."""

import os
import pathlib
import socket
import subprocess

from rig import B, alive, as_user, lodge, need_kvm, until

KINDS = ["serve"]


def configured(server, text, *args):
    file = server.dir / "serve.conf"
    file.write_text(text)
    return subprocess.run([B / "lodge", "serve", "--config", file, *args], capture_output=True, text=True)


def test_wrong_lines_are_named(server):
    good = f"# a comment\n\n  socket = {server.socket}2\nruntime-dir={server.runtime}\n"
    assert configured(server, good, "--check-config").returncode == 0
    for line, text in (("leave-vm = on", "did you mean leave-vms"), ("nonsense", "no `name = value`"),
                       ("leave-vms = maybe", "neither on nor off"), ("vm-cpus = 0", "vm-cpus: "), ("vm-memory =", "no value"),
                       ("runtime-dir = here", "no absolute path"), ("config = /x", "config"), ("log = loud", "loud"),
                       ("allow-uid = no-such-user", "no-such-user")):
        run = configured(server, good + line + "\n", "--check-config")
        assert run.returncode == 2 and f"{server.dir}/serve.conf:5: " in run.stderr and text in run.stderr, (line, run)
    run = configured(server, good + "\0", "--check-config")
    assert run.returncode == 2 and "is no text" in run.stderr
    run = configured(server, "#" * 70000, "--check-config")
    assert run.returncode == 2 and "65536" in run.stderr
    run = subprocess.run([B / "lodge", "serve", "--config", "/absent"], capture_output=True, text=True)
    assert run.returncode == 2 and "/absent" in run.stderr
    run = configured(server, f"runtime-dir = {server.runtime}\n", "--check-config")
    assert run.returncode == 2 and "--socket" in run.stderr


def test_file_gives_defaults_and_command_line_prevails(server):
    need_kvm()
    server.end()
    (server.dir / "serve.conf").write_text("vm-cpus = 2\nvm-memory = 65M\nvm-transport = mmio\nlog = error\nlog = warn\n")
    server.args = ["--config", str(server.dir / "serve.conf"), "--vm-memory", "66M"]
    server.begin()
    with server.client() as c:
        spec = server.spec()
        del spec["memory_bytes"]
        info = c.StartVm(name="a", **spec).vm_info
        server.vms.add(info.pid)
        assert (info.cpus, info.memory_bytes) == (2, 66 << 20), info
        info = server.start(c, "b", cpus=1)
        assert (info.cpus, info.memory_bytes) == (1, 64 << 20), info


def serve_handed(server, sock, notify=None, **env):
    """A server that is started as a service manager does it, with the socket as descriptor 3."""
    code = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.execv(sys.argv[2], sys.argv[2:])")
    env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", **env}
    if notify:
        env["NOTIFY_SOCKET"] = notify
    return subprocess.Popen(["/usr/bin/python3", "-c", code, str(sock.fileno()), str(B / "lodge"), "serve", "--runtime-dir",
                             str(server.dir / "run2")], pass_fds=(sock.fileno(),), env=env, stderr=subprocess.PIPE, text=True)


def test_socket_and_readiness_of_a_service_manager(server):
    need_kvm()
    path = str(server.dir / "handed")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    for name in (str(server.dir / "notify"), "@lodge-test-" + server.dir.name):
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.bind(name.replace("@", "\0", 1))
        ear.settimeout(30)
        process = serve_handed(server, listening, name)
        assert ear.recv(1000).split(b"\n")[0] == b"READY=1"
        with lodge.Lodge(path) as c:
            info = c.StartVm(name="a", **server.spec()).vm_info
            words = pathlib.Path(f"/proc/{info.pid}/environ").read_bytes()
            assert b"LISTEN_" not in words and b"NOTIFY_" not in words
        process.terminate()
        assert ear.recv(1000).split(b"\n")[0] == b"STOPPING=1"
        assert process.wait(30) == 0, process.stderr.read()
        assert not alive(info.pid) and os.path.exists(path), "the socket is the manager's"


def test_wrong_sockets_of_a_service_manager(server):
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(server.dir / "silent"))
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inet = socket.socket()
    inet.listen()
    for sock in (silent, datagrams, inet):
        process = serve_handed(server, sock)
        assert process.wait(10) == 1 and "no listening Unix stream socket" in process.stderr.read()
    process = serve_handed(server, silent, LISTEN_FDS="2")
    assert process.wait(10) == 1


def test_leave_vms(server):
    need_kvm()
    server.end()
    server.args = ["--leave-vms"]
    server.begin()
    with server.client() as c, server.client() as d:
        info = server.start(c, "a", "echo")
        events = d.stream("WatchEvents")
        assert next(events).name == "a" and next(events).initial_done
        wait = c.begin("WaitVm", name="a")
        assert server.end() == 0
        assert list(events) == [], "the stream ends in order"
        try:
            c.finish("WaitVm", wait)
        except (OSError, lodge.RpcError):
            pass
        else:
            raise AssertionError("it has not ended")
    assert alive(info.pid)
    server.begin()
    with server.client() as c:
        assert c.GetVmInfo(name="a").vm_info == info, (c.GetVmInfo(name="a"), info)
        out = b"".join(m.data for m in c.stream("ReadConsole", name="a", no_follow=True))
        assert out == b"echo\n", out
        assert c.StopVm(name="a", force=True).success


def test_a_thousand_connections_under_a_shells_limit(server):
    """The limit of descriptors that a shell gives is raised by the server itself."""
    import resource

    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
    assert as_user(0, 0, [], lambda: len([server.client() for _ in range(900)])) == 900
