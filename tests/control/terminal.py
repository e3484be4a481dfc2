"""A command of lodge on a terminal of its own."""

import os
import select
import subprocess
import termios
import time

from rig import B, DEADLINE_S


class Terminal:
    def __init__(self, socket, *args):
        self.terminal, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (24, 100)) if hasattr(termios, "tcsetwinsize") else None
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""
        self.process = subprocess.Popen(["setsid", "--ctty", B / "lodge", *args], stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, env={**os.environ, "LODGE_SOCKET": socket})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        os.close(self.slave)

    def until(self, what, condition):
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"{what} did not come; shown: {self.shown!r}"
            if select.select([self.terminal], [], [], 0.01)[0]:
                self.shown += os.read(self.terminal, 4096)

    def shows(self, text):
        self.until(text, lambda: text in self.shown)

    def type(self, keys):
        os.write(self.terminal, keys)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def ends(self, status):
        self.until("the end", lambda: self.process.poll() is not None)
        assert self.process.returncode == status, (self.process.returncode, self.shown)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was"
