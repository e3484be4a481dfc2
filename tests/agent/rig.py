"""An agent under test, in namespaces of its own (tests/agent/guest), and a client of it. For tests/agent/test_*.py."""

import importlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TOP / "clients" / "python"))
import lodge  # noqa: E402

B = pathlib.Path(os.environ.get("B", TOP / "build")).resolve()
# AGENT: another one than that of the build, the guests' own for instance (build/lodge-agent)
AGENT = pathlib.Path(os.environ.get("AGENT", B / "tests" / "agent" / "lodge-agent")).resolve()
DEADLINE_S = 60
WINDOW = 256 << 10

_generated = tempfile.mkdtemp(prefix="lodge-agent-proto-")
subprocess.run(["protoc", f"--python_out={_generated}", "proto/agent.proto"], cwd=TOP, check=True)
sys.path.insert(0, _generated)
pb = importlib.import_module("proto.agent_pb2")
shutil.rmtree(_generated)


class Skip(Exception):
    pass


def until(what, condition, deadline_s=DEADLINE_S):
    """Waits for a condition; its first true value is the result."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Client(lodge.Lodge):
    """Calls of the agent: Mount(source=...) and so on; exec() for processes."""

    SERVICE = "lodge.agent.v1.Agent"

    def __init__(self, path):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE_S)
        sock.connect(path)
        super().__init__(sock=sock)
        self.ended = set()

    def _pump(self):
        got, kind, flags, data = self.receive_frame()
        if kind == lodge.RESPONSE:
            self._replies[got] = lodge.message("ttrpc.Response").FromString(data)
        elif kind == lodge.DATA:
            if not flags & lodge.NO_DATA:
                self._messages.setdefault(got, []).append(data)
            if flags & lodge.REMOTE_CLOSED:
                self.ended.add(got)

    def begin(self, method, timeout_ns=0, **fields):
        request = getattr(pb, method + "Request")(**fields)
        return self.start(self.SERVICE, method, request.SerializeToString(), timeout_ns)

    def finish(self, method, stream):
        return getattr(pb, method + "Response").FromString(self.wait(stream))

    def call(self, method, timeout_ns=0, **fields):
        return self.finish(method, self.begin(method, timeout_ns, **fields))

    def __getattr__(self, name):
        if name.startswith("_") or not hasattr(pb, name + "Request"):
            raise AttributeError(name)
        return lambda **fields: self.call(name, **fields)

    def duplex(self, method):
        return Duplex(self, method, self.start(self.SERVICE, method, b"", flags=lodge.REMOTE_OPEN))

    def messages(self, method, **fields):
        """A server stream, to its end."""
        stream = self.start(self.SERVICE, method, getattr(pb, method + "Request")(**fields).SerializeToString(),
                            flags=lodge.REMOTE_CLOSED)
        yield from Duplex(self, method, stream)

    def exec(self, *argv, stdin=None, **start):
        """Runs a program to its end: an Outcome."""
        process = Process(self, argv, open_stdin=stdin is not None, **start)
        if stdin is not None:
            process.feed(stdin)
        return process.outcome()

    def sh(self, script, **start):
        return self.exec("sh", "-c", script, **start)

    def write_file(self, data, **fields):
        d = self.duplex("WriteFile")
        d.send(open=pb.WriteFileOpen(**fields))
        ahead = 0
        for at in range(0, len(data), 32768):
            piece = data[at:at + 32768]
            while ahead + len(piece) > WINDOW:
                ahead -= d.next().taken_bytes
            d.send(data=piece)
            ahead += len(piece)
        d.end()
        return list(d)

    def read_file(self, path):
        messages = list(self.messages("ReadFile", path=path))
        return messages[0].attributes, b"".join(m.data for m in messages)


class Duplex:
    """One stream: send() messages, next() is the next that comes, None at the end."""

    def __init__(self, client, method, stream):
        self.client, self.method, self.id = client, method, stream

    def send(self, **fields):
        data = getattr(pb, self.method + "Request")(**fields).SerializeToString()
        self.client.send_frame(self.id, lodge.DATA, 0, data)

    def end(self):
        self.client.send_frame(self.id, lodge.DATA, lodge.REMOTE_CLOSED | lodge.NO_DATA, b"")

    def next(self):
        c = self.client
        while True:
            if c._messages.get(self.id):
                return getattr(pb, self.method + "Response").FromString(c._messages[self.id].pop(0))
            if self.id in c.ended:
                return None
            if self.id in c._replies:
                c.wait(self.id)
                return None
            c._pump()

    def __iter__(self):
        while (message := self.next()) is not None:
            yield message


class Outcome:
    def __init__(self):
        self.pid = 0
        self.out, self.err = bytearray(), bytearray()
        self.exited = None

    def take(self, m):
        self.pid = m.pid or self.pid
        self.out += m.stdout_data
        self.err += m.stderr_data
        if m.HasField("exited"):
            assert self.exited is None
            self.exited = m.exited

    @property
    def status(self):
        return -self.exited.signal if self.exited.signal else self.exited.status


class Process(Duplex):
    def __init__(self, client, argv, **start):
        stream = client.start(client.SERVICE, "Exec", b"", flags=lodge.REMOTE_OPEN)
        super().__init__(client, "Exec", stream)
        self.got = Outcome()
        self.ahead = 0
        self.send(start=pb.ExecStart(argv=argv, **start))

    def step(self):
        message = self.next()
        if message is not None:
            self.ahead -= message.stdin_taken_bytes
            self.got.take(message)
        return message

    def started(self):
        while not self.got.pid:
            assert self.step() is not None
        return self.got.pid

    def feed(self, data):
        """All of it, in the window, and the end."""
        for at in range(0, len(data), 32768):
            piece = data[at:at + 32768]
            while self.ahead + len(piece) > WINDOW:
                assert self.step() is not None, "it ended"
            self.send(stdin_data=piece)
            self.ahead += len(piece)
        self.send(stdin_end=True)

    def until_output(self, text):
        while text not in self.got.out:
            assert self.step() is not None, self.got.out
        return self.got.out

    def outcome(self):
        while self.step() is not None:
            pass
        return self.got


class Guest:
    """The agent in its namespaces; is gone, with everything in it, at the end of `with`."""

    def __init__(self, init="busybox", token=""):
        self.token = token
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lodge-agent-", dir="/tmp"))
        self.dir.chmod(0o755)
        self.socket = str(self.dir / "agent.sock")
        self.init = init
        self.clients = []
        self.loops = []
        self.process = None

    def __enter__(self):
        with open(self.dir / "setup", "wb") as log:
            self.process = subprocess.Popen([HERE / "guest", self.dir, AGENT, self.init], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            env=os.environ | {"LODGE_AGENT_TOKEN": self.token})
        until("the agent listens", self.listens)
        return self

    def listens(self):
        assert self.process.poll() is None, (self.dir / "setup").read_text() + self.said()
        try:
            self.client().Authenticate(token=self.token)
            return True
        except OSError:
            return False

    def said(self):
        log = self.dir / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def client(self):
        client = Client(self.socket)
        self.clients.append(client)
        return client

    def disk(self, size=64 << 20):
        """A blank disk: its name in the guest, and its file."""
        file = self.dir / f"disk{len(self.loops)}"
        with open(file, "wb") as f:
            f.truncate(size)
        device = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True,
                                text=True).stdout.strip()
        self.loops.append(device)
        return device, file

    def wait(self):
        """How it ended by itself: the status of unshare(1)."""
        return self.process.wait(DEADLINE_S)

    def __exit__(self, kind, *_):
        try:
            for client in self.clients:
                client.close()
            if self.process.poll() is None:
                self.process.kill()  # and with it, all that is in its namespaces
                self.process.wait()
            if kind is None:
                said = self.said()
                assert "Sanitizer" not in said and "Assertion" not in said and "runtime error" not in said, said
        finally:
            for device in self.loops:
                until("the disk is free", lambda: subprocess.run(["losetup", "-d", device]).returncode == 0)
            shutil.rmtree(self.dir)


def expect(code, what, call, *args, **fields):
    """The call fails with the code, and says `what`."""
    try:
        call(*args, **fields)
    except lodge.RpcError as e:
        assert lodge.CODES[e.code] == code, e
        assert what in e.text, e
        return e.text
    raise AssertionError(f"no {code}")
