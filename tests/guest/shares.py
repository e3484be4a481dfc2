"""What the tests of shares stand on: a guest with Debian's programs that starts quickly, a shell in it, and what a share
is made of on the host."""
import contextlib
import os
import re
import select
import subprocess
import time

import nfs_client as nfs
from harness import DEADLINE_S, LODGE, Failure, check, environment, equal, run_tool

from test_serve import serving, until

NOBODY = 65534
TARGET = "/mnt/shared"


def folder(context, name="share", owner=NOBODY):
    path = context.path(name)
    os.mkdir(path, 0o755)
    os.chown(path, owner, owner)
    return path


def put(path, content, owner=NOBODY, mode=0o644):
    """A file, complete from the first moment on."""
    content = content.encode() if isinstance(content, str) else content
    with open(path + ".new", "wb") as file:
        file.write(content)
    os.chown(path + ".new", owner, owner)
    os.chmod(path + ".new", mode)
    os.rename(path + ".new", path)
    return path


def content(path):
    with open(path, "rb") as file:
        return file.read()


# mount points of the tests
MOUNT_POINTS = (TARGET, "/srv/b", "/srv/deep", "/srv/deep/er")


def root_words(context):
    """Debian's root, which many may read at once, with mount points in it."""
    def make(path):
        subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), path], check=True)
        subprocess.run(["debugfs", "-w", "-f", "-", path], input="".join(f"mkdir {point}\n" for point in MOUNT_POINTS),
                       text=True, check=True, capture_output=True)
    root = context.artefacts.once("root-of-shares", make)
    return ["--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"), "--memory", "256M",
            "--start-timeout", str(int(DEADLINE_S)), "--root", f"path={root},format=raw,ro=on"]


# without systemd, which no share needs: the agent stays, with Debian's programs
QUICK = ["--init", "/bin/sleep", "--cmdline", "-- infinity"]


# a program of the guest's whose input and output is a connection
BYTES_TO = "exec 3<>/dev/tcp/{}/{} 4<&0 && {{ cat <&4 >&3 & exec cat <&3; }}"


class Guest:
    """A VM of `server` with shares, and a shell in it that stays."""

    def __init__(self, context, server, name, *shares, arguments=()):
        self.server, self.name = server, name
        words = [word for share in shares for word in ("--share", share)]
        server.run("start", name, *root_words(context), *QUICK, *words, *arguments)
        self.shell = Shell(self.exec_words("bash"))

    def exec_words(self, *command):
        return [LODGE, "exec", "-i", "--socket", self.server.socket, self.name, "--", *command]

    def ask(self, command, deadline_s=DEADLINE_S):
        return self.shell.ask(command, deadline_s)

    def tells(self, command, deadline_s=DEADLINE_S):
        return self.shell.tells(command, deadline_s)

    def another_shell(self):
        return Shell(self.exec_words("bash"))

    def address(self, target=TARGET):
        """Of the share's server, as the guest's mount has it."""
        return server_of(self.ask("cat /proc/mounts"), target)

    def pid(self):
        return int(re.search(r'"pid": ?(\d+)', self.server.run("info", self.name, "--json"))[1])

    def raw(self, address, uid=0):
        """A raw client whose connection is the guest's."""
        return nfs.Client(nfs.Pipe(self.exec_words("bash", "-c", BYTES_TO.format(*address))), uid)

    def stop(self):
        self.shell.close()
        self.server.run("stop", self.name, "--timeout", 200)


@contextlib.contextmanager
def shared(context, *keys, path=None, name="a", arguments=()):
    """A server and one guest that shares one directory with it: gives the guest and the directory; nothing is left."""
    path = path or folder(context)
    with serving(context) as server:
        guest = Guest(context, server, name, ",".join([f"path={path}", *keys]), arguments=arguments)
        parts = Parts(guest.address(dict(key.split("=") for key in keys).get("mount", TARGET)))
        yield guest, path
        guest.stop()
        parts.are_gone()


class Shell:
    """One that takes commands as long as it is open."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self.buffer, self.count = b"", 0

    def begin(self, command):
        """Only types it."""
        self.process.stdin.write(command.encode() + b"\n")

    def line(self, deadline_s=DEADLINE_S):
        """The next that it prints."""
        return self.until(rb"([^\n]*)\n", deadline_s)[1].decode(errors="replace")

    def until(self, expression, deadline_s):
        end = time.monotonic() + deadline_s
        while not (match := re.search(expression, self.buffer)):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise Failure(f"a shell in the guest has not answered within {deadline_s:.0f} s; {self.buffer[-500:]!r}")
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise Failure(f"a shell in the guest has ended; {self.buffer[-500:]!r}")
            self.buffer += chunk
        self.buffer = self.buffer[match.end():]
        return match

    def tells(self, command, deadline_s=DEADLINE_S):
        """Status and output (with standard error) of a command."""
        self.count += 1
        self.begin(f"{{ {command}\n}} </dev/null 2>&1; printf '\\0%d %d\\0' {self.count} $?")
        match = self.until(rb"(?s)(.*)\x00%d (\d+)\x00" % self.count, deadline_s)
        return int(match[2]), match[1].decode(errors="surrogateescape")

    def ask(self, command, deadline_s=DEADLINE_S):
        status, output = self.tells(command, deadline_s)
        equal(status, 0, f"status of {command!r} in the guest, which says {output!r}")
        return output

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def server_of(mounts, target=TARGET):
    """(address, port) in the text of /proc/mounts."""
    match = re.search(rf"^([\d.]+):\S* {re.escape(target)} nfs4 (\S+)", mounts, re.M)
    check(match, f"no share at {target}: {mounts}")
    port = re.search(r"\bport=(\d+)", match[2])
    return match[1], int(port[1]) if port else 2049


class Place:
    """A network of the pool that no other test uses at the time, so that its tap is known beforehand."""

    def __init__(self, context):
        number = int(os.path.basename(context.folder).lstrip("t"))
        self.words = ["--net", f"pool,subnets=10.80.{number}.0/29"]
        self.address, self.prefix = f"10.80.{number}.1", f"lodge-0a50{number:02x}"

    def tap(self):
        return next((name for name in os.listdir("/sys/class/net") if name.startswith(self.prefix)), None)


# ---- on the host --------------------------------------------------------------------------------

def stat_of(pid):
    """(name, state, parent); None: gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, tail = file.read().rpartition(")")
    except OSError:
        return None
    return head.partition("(")[2], tail.split()[0], int(tail.split()[1])


def lives(pid):
    found = stat_of(pid)
    return bool(found) and found[1] not in "ZX"


def listener(address):
    """Pid of the process that listens there; None: none does."""
    host, port = address
    found = re.search(r"pid=(\d+)", run_tool("ss", "-Hltnp", "src", host, "sport", "=", f":{port}"))
    return int(found[1]) if found else None


def port_at(address):
    """Where something listens at the address; None: nowhere."""
    found = re.search(rf"{re.escape(address)}\]?:(\d+)", run_tool("ss", "-Hltn", "src", address))
    return int(found[1]) if found else None


class Parts:
    """What there is of a share beside the VM's process."""

    def __init__(self, address):
        self.address = address
        self.server = until("a server of the share", lambda: listener(address))
        # its first process of the jail, and the keeper
        self.jail = stat_of(self.server)[2]
        self.keeper = stat_of(self.jail)[2]
        equal(stat_of(self.server)[0][:15], "ganesha.nfsd", "what listens")
        self.tap = next(line.split()[1].split("@")[0] for line in run_tool("ip", "-o", "-4", "addr").splitlines()
                        if f" {address[0]}/" in line)

    def renewed(self):
        """The same share's after another server has come."""
        until("another server", lambda: listener(self.address) not in (None, self.server))
        return Parts(self.address)

    def are_gone(self):
        for pid, what in ((self.server, "server"), (self.jail, "jail's process"), (self.keeper, "keeper")):
            until(f"no {what} of the share", lambda pid=pid: not lives(pid))
        until("no tap", lambda: self.tap not in os.listdir("/sys/class/net"))
        until("no table of it", lambda: self.tap not in run_tool("nft", "list", "tables"))
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            check("lodge" not in re.sub(r"/tmp/\S*|/lab/\S*", "", file.read()), "a mount is left")
