"""Who may call what, and with whose rights a client's files are opened. Needs root, to be somebody else."""

import os
import shutil
import subprocess
import threading
import time

from rig import B, METHODS, Skip, as_user, expect_rpc_error, lodge, need_kvm, payload_file, until

KINDS = ["vmm", "serve"]

OWNER, LOOKER, NOBODY = 20001, 20002, 20003
GROUP, LOOK_GROUP = 30001, 30002
RIGHTS = ["--allow-uid", str(OWNER), "--read-only-uid", str(LOOKER), "--allow-group", str(GROUP),
          "--read-only-group", str(LOOK_GROUP), "--socket-mode", "0666"]
LOOKS = {"GetVmInfo", "GetServerInfo", "ListVms", "WaitVm", "WatchEvents", "ReadConsole", "GetMetrics",
         "GetMetricsText", "GetDiskImageInfo", "CheckDiskImage", "GetGuestFacts"}


def with_rights(server, *more):
    """The server again, for others than root as well."""
    if os.geteuid() != 0:
        raise Skip("only root can be somebody else")
    server.end()
    server.args = [*RIGHTS, *more]
    os.chmod(server.dir, 0o755)
    shutil.copy(payload_file("button"), server.dir)
    server.begin()
    assert served(server)


def code_of(server, method, **fields):
    """The status that a call gets, and its text."""
    with server.client() as c:
        try:
            c.call(method, timeout_ns=10**9, **fields)
        except lodge.RpcError as e:
            return lodge.CODES[e.code], e.text
        return "OK", ""


def codes(server):
    return {method: code_of(server, method)[0] for method in METHODS if method in served(server)}


def served(server):
    """The methods that there are."""
    if not hasattr(server, "served"):
        server.served = {method for method in METHODS if code_of(server, method)[0] != "UNIMPLEMENTED"}
    return server.served


def test_strangers_are_told_so(server):
    with_rights(server)
    got = as_user(NOBODY, NOBODY, [], lambda: codes(server))
    assert set(got.values()) == {"PERMISSION_DENIED"}, got
    code, text = as_user(NOBODY, NOBODY, [], lambda: code_of(server, "GetVmInfo", name="a"))
    assert f"user {NOBODY} may not call" in text and "--allow-uid" in text, text


def test_who_may_look_changes_nothing(server):
    with_rights(server)
    for ids in ((LOOKER, 1, []), (NOBODY, LOOK_GROUP, []), (NOBODY, 1, [1, LOOK_GROUP])):
        got = as_user(*ids, lambda: codes(server))
        assert {m for m, code in got.items() if code != "PERMISSION_DENIED"} == LOOKS & served(server), got
        assert as_user(*ids, lambda: server.client().GetServerInfo().read_only)
    _, text = as_user(LOOKER, 1, [], lambda: code_of(server, "StopVm", name="a"))
    assert "may only look" in text and "StopVm" in text, text
    repair, _ = as_user(LOOKER, 1, [], lambda: code_of(server, "CheckDiskImage", repair=True))
    assert repair == "PERMISSION_DENIED"


def test_who_may_do_all(server):
    with_rights(server)
    for ids in ((OWNER, 1, []), (NOBODY, GROUP, []), (NOBODY, 1, [2, GROUP]), (LOOKER, GROUP, []), (0, 0, [])):
        got = as_user(*ids, lambda: codes(server))
        assert "PERMISSION_DENIED" not in got.values(), (ids, got)
        assert not as_user(*ids, lambda: server.client().GetServerInfo().read_only)


def test_socket_mode_and_group(server):
    with_rights(server, "--socket-mode", "0660", "--socket-group", str(GROUP))
    st = os.stat(server.socket)
    assert (st.st_mode & 0o777, st.st_gid) == (0o660, GROUP)

    def refused():
        try:
            server.client()
        except PermissionError:
            return True
        return False

    assert as_user(OWNER, 1, [], refused) and not as_user(OWNER, 1, [GROUP], refused)


def test_connections_of_one_user_are_bounded(server):
    with_rights(server)

    def connect():
        clients = []
        for _ in range(300):
            clients.append(server.client())
            try:
                clients[-1].GetVmInfo(name="a")
            except OSError:
                return len(clients) - 1
        return len(clients)

    assert as_user(OWNER, 1, [], connect) == 256
    with server.client() as c:
        assert not c.GetVmInfo(name="a").success


# ---- files ----


def spec(server, **fields):
    return server.spec(vm={"kernel": str(server.dir / payload_file("button").name), **fields.pop("vm", {})}, **fields)


def start_as(server, ids, **fields):
    def start():
        with server.client() as c:
            reply = c.StartVm(name="a", **spec(server, **fields))
            if reply.success:
                assert c.StopVm(name="a").success
            return reply.success, reply.failure_reason
    return as_user(*ids, start)


def denied(server, ids, what, **fields):
    success, reason = start_as(server, ids, **fields)
    assert not success and what in reason and "ermission" in reason, reason
    if server.kind == "serve":
        assert not list(server.runtime.glob("vm.*"))


def test_files_are_opened_with_the_clients_rights(server):
    with_rights(server)
    ids = (OWNER, OWNER, [40001])
    secret = str(server.disk("secret"))
    os.chmod(secret, 0o600)
    link = str(server.dir / "link")
    os.symlink(secret, link)
    hidden = server.dir / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "d").write_bytes(bytes(1 << 20))
    os.chmod(hidden / "d", 0o666)
    read_only = str(server.disk("read-only"))
    os.chmod(read_only, 0o644)
    for path in (secret, link, str(hidden / "d")):
        denied(server, ids, path, vm=dict(rootfs=path))
        denied(server, ids, path, disks=[dict(path=path)])
        denied(server, ids, path, vm=dict(kernel=path))
        denied(server, ids, path, vm=dict(initrd=path, no_initramfs=False))
    denied(server, ids, read_only, disks=[dict(path=read_only, writable=True)])
    denied(server, ids, str(hidden), vm=dict(modules_dir=str(hidden / "modules")))


def test_files_that_the_client_may_open(server):
    with_rights(server)
    need_kvm()
    path = str(server.disk("d"))
    for mode, owner, writable in ((0o600, (OWNER, 0), True), (0o060, (0, OWNER), True), (0o060, (0, 40001), True),
                                  (0o440, (0, 40001), False), (0o666, (0, 0), True)):
        os.chown(path, *owner)
        os.chmod(path, mode)
        got = start_as(server, (OWNER, OWNER, [40000, 40001]), disks=[dict(path=path, writable=writable)])
        assert got == (True, ""), (oct(mode), owner, got)
        if server.kind == "vmm":  # it was that VM
            return


def test_root_opens_with_its_own_rights(server):
    with_rights(server)
    need_kvm()
    path = server.disk("d")
    os.chown(path, OWNER, OWNER)
    os.chmod(path, 0o600)
    with server.client() as c:
        server.start(c, "a", disks=[dict(path=str(path), writable=True)])


def test_another_name_does_not_help(server):
    """While a link is switched between a file of the client's and one that is not, only the first is ever opened."""
    if server.kind == "vmm":
        return
    with_rights(server)
    need_kvm()
    mine, secret, link = str(server.disk("mine")), str(server.disk("secret")), str(server.dir / "switched")
    os.chown(mine, OWNER, OWNER)
    os.chmod(secret, 0o600)
    end = threading.Event()

    def switch():
        while not end.is_set():
            for target in (mine, secret):
                os.symlink(target, link + ".new")
                os.rename(link + ".new", link)
                time.sleep(0.0005)

    os.symlink(mine, link)
    thread = threading.Thread(target=switch)
    thread.start()
    try:
        started = 0
        for i in range(15):
            def start():
                with server.client() as c:
                    reply = c.StartVm(name=f"vm{i}", **spec(server, disks=[dict(path=link)]))
                    return reply.success, reply.vm_info.pid
            success, pid = as_user(OWNER, OWNER, [], start)
            started += success
            if success:
                server.vms.add(pid)
                opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                assert mine in opened and secret not in opened, opened
    finally:
        end.set()
        thread.join()
    print(f"     {started} of 15 VMs got the file that was the client's")


def test_a_server_that_is_not_root_says_so(server):
    if os.geteuid() != 0:
        raise Skip("only root can be somebody else")
    need_kvm()
    if server.kind == "vmm":
        return
    path, runtime = server.socket + "2", server.dir / "run2"
    os.chmod(server.dir, 0o777)
    exe = server.dir / "lodge"
    shutil.copy(B / "lodge", exe)

    def serves():
        try:
            return lodge.Lodge(path)
        except OSError:
            return None

    def start():
        with lodge.Lodge(path) as c:
            return c.StartVm(name="a", **server.spec())

    process = subprocess.Popen([exe, "serve", "--socket", path, "--runtime-dir", runtime, *RIGHTS],
                               user=NOBODY, group=NOBODY, extra_groups=[os.stat("/dev/kvm").st_gid])
    try:
        until("it serves", serves).close()
        assert os.stat(path).st_mode & 0o777 == 0o666

        reply = as_user(OWNER, OWNER, [], lambda: (start().success, start().failure_reason))
        assert not reply[0] and f"with the rights of user {OWNER}" in reply[1] and "as root" in reply[1], reply
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_wrong_rules(server):
    for option, value, text in (("--allow-uid", "no-such-user", "/etc/passwd"), ("--allow-group", "-1", "/etc/group"),
                                ("--socket-mode", "999", "octal"), ("--socket-mode", "01777", "octal")):
        run = subprocess.run([B / "lodge", server.kind, "--socket", "/nowhere", "--runtime-dir", "/nowhere", option, value]
                             if server.kind == "serve" else [B / "lodge", "vmm", "--socket", "/nowhere", option, value],
                             capture_output=True, text=True)
        assert run.returncode == 2 and option in run.stderr and text in run.stderr, run
    expect_rpc_error("NOT_FOUND", server.client().WaitVm, name="nobody")
