"""guest/init starts the agent and hands over to the root's own init, or has nobody to hand over to."""

import os
import pathlib
import shutil
import signal
import subprocess

from rig import B, DEADLINE_S, HERE, Client, Skip, expect, until

INIT = B / "guest" / "init" / "init"
AGENT = B / "lodge-agent"  # the root has no libraries


class Booted:
    def __init__(self, guest, with_init):
        self.guest = guest
        self.process = None
        self.tree = guest.dir / "tree"
        for d in ("bin", "sbin", "etc", "dev", "proc", "sys", "run", "tmp", "root"):
            (self.tree / d).mkdir(parents=True)
        shutil.copy("/usr/bin/busybox", self.tree / "bin" / "busybox")
        if with_init:
            (self.tree / "sbin" / "init").symlink_to("/bin/busybox")
            (self.tree / "etc" / "inittab").write_text("::sysinit:/bin/busybox true\n")
        self.device, self.file = guest.disk()
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", self.tree, self.file], check=True)

    def __enter__(self):
        self.log = open(self.guest.dir / "boot", "w+b")
        self.process = subprocess.Popen([HERE / "initramfs", self.guest.dir, INIT, AGENT, self.device],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.client = until("the agent answers", self.answers)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def said(self):
        return (self.guest.dir / "boot").read_text(errors="replace")

    def answers(self):
        """A client, when the agent listens: its socket is in the new root, which only its processes see."""
        assert self.process.poll() is None, self.said()
        for pid in map(str, self.below(self.process.pid)):
            try:
                return Client(f"/proc/{pid}/root/tmp/agent.sock")
            except OSError:
                pass
        return None

    def below(self, pid):
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [int(c) for c in children] + [p for c in children for p in self.below(int(c))]


def booted(guest, with_init):
    if not AGENT.exists() or not INIT.exists():
        raise Skip(f"{AGENT} is not built (make agent)")
    return Booted(guest, with_init)


def test_beside_the_roots_init(guest):
    with booted(guest, True) as b:
        c = b.client
        # process 1 is the root's, the agent a child of it that systemd would leave alone
        run = lambda *argv: c.exec("/bin/busybox", *argv).out  # noqa: E731
        until("the root's init runs", lambda: run("readlink", "/proc/1/exe") == b"/bin/busybox\n")
        agent = run("sh", "-c", "echo $PPID").strip().decode()
        assert run("cat", f"/proc/{agent}/cmdline").startswith(b"@lodge-agent\0")
        stat = run("cat", f"/proc/{agent}/stat").rsplit(b")", 1)[1].split()
        assert stat[1] == b"1" and stat[3].decode() == agent, stat  # parent, session
        # it sees the new root: its files, its mounts
        assert run("ls", "/etc") == b"inittab\n"
        assert [f.target for f in c.GetFacts().filesystems] == ["/"], c.GetFacts().filesystems
        assert run("ls", "/newroot") == b""
        expect("NOT_FOUND", "No such file", c.exec, "/lodge-agent")


def test_a_root_without_an_init(guest):
    with booted(guest, False) as b:
        c = b.client
        until("init has given up", lambda: "the agent alone runs" in b.said())
        for _ in range(20):  # orphans are reaped
            c.exec("/bin/busybox", "sh", "-c", "(/bin/busybox sleep 0.01 &)")
        until("no zombie is left",
              lambda: b"Z" not in c.exec("/bin/busybox", "ps", "-o", "stat").out)
        mounts = c.exec("/bin/busybox", "cat", "/proc/mounts").out
        assert b" /dev/pts devpts " in mounts and b" /run tmpfs " in mounts, mounts
        assert c.exec("/bin/busybox", "cat", "/proc/1/comm").out == b"lodge-init\n"
        c.Shutdown()
        assert b.process.wait(DEADLINE_S) in (-signal.SIGINT, 130)
        out = subprocess.run(["dumpe2fs", "-h", b.file], capture_output=True, text=True).stdout
        assert "needs_recovery" not in out and "clean" in out, out
