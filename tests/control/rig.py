"""A server under test in a folder of its own, with VMs that are payloads. For tests/control/test_*.py."""

import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "clients" / "python"))
import lodge  # noqa: E402

B = pathlib.Path(os.environ.get("B", TOP / "build")).resolve()
SANITIZED = B.name in ("asan", "tsan")
DEADLINE_S = 30
ID = "0123456789abcdef"


class Skip(Exception):
    pass


def payload_file(name):
    """Of guest/payload/, in the form that this machine's kernels have."""
    return B / "payload" / f"{name}.{'Image' if os.uname().machine == 'aarch64' else 'elf'}"


def need_triple_fault():
    if not payload_file("triple-fault").exists():
        raise Skip("a triple fault is an x86 processor's")


def have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def need_kvm():
    if not have_kvm():
        raise Skip("/dev/kvm cannot be opened")


def until(what, condition):
    """Waits for a condition; its first true value is the result."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


METHODS = list(lodge.METHODS)


def as_user(uid, gid, groups, function):
    """What the function returns (or raises) in a process of another user."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(out)
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.write(into, pickle.dumps(function()))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(into)
    with open(out, "rb") as f:
        data = f.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"it failed as user {uid}"
    return pickle.loads(data)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """One `lodge vmm` or `lodge serve`; ends, and must leave nothing, at the end of `with`."""
    before = []  # what runs it

    def __init__(self, kind, *args):
        self.kind = kind
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lodge-", dir="/tmp"))
        self.socket = str(self.dir / "sock")
        self.runtime = self.dir / "run"
        self.storage = self.dir / "storage"
        self.args = list(args)
        self.process = None
        self.clients = []
        self.rootfs = str(self.disk("root.img"))
        self.runtime.mkdir()
        self.vms = set()
        for place in ("root/%s/crosvm", "user/%s/Downloads"):
            (self.storage / "home" / (place % ID)).mkdir(parents=True)

    def __enter__(self):
        self.begin()
        return self

    def begin(self):
        where = ["--storage-root", str(self.storage)]
        if self.kind == "serve":
            where += ["--runtime-dir", str(self.runtime)]
        self.log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen([*self.before, B / "lodge", self.kind, "--socket", self.socket, *where, *self.args],
                                        stderr=self.log, stdin=subprocess.DEVNULL)
        until("the server answers", self.answers)

    def answers(self):
        assert self.process.poll() is None, f"exit status {self.process.returncode}: {self.said()}"
        try:  # a call: the socket of a server that was killed may take connections for a moment
            with self.client() as c:
                c.GetVmInfo(name="nobody")
            return True
        except OSError:
            return False

    def said(self):
        return (self.dir / "log").read_text(errors="replace")

    def client(self):
        client = lodge.Lodge(self.socket, timeout=DEADLINE_S)
        self.clients.append(client)
        return client

    def disk(self, name, size=1 << 20):
        path = self.dir / name
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def spec(self, payload="button", **fields):
        """Fields of a StartVm that boots a payload."""
        vm = dict(kernel=str(payload_file(payload)), rootfs=self.rootfs, no_initramfs=True)
        vm.update(fields.pop("vm", {}))
        return dict(vm=vm, memory_bytes=64 << 20, **fields)

    def start(self, client, name, payload="button", **fields):
        reply = client.StartVm(name=name, **self.spec(payload, **fields))
        assert reply.success, reply.failure_reason
        assert alive(reply.vm_info.pid)
        self.vms.add(reply.vm_info.pid)
        return reply.vm_info

    def end(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        status = self.process.wait(DEADLINE_S)
        self.log.close()
        return status

    def stop_vms(self):
        """At once: a payload that does not look at the power button would be waited for."""
        if self.process.poll() is None and any(map(alive, self.vms)):
            try:
                with lodge.Lodge(self.socket, timeout=DEADLINE_S) as c:
                    c.StopAllVms(force=True)
            except OSError:
                assert self.kind == "vmm", "the server is gone"  # which ends with its guest

    def __exit__(self, kind, *_):
        try:
            for client in self.clients:
                client.close()
            if kind is None:
                self.stop_vms()
            status = self.end()
            if kind is None:
                said = self.said()
                assert "Sanitizer" not in said and "Assertion" not in said, said
                assert status in (0, 3, 4, 5) or -status in (9,), f"exit status {status}: {said}"
                assert not os.path.exists(self.socket) or status == -9, "the socket is left"
                assert not any(map(alive, self.vms)), "a VM is left"
                assert not list(self.runtime.glob("vm.*")), "a runtime directory is left"
        finally:
            for pid in self.vms:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.dir)


def expect_rpc_error(code, call, *args, **fields):
    try:
        call(*args, **fields)
    except lodge.RpcError as e:
        assert lodge.CODES[e.code] == code, e
        assert e.text
        return
    raise AssertionError(f"no {code}")
