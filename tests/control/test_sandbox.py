"""Locked in: what a running VM's process has left, and what becomes of it when it wants more."""

import contextlib
import ctypes
import os
import platform
import signal
import stat
import struct
import subprocess

from rig import B, ID, SANITIZED, Server, Skip, need_kvm, payload_file, until

KINDS = ["vmm"]
FAILED = 3

PTRACE_CONT, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH = 7, 12, 13, 17
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
REGS = 27  # of 8 bytes: struct user_regs_struct of x86-64
RAX, RDX, RSI, RDI, ORIG_RAX, RIP = 10, 12, 13, 14, 15, 16
SYS_OPENAT, SYS_SOCKET, SYS_EXECVE, SYS_MPROTECT = 257, 41, 59, 10


def statuses(pid):
    """Of each thread: its name, and /proc/PID/task/TID/status as a dictionary."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        yield fields["Name"], fields


def is_locked_in(pid):
    names = []
    for name, fields in statuses(pid):
        names.append(name)
        assert fields["NoNewPrivs"] == "1", (name, fields)
        assert fields["Seccomp"] == "2", (name, fields)
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb") + (("CapBnd",) if os.geteuid() == 0 else ()):
            assert int(fields[kind], 16) == 0, (name, kind, fields[kind])
    assert any(n.startswith("vcpu") for n in names) and any(n.startswith("io") for n in names), names


def has_empty_root(pid):
    if SANITIZED:
        return
    assert os.listdir(f"/proc/{pid}/root") == []
    assert os.stat(f"/proc/{pid}/root").st_dev != os.stat("/").st_dev
    assert os.statvfs(f"/proc/{pid}/root").f_flag & os.ST_RDONLY
    assert os.listdir(f"/proc/{pid}/cwd") == []


def test_every_thread_is_locked_in(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin", cpus=2)
        is_locked_in(info.pid)
        has_empty_root(info.pid)
        limits = open(f"/proc/{info.pid}/limits").read()
        files = next(line.split() for line in limits.splitlines() if line.startswith("Max open files"))
        assert files[3] == files[4], files
        assert SANITIZED or os.stat(f"/proc/{info.pid}/mem").st_uid == 0  # not dumpable
        assert c.GetVmInfo(name="a").success


test_every_thread_is_locked_in.kinds = ["vmm", "serve"]


def test_off_is_off(server):
    need_kvm()
    with Server(server.kind, "--sandbox", "off") as other, other.client() as c:
        info = other.start(c, "a", "spin")
        assert all(f["Seccomp"] == "0" and f["NoNewPrivs"] == "0" for _, f in statuses(info.pid))
        assert os.listdir(f"/proc/{info.pid}/root") != []
        made = c.CreateDiskImage(cryptohome_id=ID, disk_path="d", disk_size=1 << 20)
        assert not made.failure_reason, made


test_off_is_off.kinds = ["vmm", "serve"]


def test_images_are_not_made_by_a_vm(server):
    need_kvm()
    where = dict(cryptohome_id=ID, disk_path="d")
    with server.client() as c:
        assert not c.CreateDiskImage(disk_size=1 << 20, **where).failure_reason
        server.start(c, "its name", "spin")
        for call, more in ((c.CreateDiskImage, dict(disk_size=1 << 20)), (c.DestroyDiskImage, {})):
            reply = call(**where, **more)
            assert reply.status == FAILED and "locked in" in reply.failure_reason, reply
            assert "'its name'" in reply.failure_reason, reply


def test_a_start_that_failed_late_is_the_last(server):
    need_kvm()
    kernel = bytearray(payload_file("spin").read_bytes())
    if kernel[:4] == b"\x7fELF":
        phoff, = struct.unpack_from("<Q", kernel, 32)
        for i in range(struct.unpack_from("<H", kernel, 56)[0]):  # loads where no memory is
            struct.pack_into("<Q", kernel, phoff + 56 * i + 24, 1 << 46)
    else:  # an Image that takes all of it
        struct.pack_into("<Q", kernel, 16, 512 << 20)
    bad = server.dir / "bad"
    bad.write_bytes(kernel)
    with server.client() as c:
        spec = server.spec("spin")
        late = c.StartVm(name="a", **{**spec, "vm": {**spec["vm"], "kernel": str(bad)}})
        assert not late.success and str(bad) in late.failure_reason, late
        again = c.StartVm(name="a", **spec)
        if "locked itself in" not in again.failure_reason:
            assert again.success, again  # it was seen before anything was locked in
            server.vms.add(again.vm_info.pid)


# ---- violations: a thread is made to call what it may not --------------------------------------------

def running(*options):
    """`lodge run` of a payload that runs until it is ended, and its threads by name."""
    disk = ["--disk", f"path={running.disk},format=raw"]
    vm = subprocess.Popen([B / "lodge", "run", "--kernel", payload_file("spin"), "--initramfs", "none",
                           "--memory", "64M", *disk, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert b"spinning" in vm.stdout.readline()
    threads = {}
    for tid in os.listdir(f"/proc/{vm.pid}/task"):
        with open(f"/proc/{vm.pid}/task/{tid}/comm") as f:
            threads[f.read().strip()] = int(tid)
    return vm, threads


def ptrace(request, tid, addr=0, data=0):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, tid, addr, data) < 0:
        code = ctypes.get_errno()
        raise PermissionError if code == 1 else OSError(code, f"ptrace {request}")


def inject(tid, nr, *args):
    """Makes a thread that is in a system call, or in the guest, make another."""
    try:
        ptrace(PTRACE_SEIZE, tid)
    except PermissionError:
        raise Skip("ptrace of an undumpable process needs CAP_SYS_PTRACE")
    regs = (ctypes.c_uint64 * REGS)()

    def stopped_in_a_call():
        ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, 0x40000000)  # __WALL
        ptrace(PTRACE_GETREGS, tid, 0, ctypes.addressof(regs))
        with open(f"/proc/{tid}/mem", "rb") as memory:
            memory.seek(regs[RIP] - 2)
            if memory.read(2) == b"\x0f\x05":  # syscall
                return True
        ptrace(PTRACE_CONT, tid)
        return False

    until("it is in a system call", stopped_in_a_call)
    for at, value in zip((RDI, RSI, RDX), (*args, 0, 0, 0)):
        regs[at] = value
    regs[RIP] -= 2  # the instruction that brought it there
    regs[RAX], regs[ORIG_RAX] = nr, 2**64 - 1
    ptrace(PTRACE_SETREGS, tid, 0, ctypes.addressof(regs))
    ptrace(PTRACE_DETACH, tid)


def violation(server, thread, role, name, nr, *args, options=()):
    need_kvm()
    if platform.machine() != "x86_64":
        raise Skip("registers of x86-64 are set")
    running.disk = server.rootfs
    vm, threads = running(*options)
    try:
        inject(threads[thread], nr, *args)
        _, said = vm.communicate(timeout=30)
    finally:
        vm.kill()
        vm.wait()
    line = f"lodge: seccomp: thread {thread} ({role}) called {name} ({nr})"
    assert line in said.decode(), said
    assert vm.returncode == 6, (vm.returncode, said)


def test_violation_of_the_control_thread(server):
    violation(server, "lodge", "control", "socket", SYS_SOCKET)


def test_violation_of_a_vcpu(server):
    violation(server, "vcpu0", "vcpu", "socket", SYS_SOCKET)


def test_violation_of_a_disk_thread(server):
    violation(server, "io0", "io", "socket", SYS_SOCKET)


def test_violation_of_a_worker(server):
    violation(server, "disk-io", "worker", "socket", SYS_SOCKET, options=["--io", "epoll"])


def test_files_programs_and_code_are_refused(server):
    if SANITIZED:
        raise Skip("the sanitizers open files themselves")
    violation(server, "vcpu0", "vcpu", "openat", SYS_OPENAT)
    violation(server, "io0", "io", "execve", SYS_EXECVE)
    violation(server, "lodge", "control", "mprotect", SYS_MPROTECT, 0, 4096, 4)


def open_files(pid):
    """The kinds of files that a process holds, those without a path before their colon."""
    kinds = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            kinds.add(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0])
    return kinds


def test_off_lets_it_through(server):
    need_kvm()
    running.disk = server.rootfs
    vm, threads = running("--sandbox", "off")
    try:
        inject(threads["io0"], SYS_SOCKET, 1, 1)
        until("the socket is there", lambda: "socket" in open_files(vm.pid))
    finally:
        vm.kill()
        vm.communicate()


def test_a_violation_under_serve_ends_that_vm_alone(server):
    need_kvm()
    with server.client() as c:
        a, b = server.start(c, "a", "spin"), server.start(c, "b", "spin")
        tid = next(int(t) for t in os.listdir(f"/proc/{a.pid}/task")
                   if open(f"/proc/{a.pid}/task/{t}/comm").read().strip() == "vcpu0")
        inject(tid, SYS_SOCKET)
        until("it has left the table", lambda: not c.GetVmInfo(name="a").success)
        assert c.GetVmInfo(name="b").success
        assert "thread vcpu0 (vcpu) called socket (41)" in server.said()
        assert c.StopVm(name="b", force=True).success


test_a_violation_under_serve_ends_that_vm_alone.kinds = ["serve"]


def open_to_user(server, gid):
    """What `lodge run` is started by, so that /dev/kvm is open to a group where this host's is not: in a mount namespace of
    its own, with a node of the same device."""
    node = server.dir / "kvm"
    os.mknod(node, stat.S_IFCHR | 0o660, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o660)
    os.chown(node, 0, gid)
    return ["unshare", "--mount", "sh", "-c", f"mount --bind {node} /dev/kvm && exec \"$@\"", "sh",
            "setpriv", f"--reuid={USER}", f"--regid={gid}", "--clear-groups"]


USER = 61234


def test_an_ordinary_user_is_locked_in_as_well(server):
    need_kvm()
    if os.geteuid() != 0:
        raise Skip("needs root, to be someone else")
    os.chmod(server.dir, 0o755)
    os.chown(server.rootfs, USER, USER)
    vm = subprocess.Popen([*open_to_user(server, USER), B / "lodge", "run", "--kernel", payload_file("spin"),
                           "--initramfs", "none", "--memory", "64M", "--disk", f"path={server.rootfs},format=raw"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert b"spinning" in vm.stdout.readline(), vm.stderr.read()
        assert all(f["Uid"].split() == [str(USER)] * 4 for _, f in statuses(vm.pid))
        is_locked_in(vm.pid)
        if os.stat(f"/proc/{vm.pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
            has_empty_root(vm.pid)
    finally:
        vm.send_signal(signal.SIGKILL)
        vm.communicate()
