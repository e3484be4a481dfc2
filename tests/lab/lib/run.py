#!/usr/bin/python3
"""Starts QEMU with the lab's host and talks to the agent in it.

  run.py run [options] -- QEMU...       runs the job; exit status is the command's; with --restore F,
                                        in the state that F holds
  run.py snapshot --file F -- QEMU...   boots until the agent waits, and saves that state to F

The QEMU command line comes complete but for the descriptors made here: the agent's port, the
monitor and the console.  QEMU gets SIGKILL when this process dies, however it dies, and everything
it uses here is a socket or an unlinked file; so nothing is ever left behind.

Exit status: the command's; 124 after the time limit; 125 when the lab failed; 128+n after signal n.
"""
import argparse
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty

import wire

CONSOLE_TAIL_LINES = 25
SNAPSHOT_TIMEOUT_S = 300
# A restored or booting host that says nothing for so long is dead.
START_TIMEOUT_S = 180


class LabError(Exception):
    """The lab itself failed."""


class RestoreError(Exception):
    """The saved host cannot be used."""


class Stopped(Exception):
    """A signal asks this process to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def say(message):
    sys.stderr.write(f"lab: {message}\n")
    sys.stderr.flush()


def write_all(fd, data):
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:  # a non-blocking descriptor that we were handed
            select.select([], [fd], [])


class Qemu:
    """One QEMU process; `port` is the agent's, `monitor` speaks QMP, `console` is a file."""

    def __init__(self, argv, restore=None):
        self.port, port = socket.socketpair()
        self.monitor, monitor = socket.socketpair()
        self.console = tempfile.TemporaryFile()
        # QEMU takes from a set only a descriptor with the access mode that it wants.
        console = os.open(f"/proc/self/fd/{self.console.fileno()}", os.O_WRONLY)
        fds = (port.fileno(), monitor.fileno(), console)
        for fd in fds:
            os.set_inheritable(fd, True)
        argv = argv + [
            "-chardev", f"socket,id=port,fd={fds[0]}",
            "-device", "virtserialport,chardev=port,name=lab,nr=1",
            "-chardev", f"socket,id=qmp,fd={fds[1]}", "-mon", "chardev=qmp,mode=control",
            "-add-fd", f"fd={fds[2]},set=9", "-chardev", "file,id=console,path=/dev/fdset/9",
            "-serial", "chardev:console",
        ]
        if restore is not None:
            argv += ["-incoming", f"exec:cat '{restore}'"]
        # A session of its own: the terminal's signals are for us, who end QEMU in order.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            close_fds=False, start_new_session=True)
        port.close()
        monitor.close()
        os.close(console)
        self.replies = None

    def command(self, name, **arguments):
        """One QMP command; returns its result."""
        if self.replies is None:
            self.replies = self.monitor.makefile("r", encoding="utf-8")
            self.replies.readline()
            self.command("qmp_capabilities")
        self.monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while line := self.replies.readline():
            reply = json.loads(line)
            if "error" in reply:
                raise LabError(f"QEMU refuses {name}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise LabError(self.death())

    def resume_restored(self):
        """Waits until the saved state is loaded, and lets it run."""
        try:
            while (status := self.command("query-status")["status"]) == "inmigrate":
                time.sleep(0.005)
            if status != "paused":
                raise LabError(f"QEMU's state is {status}")
            self.command("cont")
        except (LabError, OSError) as error:
            raise RestoreError(str(error)) from error

    def death(self):
        """Why QEMU ended, in one line."""
        try:
            _, errors = self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            return "QEMU closed its connections"
        reason = errors.decode(errors="replace").strip().splitlines()
        return (f"the lab's host ended before the command did (QEMU status {self.process.returncode}"
                + (f": {reason[-1]}" if reason else "") + ")")

    def console_text(self):
        return os.pread(self.console.fileno(), 1 << 24, 0)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Terminal:
    """Our terminal in raw mode, and the escape `~.` at the start of a line, as in ssh."""

    def __init__(self):
        self.saved = termios.tcgetattr(0)
        self.at_line_start = True
        self.tilde = False

    def __enter__(self):
        tty.setraw(0)
        return self

    def __exit__(self, *_):
        termios.tcsetattr(0, termios.TCSADRAIN, self.saved)

    @staticmethod
    def size():
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
        return {"rows": rows, "cols": cols}

    def filter(self, data):
        """What of the typed bytes goes to the command."""
        passed = bytearray()
        for byte in data:
            if self.tilde:
                self.tilde = False
                if byte == ord("."):
                    raise Stopped(signal.SIGHUP)
                passed.append(ord("~"))
                if byte == ord("~"):
                    self.at_line_start = False
                    continue
            elif self.at_line_start and byte == ord("~"):
                self.tilde = True
                continue
            passed.append(byte)
            self.at_line_start = byte in b"\r\n"
        return bytes(passed)


class Run:
    """One run of the job in a started QEMU."""

    def __init__(self, qemu, options, restored):
        self.qemu = qemu
        self.options = options
        self.restored = restored
        self.decoder = wire.Decoder()
        self.terminal = None
        self.files = None
        self.status = None
        # Until the command is started, the shorter limit of a host that does not come up.
        self.silent_until = time.monotonic() + START_TIMEOUT_S
        self.deadline = time.monotonic() + options.timeout if options.timeout else None

    def send(self, kind, data=b""):
        try:
            self.qemu.port.sendall(wire.pack(kind, data))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise  # else: the end of the port is seen when reading

    def send_go(self):
        go = {"time_ns": time.time_ns(), "entropy": os.urandom(32).hex()}
        self.send(b"G", json.dumps(go).encode())

    def on_frame(self, kind, data):
        if kind in (b"1", b"2"):
            write_all(1 if kind == b"1" else 2, data)
        elif kind == b"F":
            if self.files is None:
                os.makedirs(self.options.out, exist_ok=True)
                self.files = subprocess.Popen(
                    ["tar", "-C", self.options.out, "--no-same-owner", "-xf", "-"], stdin=subprocess.PIPE)
            self.files.stdin.write(data)
        elif kind == b"X":
            self.status = json.loads(data)["status"]
        elif kind == b"S":
            self.silent_until = None
        elif kind == b"H" and not self.restored:
            self.send_go()

    def wait_time(self):
        now = time.monotonic()
        if self.silent_until is not None and now >= self.silent_until:
            error = RestoreError if self.restored else LabError
            raise error(f"the lab's host does not come up in {START_TIMEOUT_S} s")
        if self.deadline is not None and now >= self.deadline:
            raise TimeoutError
        limits = [limit - now for limit in (self.silent_until, self.deadline) if limit is not None]
        return min(limits) if limits else None

    def on_stdin(self):
        data = os.read(0, wire.CHUNK_BYTES)
        if data and self.terminal:
            data = self.terminal.filter(data)
            if not data:
                return True
        self.send(b"0", data)
        return bool(data)

    def loop(self, wakeup):
        stdin_open = not self.options.no_stdin
        port = self.qemu.port.fileno()
        if self.restored:
            self.qemu.resume_restored()
            self.send_go()
        while self.status is None:
            # Input is taken only when the command is there, so that another host can be tried before.
            started = self.silent_until is None
            readable, _, _ = select.select(
                [port, wakeup] + ([0] if stdin_open and started else []), [], [], self.wait_time())
            if wakeup in readable:
                os.read(wakeup, 4096)
                if self.terminal:
                    self.send(b"W", json.dumps(self.terminal.size()).encode())
            if port in readable:
                try:
                    data = os.read(port, 1 << 18)
                except ConnectionResetError:
                    data = b""
                if not data:
                    error = RestoreError if self.restored and not started else LabError
                    raise error(self.qemu.death())
                for kind, payload in self.decoder.feed(data):
                    self.on_frame(kind, payload)
            if 0 in readable:
                stdin_open = self.on_stdin()

    def run(self):
        wakeup_r, wakeup_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        if self.options.terminal:
            with Terminal() as self.terminal:
                self.loop(wakeup_r)
        else:
            self.loop(wakeup_r)
        if self.files is not None:
            self.files.stdin.close()
            if self.files.wait() != 0:
                raise LabError(f"cannot unpack the command's files into {self.options.out}")
        return self.status


def save_console(qemu, options):
    """After a failure of the lab: the console of its host, in the out directory and its end here."""
    text = qemu.console_text()
    try:
        os.makedirs(options.out, exist_ok=True)
        path = os.path.join(options.out, "lab-console.log")
        with open(path, "wb") as file:
            file.write(text)
        say(f"console of the lab's host: {path}; it ends with")
    except OSError as error:
        say(f"cannot write into {options.out}: {error.strerror}; the lab's console ends with")
    for line in text.decode(errors="replace").splitlines()[-CONSOLE_TAIL_LINES:]:
        sys.stderr.write(f"  | {line}\n")


def discard(snapshot_dir):
    """Removes a saved host that cannot be used; others that read it have its file open."""
    doomed = os.path.join(os.path.dirname(snapshot_dir), f".tmp.snapshot.{os.getpid()}")
    try:
        os.rename(snapshot_dir, doomed)
        shutil.rmtree(doomed)
    except OSError:
        pass  # another run was faster


def run(options, argv):
    """Runs the job in the saved host, and in one that boots when that cannot be used."""
    if options.restore is not None:
        try:
            return run_once(options, argv, options.restore)
        except RestoreError as error:
            say(f"the saved host cannot be used ({error}); booting instead")
            discard(os.path.dirname(options.restore))
    return run_once(options, argv)


def run_once(options, argv, restore=None):
    qemu = Qemu(argv, restore)
    try:
        return Run(qemu, options, restore is not None).run()
    except TimeoutError:
        say(f"time limit of {options.timeout} s reached (--timeout) by: {options.name}")
        save_console(qemu, options)
        return 124
    except BrokenPipeError:  # nobody reads our output any more
        return 128 + signal.SIGPIPE
    except LabError as error:
        say(f"error: {error}")
        save_console(qemu, options)
        return 125
    finally:
        qemu.kill()


def snapshot(options, argv):
    """Boots and saves; the file appears only when it is whole (the caller renames its directory)."""
    qemu = Qemu(argv)
    try:
        qemu.port.settimeout(START_TIMEOUT_S)
        decoder = wire.Decoder()
        hello = False
        while not hello:
            data = qemu.port.recv(4096)
            if not data:
                raise LabError(qemu.death())
            hello = any(kind == b"H" for kind, _ in decoder.feed(data))
        qemu.monitor.settimeout(SNAPSHOT_TIMEOUT_S)
        qemu.command("stop")
        qemu.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        qemu.command("migrate", uri=f"exec:cat > '{options.file}'")
        while (state := qemu.command("query-migrate")["status"]) != "completed":
            if state in ("failed", "cancelled"):
                raise LabError(f"QEMU cannot save its state: migration {state}")
            time.sleep(0.05)
        return 0
    except TimeoutError:
        say("error: the lab's host does not come up; its console ends with")
        save_console(qemu, options)
        return 125
    except LabError as error:
        say(f"error: {error}")
        save_console(qemu, options)
        return 125
    finally:
        qemu.kill()


def stop(number, _frame):
    raise Stopped(number)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("run", "snapshot"))
    parser.add_argument("--file")
    parser.add_argument("--name", default="")
    parser.add_argument("--out", default="build/lab/out")
    parser.add_argument("--timeout", type=int, default=0)
    parser.add_argument("--restore")
    parser.add_argument("--terminal", action="store_true")
    parser.add_argument("--no-stdin", action="store_true")
    separator = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:separator])
    argv = sys.argv[separator + 1:]

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        return run(options, argv) if options.verb == "run" else snapshot(options, argv)
    except Stopped as stopped:
        say(f"stopped by {signal.Signals(stopped.number).name}: {options.name}")
        return 128 + stopped.number


if __name__ == "__main__":
    sys.exit(main())
