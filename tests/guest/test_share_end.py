"""Shares whose server, keeper, VM, daemon or directory goes away under them."""
import fcntl
import glob
import os
import shutil
import signal
import socket
import stat
import subprocess

from harness import DEADLINE_S, LODGE, check, equal, long, run_tool, test

import shares
from shares import NOBODY, TARGET, Guest, Parts, Place, content, folder, put, shared
from test_serve import Server, serving, until

MIB = 1 << 20
IP_FREEBIND = 15
# A line of 4 KiB and its number, synced before it is told: `n=0` before it
WRITE_LINES = ("while n=$((n + 1)); do printf '%4095d\\n' $n >&9 && sync -d {file} || {{ echo failed; break; }}; echo $n; done")


def lines_are_whole(path, told):
    """All that were told are in the file, in their order, and none is torn."""
    lines = content(path).split(b"\n")
    numbers = [int(line) for line in lines[:told]]
    equal(numbers, list(range(1, told + 1)), "the lines that were synced")
    check(all(len(line) == 4095 for line in lines[:told]), "a line of another length")


class Writer:
    """A program in the guest that writes lines into `file`, and tells each when it is synced."""

    def __init__(self, guest, file="written"):
        self.shell = guest.another_shell()
        path = f"{TARGET}/{file}"
        self.shell.ask(f"exec 9>>{path}; n=0")
        self.shell.begin(WRITE_LINES.format(file=path))
        self.last = 0

    def reaches(self, number):
        while self.last < number:
            line = self.shell.line()
            check(line.isdigit(), f"the writer says {line!r} after {self.last}")
            self.last = int(line)


@test()
def server_killed(context):
    """In mid-write: the guest waits and goes on, without mounting; nothing synced is lost, what was open and locked stays so."""
    with shared(context) as (guest, path):
        put(os.path.join(path, "lock"), "x" * 100, mode=0o666)
        parts = Parts(guest.address())
        guest.ask(f"exec 7<>{TARGET}/lock; flock -x 7; exec 6<>{TARGET}/open; echo still >&6; sync {TARGET}/open; mounts=$(grep nfs4 /proc/mounts)")
        writer = Writer(guest)
        for round_ in range(3):
            writer.reaches(writer.last + 20)
            os.kill(parts.server, signal.SIGKILL)
            parts = parts.renewed()
            writer.reaches(writer.last + 20)
        lines_are_whole(os.path.join(path, "written"), writer.last)
        writer.shell.close()
        guest.ask('[ "$(grep nfs4 /proc/mounts)" = "$mounts" ]')
        guest.ask("echo there >&6")
        equal(content(os.path.join(path, "open")), b"still\nthere\n", "the file that was open all the time")
        with open(os.path.join(path, "lock"), "r+b") as file:
            check(not takes(file), "the guest's lock is lost")
        check(guest.tells(f"flock -n {TARGET}/lock true")[0], "the guest's lock does not count in the guest")
        guest.ask("flock -u 7")
        with open(os.path.join(path, "lock"), "r+b") as file:
            until("the lock", lambda: takes(file))


def takes(file):
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@test(who=["keeper", "jail"])
@long()
def helper_killed(context, who):
    """A server does not stay without its keeper; one whose jail has ended comes back."""
    with serving(context) as server:
        guest = Guest(context, server, "a", f"path={folder(context)}")
        parts = Parts(guest.address())
        os.kill(getattr(parts, who), signal.SIGKILL)
        until("no server", lambda: not shares.lives(parts.server))
        if who == "jail":
            parts = parts.renewed()
            guest.ask(f"echo x >{TARGET}/x")
            guest.stop()
        else:
            guest.shell.close()
            server.run("stop", "a", "--force")
        parts.are_gone()


@test(how=["the guest writes", "the guest is stopped", "it boots"])
def vm_killed(context, how):
    """SIGKILL of its process: no server, no rules, no tap, no mount; what was synced is there, the file system is well."""
    image, mounted = context.disk("image", 64 * MIB), context.path("mounted")
    run_tool("mke2fs", "-q", "-t", "ext4", image)
    os.mkdir(mounted)
    run_tool("mount", "-o", "loop", image, mounted)
    try:
        os.chown(mounted, NOBODY, NOBODY)
        with serving(context) as server:
            if how == "it boots":
                killed_at_its_start(context, server, mounted)
            else:
                guest = Guest(context, server, "a", f"path={mounted}")
                parts = Parts(guest.address())
                writer = Writer(guest)
                writer.reaches(20)
                if how == "the guest is stopped":
                    server.run("pause", "a")
                os.kill(guest.pid(), signal.SIGKILL)
                until("its end", lambda: not server.names())
                parts.are_gone()
                guest.shell.close()
                writer.shell.close()
                lines_are_whole(os.path.join(mounted, "written"), writer.last)
        # nobody holds it
        run_tool("umount", mounted)
        run_tool("e2fsck", "-fn", image)
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)


def killed_at_its_start(context, server, path):
    place = Place(context)
    words = [LODGE, "start", "--socket", server.socket, "a", *shares.root_words(context), *shares.QUICK, *place.words, "--share", f"path={path}"]
    log = context.path("start.log")
    with open(log, "wb") as said, subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as starting:
        port = until("its server", lambda: starting.poll() is not None or shares.port_at(place.address))
        check(starting.poll() is None, f"lodge start has ended: {content(log)}")
        parts = Parts((place.address, port))
        pid = next(int(p) for p in os.listdir("/proc") if p.isdigit() and is_vm_of(p, server))
        os.kill(pid, signal.SIGKILL)
        check(starting.wait(DEADLINE_S), "lodge start says that all is well")
    parts.are_gone()


def is_vm_of(pid, server):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return len(words) > 1 and words[1] == b"vmm" and any(server.vms.encode() in word for word in words)


@test(how=["killed", "told to leave the VMs"])
def daemon_restarted(context, how):
    """The share does not notice; the next daemon ends it all."""
    path = folder(context)
    server = Server(context, "--leave-vms")
    try:
        guest = Guest(context, server, "a", f"path={path}")
        parts = Parts(guest.address())
        # what is not detached ends with the daemon's connection
        server.run("exec", "a", "--detach", "--", "sh", "-c",
                   f"exec 9>>{TARGET}/log; flock -x 9; while :; do echo line >&9; sync -d {TARGET}/log; sleep 0.1; done")

        def grows():
            size = os.path.getsize(os.path.join(path, "log"))
            until("more lines", lambda: os.path.getsize(os.path.join(path, "log")) > size)

        until("a line", lambda: os.path.exists(os.path.join(path, "log")))
        grows()
        server.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        server.process.wait(DEADLINE_S)
        grows()
        equal(shares.listener(parts.address), parts.server, "who serves")
        server.process = subprocess.Popen(server.process.args, stdout=server.log, stderr=server.log)
        until("the VM in the list", lambda: subprocess.run([LODGE, "list", "--socket", server.socket], check=False,
                                                           capture_output=True).stdout.count(b"\n") == 2)
        equal(server.run("exec", "a", "--", "tail", "-n", "1", f"{TARGET}/log"), "line\n", "what the guest sees")
        with open(os.path.join(path, "log"), "r+b") as file:
            check(not takes(file), "the guest's lock is lost")
        grows()
        guest.stop()
        parts.are_gone()
        server.leaves_nothing()
    finally:
        if server.process.poll() is None:
            subprocess.run([LODGE, "stop", "--socket", server.socket, "--all", "--force"], capture_output=True, timeout=60, check=False)
            server.process.kill()
            server.process.wait()


@test(how=["removed", "renamed", "replaced"])
@long()
def directory_gone(context, how):
    """The guest keeps the directory that was shared, or has errors; it runs, and is stopped as any other."""
    with shared(context) as (guest, path):
        put(os.path.join(path, "file"), "first")
        equal(guest.ask(f"cat {TARGET}/file"), "first", "before")
        if how == "removed":
            shutil.rmtree(path)
            check(guest.tells(f"ls {TARGET}/file; touch {TARGET}/new")[0], "a file in a directory that is none")
            check(not os.path.exists(path), "the guest has brought the directory back")
        else:
            os.rename(path, path + ".moved")
            if how == "replaced":
                folder(context)
                put(os.path.join(path, "file"), "second")
                put(os.path.join(path, "other"), "second")
            equal(guest.ask(f"cat {TARGET}/file"), "first", "the file")
            check(guest.tells(f"cat {TARGET}/other")[0], "the guest sees another directory")
            guest.ask(f"echo >{TARGET}/new")
            check(os.path.exists(path + ".moved/new"), "the new file is not in the directory that is shared")
        guest.ask("true")


@test()
@long()
def directory_gone_and_server_killed(context):
    """The jail has the directory, not its name."""
    with shared(context) as (guest, path):
        put(os.path.join(path, "file"), "first")
        os.rename(path, path + ".moved")
        parts = Parts(guest.address())
        os.kill(parts.server, signal.SIGKILL)
        parts.renewed()
        equal(guest.ask(f"cat {TARGET}/file"), "first", "the file")


def without(context, pattern, script=None):
    """What starts a program for which files of /usr are not there, or are another one."""
    paths = glob.glob(pattern)
    check(paths, f"there is no {pattern}")
    upper = context.path("usr")
    for path in paths:
        instead = os.path.join(upper, os.path.relpath(path, "/usr"))
        os.makedirs(os.path.dirname(instead))
        if script:
            put(instead, script, owner=0, mode=0o755)
        else:
            os.mknod(instead, stat.S_IFCHR)  # overlayfs: none
    return ["unshare", "--mount", "sh", "-c", f'mount -t overlay -o lowerdir={upper}:/usr overlay /usr && exec "$@"', "sh"]


@test(how=["no server", "no part for file systems", "one that ends"])
def server_that_cannot_start(context, how):
    """The start fails, says why, and leaves nothing."""
    pattern, script, wanted = {
        "no server": ("/usr/bin/ganesha.nfsd", None, ["not installed", "apt install nfs-ganesha nfs-ganesha-vfs"]),
        "no part for file systems": ("/usr/lib/*/ganesha/libfsalvfs.so", None, ["libfsalvfs.so", "apt install nfs-ganesha nfs-ganesha-vfs"]),
        "one that ends": ("/usr/bin/ganesha.nfsd", "#!/bin/sh\necho its last words >&2\nexit 3\n", ["its last words"]),
    }[how]
    path, place = folder(context), Place(context)
    with serving(context, prefix=without(context, pattern, script)) as server:
        said = server.fails("start", "a", *shares.root_words(context), *shares.QUICK, *place.words, "--share", f"path={path}")
        check(path in said and all(text in said for text in wanted), f"it says {said!r}")
        equal(server.names(), [], "VMs")
        until("no tap", lambda: not place.tap())


@test()
@long()
def port_taken(context):
    """Something of the host's listens there: the share has another port."""
    place = Place(context)
    with socket.socket() as taken:
        taken.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        taken.bind((place.address, 2049))
        taken.listen()
        with shared(context, arguments=place.words) as (guest, path):
            equal(guest.address()[0], place.address, "the host's end")
            check(guest.address()[1] != 2049, "the port")
            guest.ask(f"echo x >{TARGET}/x")
            equal(os.listdir(path), ["x"], "what the host sees")
