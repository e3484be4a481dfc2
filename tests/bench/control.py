"""The control plane's figures: `lodge serve` on this host, with VMs that are payloads.

The client is a few lines over a socket with frames made beforehand, so that what is measured is the server. Each figure has
a limit that it must meet; section() gives both, so that the ratio says by how much.
"""
import os
import pathlib
import resource
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "clients" / "python"))
import lodge  # noqa: E402

VMS, CONNECTIONS, CALLS = 100, 1000, 20000


class Server:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lodge-"))
        self.socket = str(self.dir / "sock")
        with open(self.dir / "root.img", "wb") as f:
            f.truncate(1 << 20)

    def __enter__(self):
        self.began = time.monotonic()
        self.process = subprocess.Popen([TOP / "build/lodge", "serve", "--socket", self.socket, "--runtime-dir",
                                         self.dir / "run"])
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir)

    def first_answer_s(self):
        """From exec to the first answer."""
        while True:
            try:
                with self.client() as c:
                    c.GetVmInfo(name="nobody")
                return time.monotonic() - self.began
            except OSError:
                time.sleep(0.0001)

    def client(self):
        return lodge.Lodge(self.socket)

    def spec(self, name):
        return dict(name=name, memory_bytes=64 << 20,
                    vm=dict(kernel=str(TOP / "build/payload/button.elf"), rootfs=str(self.dir / "root.img"), no_initramfs=True))

    def pss_bytes(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Pss:")) * 1024


def frame(stream, name):
    """A GetVmInfo."""
    request = lodge.message("ttrpc.Request")(service="vm_tools.concierge.VmConcierge", method="GetVmInfo",
                                            payload=lodge.METHODS["GetVmInfo"][1](name=name).SerializeToString())
    data = request.SerializeToString()
    return struct.pack(">IIBB", len(data), stream, lodge.REQUEST, 0) + data


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s


def info_us(path, n):
    """Median of one GetVmInfo after the other."""
    s, took = connect(path), []
    frames = [frame(2 * i + 1, "vm50") for i in range(n)]
    for data in frames:
        began = time.perf_counter()
        s.send(data)
        s.recv(4096)
        took.append(time.perf_counter() - began)
    s.close()
    return statistics.median(took) * 1e6


def calls_per_s(path, n):
    """16 connections, 16 calls under way on each; answers are all of one size."""
    socks = [connect(path) for _ in range(16)]
    frames = [frame(2 * i + 1, "vm50") for i in range(n // 16)]
    probe = connect(path)
    probe.send(frames[0])
    size = len(probe.recv(4096))
    probe.close()
    assert size > 50, "that is no VM's info"
    sent, got = dict.fromkeys(socks, 0), dict.fromkeys(socks, 0)

    def send(s, k):
        s.sendall(b"".join(frames[sent[s]:sent[s] + k]))
        sent[s] = min(sent[s] + k, len(frames))

    began = time.monotonic()
    for s in socks:
        send(s, 16)
    left = set(socks)
    while left:
        for s in select.select(list(left), [], [])[0]:
            got[s] += len(s.recv(65536))
            if got[s] == size * len(frames):
                left.discard(s)
            elif sent[s] < len(frames):
                send(s, 16 - (sent[s] - got[s] // size))
    took = time.monotonic() - began
    for s in socks:
        s.close()
    return 16 * len(frames) / took


def connections(path, n):
    """So many at a time, each answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    socks = [connect(path) for _ in range(n)]
    answered = 0
    for s in socks:
        s.settimeout(10)
        s.send(frame(1, "nobody"))
    for s in socks:
        answered += len(s.recv(4096)) >= 10
        s.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return answered


def start_overhead_ms(server, n):
    """A VM until it has powered off: by StartVm and WaitVm, less by `lodge run`."""
    payload = TOP / "build/payload/hello.elf"
    by_run, by_call = [], []
    line = [TOP / "build/lodge", "run", "--kernel", payload, "--root", f"path={server.dir}/root.img,format=raw,ro=on",
            "--initramfs", "none", "--memory", "64M", "--console", "none"]
    with server.client() as c:
        for i in range(n):
            began = time.monotonic()
            subprocess.run(line, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            by_run.append(time.monotonic() - began)
            spec = server.spec(f"s{i}")
            spec["vm"]["kernel"] = str(payload)
            events = c.begin("WatchEvents", name=f"s{i}")
            began = time.monotonic()
            assert c.StartVm(**spec).success
            for event in c._received("WatchEvents", events):
                if not event.initial_done and event.state == 0:
                    break
            by_call.append(time.monotonic() - began)
    return (statistics.median(by_call) - statistics.median(by_run)) * 1e3


def section(quick):
    """Rows for bench: label, {"lodge": figure, "limit": what it must meet}, is more better."""
    few = 5 if quick else 1
    starts = []
    for _ in range(3 if quick else 11):
        with Server() as server:
            starts.append(server.first_answer_s())
    with Server() as server:
        server.first_answer_s()
        pss = server.pss_bytes()
        answered = connections(server.socket, CONNECTIONS)
        overhead = start_overhead_ms(server, 20 // few)
        with server.client() as c:
            for i in range(VMS):
                reply = c.StartVm(**server.spec(f"vm{i}"))
                assert reply.success, reply.failure_reason
            info = info_us(server.socket, 2000 // few)
            rate = calls_per_s(server.socket, CALLS // few)
            c.StopAllVms(force=True)
    rows = [("lodge serve: exec to first answer (us)", statistics.median(starts) * 1e6, 5000, False),
            ("lodge serve: PSS with nothing running (bytes)", pss, 3 << 20, False),
            ("lodge serve: connections answered at a time", answered, CONNECTIONS, True),
            ("lodge serve: GetVmInfo among 100 VMs (us)", info, 100, False),
            ("lodge serve: GetVmInfo (calls/s)", rate, 10000, True),
            ("StartVm beyond lodge run (us)", overhead * 1e3, 5000, False)]
    return [(label, {"lodge": figure, "limit": limit}, more) for label, figure, limit, more in rows]


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    for label, figures, _ in section("--quick" in sys.argv):
        print(f"{label:48} {figures['lodge']:12,.0f}   limit {figures['limit']:12,}")
