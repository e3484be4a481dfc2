"""Calls into a guest from outside: the commands of lodge, lodge serve, the relay of the VM's process, and the agent."""

import hashlib
import os
import pathlib
import pty
import select
import signal
import socket
import stat
import subprocess
import termios
import threading
import time

import lodge
from rig import B, DEADLINE_S, WINDOW, expect, pb, until

CONTROL = B.parent if B.name in ("asan", "tsan") else B
SERVED = ["lodge.v1.Vms"]


class Relay:
    """A VM's process without a VM, named vm, and the commands that ask it; `serve`: through lodge serve."""

    def __init__(self, guest, serve=False):
        self.guest, self.serve = guest, serve
        self.runtime = guest.dir / "run"
        self.log = guest.dir / "relay.log"
        self.processes = []

    def spawn(self, *argv):
        with open(self.log, "ab") as log:
            self.processes.append(subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stderr=log))

    def __enter__(self):
        folder = self.runtime / "vm.test00"
        folder.mkdir(parents=True)
        self.socket = str(folder / "socket")
        self.spawn(B / "tests" / "agent" / "relay", self.socket, self.guest.socket, "vm")
        until("the relay answers", self.found)  # its socket is there a moment before it listens
        if self.serve:
            self.socket = str(self.guest.dir / "serve.sock")
            self.spawn(B / "lodge", "serve", "--leave-vms", "--socket", self.socket, "--runtime-dir", self.runtime)
            until("the server has found it", self.found)
        return self

    def found(self):
        try:
            with lodge.Lodge(self.socket) as c:
                return [vm.name for vm in c.ListVms().vms] == ["vm"]
        except OSError:
            return False

    def client(self):
        client = lodge.Lodge(self.socket, timeout=DEADLINE_S)
        self.guest.clients.append(client)
        return client

    def env(self):
        return {**os.environ, "LODGE_SOCKET": self.socket}

    def popen(self, *argv, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([B / "lodge", *argv], env=self.env(), **options)

    def run(self, *argv, **options):
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.run([B / "lodge", *argv], env=self.env(), timeout=DEADLINE_S, **options)

    def ok(self, *argv, **options):
        done = self.run(*argv, **options)
        assert done.returncode == 0 and not done.stderr, done
        return done.stdout

    def __exit__(self, kind, *_):
        for process in reversed(self.processes):
            process.terminate()
            status = process.wait(DEADLINE_S)
            assert kind or status == 0, (status, self.log.read_text())
        if kind is None:
            said = self.log.read_text()
            assert "Sanitizer" not in said and "Assertion" not in said and "runtime error" not in said, said


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, relay, *argv, size=(24, 80)):
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, size)
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""
        self.process = subprocess.Popen(["setsid", "--ctty", B / "lodge", *argv], stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, env={**relay.env(), "TERM": "vt100"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def read(self, text):
        if select.select([self.master], [], [], 0.01)[0]:
            self.shown += os.read(self.master, 65536)
        return text in self.shown

    def shows(self, text):
        try:
            until(text, lambda: self.read(text))
        except AssertionError as e:
            raise AssertionError(f"{e}; shown: {self.shown!r}") from None

    def type(self, keys):
        os.write(self.master, keys)

    def resize(self, rows, columns):
        termios.tcsetwinsize(self.slave, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    def ends(self, status):
        def ended():
            if select.select([self.master], [], [], 0)[0]:
                self.shown += os.read(self.master, 65536)
            return self.process.poll() is not None
        until("its end", ended)
        assert self.process.returncode == status, (self.process.returncode, self.shown)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was"


def running(guest, word):
    with guest.client() as c:
        return word in c.exec("ps", "-A", "-o", "args").out


def gone(guest, word):
    until(f"{word} is gone", lambda: not running(guest, word))


# ---- exec ----

def test_exec_streams_and_status(guest):
    for serve in (False, True):
        with Relay(guest, serve) as r:
            got = r.run("exec", "vm", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
            assert (got.returncode, got.stdout, got.stderr) == (7, b"out\n", b"err\n")
            assert r.ok("exec", "vm", "sh", "-c", "echo $A $B; pwd; id -u", "-e", "-i") != b""
            out = r.ok("exec", "-e", "A=1", "-eB=2", "-w", "/home/user", "-u", "user", "vm", "sh", "-c",
                       "echo $A $B; pwd; id -u")
            assert out == b"1 2\n/home/user\n1000\n"
            assert r.ok("exec", "vm", "cat") == b""  # /dev/null, whatever stdin is
            assert r.ok("exec", "vm", "cat", input=b"x") == b""
            assert r.ok("exec", "-i", "vm", "cat", input=b"x") == b"x"
            assert r.ok("exec", "vm", "-i", "cat", input=b"x") == b"x"
            assert r.run("exec", "vm", "sh", "-c", "kill -9 $$").returncode == 137
        import shutil
        shutil.rmtree(r.runtime)


def test_exec_failures_have_their_own_status(guest):
    with Relay(guest, serve=True) as r:
        for status, text, argv in [(127, "neither it nor", ["vm", "no-such"]),
                                   (126, "Permission denied", ["vm", "/etc/passwd"]),
                                   (125, "there is no VM 'no'", ["no", "true"]),
                                   (125, "there is no user nobody-here", ["-u", "nobody-here", "vm", "true"]),
                                   (125, "working directory /nowhere", ["-w", "/nowhere", "vm", "true"]),
                                   (125, "unknown option -x", ["-x", "vm", "true"]),
                                   (125, "say NAME and a command", ["vm"]),
                                   (125, "no streams", ["-di", "vm", "true"]),
                                   (125, "is not running at", ["--socket", "/nowhere/sock", "vm", "true"]),
                                   (124, "not within 1 s", ["--timeout", "1", "vm", "sleep", "2001"])]:
            got = r.run("exec", *argv)
            assert got.returncode == status and text in got.stderr.decode(), (status, text, got)
            assert got.stderr.count(b"\n") == 1 and got.stderr.startswith(b"lodge exec: "), got
        gone(guest, b"sleep 2001")


def test_exec_detached(guest):
    with Relay(guest) as r:
        pid = int(r.ok("exec", "-d", "vm", "sleep", "2002"))
        assert running(guest, b"sleep 2002")
        assert r.ok("exec", "vm", "readlink", f"/proc/{pid}/exe")
        r.ok("exec", "vm", "kill", str(pid))
        gone(guest, b"sleep 2002")


def test_exec_in_a_pipe(guest):
    with Relay(guest, serve=True) as r:
        data = os.urandom(20 << 20)
        assert r.ok("exec", "-i", "vm", "cat", input=data) == data
        yes = r.popen("exec", "vm", "yes", "2003")
        assert yes.stdout.read(100000)
        yes.stdout.close()
        assert yes.wait(DEADLINE_S) == 141 and not yes.stderr.read()
        gone(guest, b"yes 2003")


def test_exec_both_streams_get_much(guest):
    with Relay(guest) as r:
        got = r.run("exec", "vm", "sh", "-c", "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2")
        assert (got.returncode, len(got.stdout), len(got.stderr)) == (0, 3000000, 2000000)


def test_exec_a_thousand_times(guest):
    with Relay(guest) as r:
        c = r.client()
        begin = time.monotonic()
        for i in range(1000):
            assert c.exec("vm", ["sh", "-c", f"exit {i % 7}"]).status == i % 7
        print(f"     exec: {(time.monotonic() - begin):.3f} ms each")


def test_many_at_the_same_time(guest):
    """As many as the agent takes work; one more is told so, and those that work go on."""
    with Relay(guest) as r:
        c = [r.client(), r.client()]
        calls = [c[i % 2].open("ExecInGuest") for i in range(112)]
        for i, call in enumerate(calls):
            call.send(name="vm", request={"start": {"argv": ["sh", "-c", f"read x; echo {i} $x"], "open_stdin": True}})
        streams = [iter(call) for call in calls]
        for s in streams:
            assert next(s).pid
        try:
            c[0].exec("vm", ["true"])
            raise AssertionError("one more was taken")
        except lodge.RpcError as e:
            assert lodge.CODES[e.code] == "RESOURCE_EXHAUSTED" and "112 calls" in e.text, e
        for call in calls:
            call.send(name="vm", request={"stdin_data": b"y\n"})
        for i, s in enumerate(streams):
            assert b"".join(m.stdout_data for m in s) == f"{i} y\n".encode()
        assert c[0].exec("vm", ["true"]).status == 0


def test_signals_are_passed_on(guest):
    with Relay(guest) as r:
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            p = r.popen("exec", "vm", "sh", "-c", f"trap 'echo got; exit 9' {int(sig)}; echo up; while :; do sleep 0.05; done")
            assert p.stdout.readline() == b"up\n"
            p.send_signal(sig)
            assert p.communicate(timeout=DEADLINE_S)[0] == b"got\n" and p.returncode == 9
        p = r.popen("exec", "vm", "sh", "-c", "echo up; exec sleep 2004")
        p.stdout.readline()
        p.terminate()
        assert p.wait(DEADLINE_S) == 128 + 15


def test_a_client_that_is_killed_takes_its_process_along(guest):
    for serve in (False, True):
        with Relay(guest, serve) as r:
            other = r.popen("exec", "-i", "vm", "sh", "-c", "echo up; cat", stdin=subprocess.PIPE)
            assert other.stdout.readline() == b"up\n"
            p = r.popen("exec", "vm", "sh", "-c", "echo up; sleep 2005 & exec sleep 2005")
            assert p.stdout.readline() == b"up\n"
            p.kill()
            p.wait()
            gone(guest, b"sleep 2005")
            assert other.communicate(b"still", timeout=DEADLINE_S)[0] == b"still"
        import shutil
        shutil.rmtree(r.runtime)


def test_giving_up_a_call_on_a_connection_that_goes_on(guest):
    with Relay(guest) as r:
        c = r.client()
        call = c.open("ExecInGuest")
        call.send(name="vm", request={"start": {"argv": ["sleep", "2006"]}})
        messages = iter(call)
        assert next(messages).pid
        messages.close()
        gone(guest, b"sleep 2006")
        assert c.exec("vm", ["true"]).status == 0


def test_who_does_not_read_stops_nobody_else(guest):
    """Five that read nothing of an endless output, and one beside them; then all of theirs comes."""
    for serve in (False, True):
        with Relay(guest, serve) as r:
            slow = [r.popen("exec", "vm", "sh", "-c", "head -c 8000000 /dev/zero; echo end", stderr=None) for _ in range(5)]
            c = r.client()
            begin = time.monotonic()
            while time.monotonic() < begin + 1.5:
                assert c.exec("vm", ["echo", "x"]).stdout == b"x\n"
            data = os.urandom(4 << 20)
            assert c.exec("vm", ["cat"], input=data).stdout == data
            for p in slow:
                out = p.communicate(timeout=DEADLINE_S)[0]
                assert len(out) == 8000004 and out.endswith(b"end\n") and p.returncode == 0
        import shutil
        shutil.rmtree(r.runtime)


def test_who_does_not_read_can_be_signalled(guest):
    with Relay(guest) as r:
        p = r.popen("exec", "vm", "yes")
        time.sleep(0.5)
        p.terminate()  # its output has been full for long
        out = p.communicate(timeout=DEADLINE_S)[0]
        assert p.returncode == 128 + 15 and out


def test_who_sends_too_much_loses_the_call(guest):
    with Relay(guest) as r:
        c = r.client()
        call = c.open("ExecInGuest")
        call.send(name="vm", request={"start": {"argv": ["sleep", "2007"], "open_stdin": True}})
        for _ in range(20):  # more than the pipe and the window
            call.send(name="vm", request={"stdin_data": bytes(32768)})
        try:
            list(call)
            raise AssertionError("all was taken")
        except lodge.RpcError as e:
            assert lodge.CODES[e.code] == "RESOURCE_EXHAUSTED" and "262144" in e.text, e
        gone(guest, b"sleep 2007")
        assert c.exec("vm", ["true"]).status == 0


def test_malformed_calls(guest):
    with Relay(guest) as r:
        c = r.client()
        for code, what, sent in [("INVALID_ARGUMENT", "first message", []),
                                 ("INVALID_ARGUMENT", "`request`", [dict(name="vm")]),
                                 ("NOT_FOUND", "no VM ''", [dict(request={"start": {"argv": ["true"]}})]),
                                 ("INVALID_ARGUMENT", "`start`", [dict(name="vm", request={"stdin_data": b"x"})]),
                                 ("INVALID_ARGUMENT", "`start`", 2 * [dict(name="vm", request={"start": {"argv": ["cat"], "open_stdin": True}})])]:
            call = c.open("ExecInGuest")
            for fields in sent:
                call.send(**fields)
            call.end()
            expect(code, what, list, call)
        expect("INVALID_ARGUMENT", "`path`", list, c.stream("ReadGuestFile", name="vm"))
        assert c.GetGuestFacts(name="vm").cpus


def test_the_agent_goes(guest):
    with Relay(guest, serve=True) as r:
        p = r.popen("exec", "vm", "sh", "-c", "echo up; exec sleep 2008")
        assert p.stdout.readline() == b"up\n"
        guest.process.kill()
        guest.process.wait()
        out, err = p.communicate(timeout=DEADLINE_S)
        assert p.returncode == 125 and b"the agent in the guest has gone" in err, err
        got = r.run("exec", "vm", "true")
        assert got.returncode == 125 and b"the VM has no agent" in got.stderr, got


# ---- terminals ----

def test_terminal_by_itself(guest):
    with Relay(guest) as r:
        with Terminal(r, "exec", "vm", "sh", "-c", "tty; stty size; echo T=$TERM; read x; echo got:$x; exit 4", size=(33, 77)) as t:
            t.shows(b"T=vt100")
            assert b"/dev/pts/" in t.shown and b"33 77" in t.shown
            t.type(b"word\r")
            t.shows(b"got:word")
            t.ends(4)
        with Terminal(r, "exec", "-T", "vm", "tty") as t:
            t.shows(b"not a tty")
            t.ends(1)
        assert b"/dev/pts/" in r.ok("exec", "-t", "vm", "tty")
        assert b"not a tty" in r.run("exec", "vm", "tty").stdout


def test_terminal_keys_and_size(guest):
    with Relay(guest) as r:
        with Terminal(r, "shell", "vm") as t:
            t.type(b"echo shell:$0; sleep 2009\r")
            t.shows(b"shell:-sh")
            until("it sleeps", lambda: running(guest, b"sleep 2009"))
            t.type(b"\x03")
            gone(guest, b"sleep 2009")
            t.type(b"echo a$((1+1))b; pwd\r")
            t.shows(b"a2b\r\n/root")
            t.resize(11, 22)
            t.type(b"stty size\r")
            t.shows(b"11 22")
            t.type(b"exit 5\r")
            t.ends(5)
        assert r.run("shell", "-u", "user", "vm", input=b"id -u; exit 3\n").stdout == b"1000\n"


def test_terminal_is_left(guest):
    with Relay(guest) as r:
        with Terminal(r, "exec", "vm", "sh", "-c", "echo up; cat; sleep 2010") as t:
            t.shows(b"up")
            t.type(b"a~.b\r~~c\r")
            t.shows(b"\na~.b\r\n~c\r\n")
            t.type(b"\r~.")
            t.ends(137)
        gone(guest, b"sleep 2010")
        with Terminal(r, "exec", "vm", "sh", "-c", "echo up; exec sleep 2011") as t:
            t.shows(b"up")
            t.process.terminate()
            t.ends(143)


# ---- cp ----

def tree_of(path):
    """What is there, with modes, times (of links none), contents."""
    found = {}
    for at in [path, *sorted(path.rglob("*"))]:
        st = at.lstat()
        what = at.read_bytes() if at.is_file() and not at.is_symlink() else os.readlink(at) if at.is_symlink() else None
        found[str(at.relative_to(path))] = (stat.S_IFMT(st.st_mode), what,
                                            *(() if at.is_symlink() else (st.st_mode & 0o777, st.st_mtime_ns)))
    return found


def make_tree(path):
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "empty").mkdir(mode=0o711)
    (path / "file").write_bytes(os.urandom(100000))
    (path / "nothing").write_bytes(b"")
    (path / "sub" / "deep" / "tool").write_bytes(b"#!/bin/sh\n")
    (path / "sub" / "deep" / "tool").chmod(0o750)
    (path / "sub" / "na me\n~").write_bytes(b"odd")
    (path / "sub" / "grün").write_bytes(b"x")
    for i in range(700):  # more than one page
        (path / "sub" / f"{i}").write_bytes(b"%d" % i)
    (path / "link").symlink_to("sub/deep")
    (path / "dangling").symlink_to("/nowhere/at all")
    for i, at in enumerate([*path.rglob("*"), path]):
        if not at.is_symlink():
            os.utime(at, ns=(0, 10**18 + i * 10**9 + 123456789))
    (path / "sub" / "deep").chmod(0o555)
    (path / "file").chmod(0o400)


def test_cp_a_large_file_both_ways(guest):
    for serve in (False, True):
        with Relay(guest, serve) as r:
            here, back = guest.dir / "here", guest.dir / "back"
            with open(here, "wb") as f:
                for _ in range(100):
                    f.write(os.urandom(1 << 20))
            here.chmod(0o640)
            os.utime(here, ns=(0, 1234567890123456789))
            begin = time.monotonic()
            assert r.ok("cp", here, "vm:/root/there") == b""
            into = time.monotonic()
            assert r.ok("cp", "vm:/root/there", back) == b""
            print(f"     cp of 100 MiB{' through serve' * serve}: {100 / (into - begin):.0f} MiB/s in, "
                  f"{100 / (time.monotonic() - into):.0f} MiB/s out")
            want = hashlib.sha256(here.read_bytes()).hexdigest()
            assert hashlib.sha256(back.read_bytes()).hexdigest() == want
            assert r.ok("exec", "vm", "busybox", "sha256sum", "/root/there").startswith(want.encode())
            st = back.stat()
            assert (st.st_mode & 0o777, st.st_mtime_ns) == (0o640, 1234567890123456789)
        import shutil
        shutil.rmtree(r.runtime)


def test_cp_places(guest):
    with Relay(guest) as r:
        one, folder = guest.dir / "one", guest.dir / "folder"
        one.write_bytes(b"1")
        folder.mkdir()
        r.ok("cp", one, "vm:/tmp")
        r.ok("cp", one, "vm:tmp/two")
        assert r.ok("exec", "vm", "cat", "/tmp/one", "/tmp/two") == b"11"
        r.ok("cp", "-", "vm:/tmp/three", input=b"3" * 1000000)
        assert r.ok("cp", "vm:/tmp/three", "-") == b"3" * 1000000
        r.ok("cp", "vm:/tmp/one", folder)
        r.ok("cp", "vm:/tmp/two", f"{folder}/")
        r.ok("cp", "vm:/tmp/three", folder / "four")
        assert sorted(os.listdir(folder)) == ["four", "one", "two"]
        r.ok("cp", "vm:/tmp/one", "/dev/null")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        subprocess.run([B / "lodge", "cp", "vm:/tmp/one", "five"], env=r.env(), cwd=folder, check=True)
        assert (folder / "five").read_bytes() == b"1"


def test_cp_trees(guest):
    with Relay(guest) as r:
        here, back = guest.dir / "tree", guest.dir / "back"
        make_tree(here)
        want = tree_of(here)
        assert len(want) > 700
        r.ok("cp", here, "vm:/root/tree")
        r.ok("cp", "vm:/root/tree", back)
        assert tree_of(back) == want
        r.ok("cp", here, "vm:/root")  # into it, over what is there
        back2 = guest.dir / "back2"
        back2.mkdir()
        r.ok("cp", "vm:/root/tree/", back2)
        assert tree_of(back2 / "tree") == want
        back3 = guest.dir / "back3"
        back3.mkdir()
        r.ok("cp", "vm:/root/tree/.", back3)  # what is in it
        assert tree_of(back3) == want


def test_cp_leaves_out_what_is_no_file(guest):
    with Relay(guest) as r:
        here = guest.dir / "odd"
        here.mkdir()
        os.mkfifo(here / "fifo")
        (here / "good").write_bytes(b"x")
        open(os.fsencode(here) + b"/\xff", "wb").close()
        got = r.run("cp", here, "vm:/root/odd")
        assert got.returncode == 1 and b"fifo is no file" in got.stderr and b"not UTF-8" in got.stderr, got
        assert r.ok("exec", "vm", "ls", "-A", "/root/odd") == b"good\n"
        r.ok("exec", "vm", "busybox", "mkfifo", "/root/odd/fifo")
        got = r.run("cp", "vm:/root/odd", guest.dir / "odd2")
        assert got.returncode == 1 and b"fifo is no file" in got.stderr
        assert os.listdir(guest.dir / "odd2") == ["good"]


def test_cp_failures(guest):
    with Relay(guest, serve=True) as r:
        good = guest.dir / "good"
        good.write_bytes(b"x")
        for status, text, argv in [(3, "/no/such: No such file", ["vm:/no/such", "/tmp/x"]),
                                   (1, "/no/such: No such file", ["/no/such", "vm:/tmp"]),
                                   (3, "there is no VM 'no'", ["no:/etc/passwd", "-"]),
                                   (3, "No such file", [good, "vm:/no/such/dir"]),
                                   (1, "/nowhere: No such file", ["vm:/etc/passwd", "/nowhere/x"]),
                                   (2, "neither", ["a", "b"]), (2, "only one side", ["a:b", "c:d"]),
                                   (2, "SOURCE and DEST", ["a:b"]),
                                   (1, "not a regular file", ["vm:/dev/zero", guest.dir / "z"])]:
            got = r.run("cp", *argv)
            assert got.returncode == status and text in got.stderr.decode(), (status, text, got)
        assert not (guest.dir / "z").exists()


def test_cp_that_is_broken_leaves_the_old_file(guest):
    with Relay(guest) as r:
        r.ok("cp", "-", "vm:/root/file", input=b"old")
        p = r.popen("cp", "-", "vm:/root/file", stdin=subprocess.PIPE)
        p.stdin.write(bytes(1 << 20))
        p.stdin.flush()
        until("it is being written", lambda: b"deleted" in r.ok("exec", "vm", "sh", "-c", "ls -l /proc/[0-9]*/fd 2>/dev/null; true"))
        p.kill()
        p.wait()
        until("it is given up", lambda: b"(deleted)" not in r.ok("exec", "vm", "sh", "-c", "ls -l /proc/[0-9]*/fd 2>/dev/null; true"))
        assert r.ok("exec", "vm", "cat", "/root/file") == b"old"
        assert r.ok("exec", "vm", "ls", "-A", "/root") == b"file\n"
        # out of the guest: its disk is full, for instance
        folder = guest.dir / "small"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", folder], check=True)
        try:
            (folder / "file").write_bytes(b"old")
            r.ok("cp", "-", "vm:/root/big", input=bytes(3 << 20))
            got = r.run("cp", "vm:/root/big", folder / "file")
            assert got.returncode == 1 and b"No space left" in got.stderr, got
            assert os.listdir(folder) == ["file"] and (folder / "file").read_bytes() == b"old"
        finally:
            subprocess.run(["umount", folder], check=True)


def test_cp_shows_how_far_it_is(guest):
    with Relay(guest) as r:
        r.ok("exec", "vm", "sh", "-c", "head -c 150000000 /dev/zero >/root/big")
        with Terminal(r, "cp", "vm:/root/big", guest.dir / "big") as t:
            def slowly():  # what is over within a quarter of a second shows nothing
                r.processes[0].send_signal(signal.SIGSTOP)
                time.sleep(0.05)
                r.processes[0].send_signal(signal.SIGCONT)
                return t.read(b" of 143 MiB")

            until("it tells how far it is", slowly)
            assert b"cp: " in t.shown, t.shown
            t.ends(0)


# ---- the rest ----

def test_facts(guest):
    with Relay(guest, serve=True) as r:
        text = r.ok("guest", "vm").decode()
        assert "system:    Test Guest 1" in text and "eth0" in text and f"kernel:    {os.uname().release}" in text, text
        import json
        facts = json.loads(r.ok("guest", "facts", "vm", "--json"))
        assert facts["hostname"] == "guest" and facts["cpus"] == os.cpu_count()
        assert r.run("guest", "no").returncode == 3


def test_mounts(guest):
    device, _ = guest.disk()
    with Relay(guest, serve=True) as r:
        got = r.run("guest", "mount", "vm", device, "/mnt/new")
        assert got.returncode == 1 and device.encode() in got.stderr, got
        r.ok("guest", "mount", "vm", "none", "/mnt/new", "--fstype", "tmpfs", "--data", "size=1M")
        assert b"size=1024k" in r.ok("exec", "vm", "busybox", "grep", "/mnt/new", "/proc/mounts")
        r.ok("guest", "umount", "vm", "/mnt/new")
        got = r.run("guest", "umount", "vm", "/mnt/new")
        assert got.returncode == 1 and b"/mnt/new" in got.stderr, got


# ---- agents that lie ----

class Liar:
    """An agent whose every request goes to handler(send, stream, method, payload): send(stream, type, flags, data)."""

    def __init__(self, guest, handler):
        self.socket = str(guest.dir / "liar.sock")
        self.handler = handler
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        conn = lodge.Lodge(sock=sock)
        while True:
            try:
                stream, kind, _, data = conn.receive_frame()
                if kind == lodge.REQUEST:
                    request = lodge.message("ttrpc.Request").FromString(data)
                    self.handler(conn.send_frame, stream, request.method, request.payload)
            except OSError:
                return


def response(code=0, text="", payload=b""):
    return lodge.message("ttrpc.Response")(status={"code": code, "message": text}, payload=payload).SerializeToString()


def test_an_agent_that_answers_nonsense(guest):
    out = lodge.message("lodge.agent.v1.ExecResponse")(stdout_data=b"x").SerializeToString()

    def handler(send, stream, method, payload):
        send(stream + 1000, lodge.DATA, 0, out)  # of no call
        send(stream + 2, lodge.RESPONSE, 0, response())
        if method == "GetFacts":
            send(stream, lodge.RESPONSE, 0, response(99, "a\x1b[2Jb\u009bc" + "x" * 5000))
        elif method == "Mount":
            send(stream, lodge.DATA, 0, out)
        elif method == "SetTime":
            send(stream, lodge.RESPONSE, 0, response(payload=b"\xff\xff"))
        elif method == "Exec":
            send(stream, lodge.RESPONSE, 0, response(payload=out))
        elif method == "ReadFile":
            send(stream, lodge.DATA, 0, b"\x07garbage")
        elif method == "Unmount":
            send(stream, lodge.RESPONSE, 0, b"\x07garbage")

    guest.socket, own = Liar(guest, handler).socket, guest.socket
    try:
        with Relay(guest) as r:
            c = r.client()
            text = expect("UNKNOWN", "a?[2Jb", c.GetGuestFacts, name="vm")
            assert text.isascii() and len(text) <= 600
            expect("INTERNAL", "streams", c.MountInGuest, name="vm")
            expect("INTERNAL", "", c.SetGuestTime, name="vm")
            expect("INTERNAL", "no proper answer", c.exec, "vm", ["true"])
            expect("INTERNAL", "", c.read_file, "vm", "/x")
            expect("INTERNAL", "", c.UnmountInGuest, name="vm")
            got = r.run("guest", "vm")
            assert got.returncode == 1 and b"\x1b" not in got.stderr and b"\xc2\x9b" not in got.stderr
    finally:
        guest.socket = own


def test_an_agent_that_floods(guest):
    """A call whose client reads nothing ends; the process takes no more memory than the windows; others go on."""
    piece = lodge.message("lodge.agent.v1.ExecResponse")(stdout_data=bytes(32768)).SerializeToString()
    big = lodge.message("lodge.agent.v1.ExecResponse")(stdout_data=bytes(1 << 20)).SerializeToString()
    done = lodge.message("lodge.agent.v1.ExecResponse")(exited={"status": 3}).SerializeToString()

    def handler(send, stream, method, payload):
        if method == "GetFacts":
            send(stream, lodge.RESPONSE, 0, response())
        elif len(flooded) == 0:
            flooded.append(stream)
            for _ in range(3000):
                send(stream, lodge.DATA, 0, piece)
        elif len(flooded) == 1:
            flooded.append(stream)
            send(stream, lodge.DATA, 0, big)
        else:
            send(stream, lodge.DATA, lodge.REMOTE_CLOSED, done)

    flooded = []
    guest.socket, own = Liar(guest, handler).socket, guest.socket
    try:
        with Relay(guest) as r:
            def peak():
                status = pathlib.Path(f"/proc/{r.processes[0].pid}/status").read_text()
                return int(status.split("VmHWM:")[1].split()[0])
            c, other = r.client(), r.client()
            other.GetGuestFacts(name="vm")
            before = peak()
            call = c.open("ExecInGuest")
            call.send(name="vm", request={"start": {"argv": ["x"]}})
            until("it floods", lambda: flooded)
            other.GetGuestFacts(name="vm")  # behind all of it
            expect("INTERNAL", "more than it was asked for", list, call)
            if B.name == "build":
                assert peak() - before < 8 << 10, (before, peak())
            expect("INTERNAL", "more than it was asked for", other.exec, "vm", ["x"])
            assert other.exec("vm", ["x"]).status == 3
    finally:
        guest.socket = own


def test_an_agent_that_reads_late_and_goes(guest):
    """Input stays within its bounds and is not lost; the calls end when the agent goes."""
    listener = socket.socket(socket.AF_UNIX)
    path = str(guest.dir / "deaf.sock")
    listener.bind(path)
    listener.listen()
    guest.socket, own = path, guest.socket
    try:
        with Relay(guest) as r:
            clients = [r.client() for _ in range(20)]
            calls = [c.open("ExecInGuest") for c in clients]
            for call in calls:
                call.send(name="vm", request={"start": {"argv": ["cat"], "open_stdin": True}})
                for _ in range(8):
                    call.send(name="vm", request={"stdin_data": bytes(32768)})
            calls[0].send(name="vm", request={"stdin_data": b"x"})
            expect("RESOURCE_EXHAUSTED", "262144", list, calls[0])
            agent, _ = listener.accept()
            agent.settimeout(DEADLINE_S)
            conn, got = lodge.Lodge(sock=agent), {}
            while sum(got.values()) < 19 * WINDOW:  # what waited comes, of each call in its order
                stream, kind, flags, data = conn.receive_frame()
                if kind == lodge.DATA and not flags & lodge.NO_DATA:
                    got[stream] = got.get(stream, 0) + len(pb.ExecRequest.FromString(data).stdin_data)
            assert max(got.values()) == WINDOW
            agent.close()
            for call in calls[1:]:
                expect("UNAVAILABLE", "has gone", list, call)
    finally:
        guest.socket = own
