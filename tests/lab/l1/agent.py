#!/usr/bin/python3
"""The agent in the lab's host: runs one command for the machine outside.

Waits for `go`, has this run's disks mounted, runs the command that the job's disk ends with (see
job.py), with pipes (or with a terminal of its own), passes its streams through, and ends with its exit status.
See wire.py for the frames.  One thread; only python3-minimal's modules.
"""
import errno
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import wire

PORT_NAME = "lab"
PORTS = "/sys/class/virtio-ports"
JOB_DISK = "/dev/lab/job"
JOB_BYTES = 1 << 20
X86 = os.uname().machine == "x86_64"
GUEST = "/lab/guest"
OUT = "/lab/out"
# Unread standard input that the agent holds before it stops reading the port.
STDIN_MAX_BYTES = 1 << 20
# How long streams may stay open (in a background process) after the command has ended.
LINGER_S = 1.0
# linux/kvm.h
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE60
# linux/random.h
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def hold_kvm():
    """Keeps the kernel from patching its own code whenever a first virtual machine is made or a last one ends.

    These machines, one with a local APIC that is still off and one without, hold up the static keys that KVM counts
    machines and APICs with (on x86); the first sits in the middle of the scheduler. QEMU (7.2) may keep code that it translated
    while another processor patched it, and with it the breakpoint that patching puts there for a moment: all
    processors hang in it, and so does the host.
    """
    descriptors = []
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        for with_apic in (True, False) if X86 else (False,):
            machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
            if with_apic:
                fcntl.ioctl(machine, KVM_CREATE_IRQCHIP, 0)
            descriptors += [machine, fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)]
    except OSError as error:
        print(f"lab: cannot hold KVM's static keys: {error.strerror}", flush=True)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors


def find_port():
    """The device of the virtio-serial port that has our name, or None."""
    for port in os.listdir(PORTS) if os.path.isdir(PORTS) else []:
        with open(f"{PORTS}/{port}/name", encoding="ascii") as file:
            if file.read().strip() == PORT_NAME and os.path.exists(f"/dev/{port}"):
                return f"/dev/{port}"
    return None


def set_terminal_size(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def freshen(go):
    """A restored host wakes up with an old clock and with random numbers that others had too."""
    if "time_ns" in go:
        time.clock_settime_ns(time.CLOCK_REALTIME, go["time_ns"])
    seed = bytes.fromhex(go.get("entropy", ""))
    if seed:
        with open("/dev/urandom", "wb", buffering=0) as urandom:
            fcntl.ioctl(urandom, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
            fcntl.ioctl(urandom, RNDRESEEDCRNG)


def environment(job):
    env = {k: os.environ[k] for k in ("PATH", "HOME", "LC_ALL")}
    env.update(job["env"])
    version = os.uname().release
    env.update(
        LAB="1",
        LAB_OUT=OUT,
        TMPDIR="/tmp",
        USER="root",
        SHELL="/bin/bash",
        LODGE_GUEST_KERNEL=f"{GUEST}/vmlinuz",
        LODGE_GUEST_MODULES=f"{GUEST}/lib/modules/{version}",
        LODGE_GUEST_ROOT=f"{GUEST}/debian.img",
    )
    for name, path in (("KERNEL_GZ", "vmlinuz.gz"), ("TINY", "tiny"), ("TERMINA", "termina.img"), ("FDT_KERNEL", "fdt/bzImage")):
        if os.path.exists(f"{GUEST}/{path}"):
            env[f"LODGE_GUEST_{name}"] = f"{GUEST}/{path}"
    return env


class Command:
    """The command and its streams; `stdout` and `stderr` are descriptors or None when closed."""

    def __init__(self, job):
        self.stdin_buffer = bytearray()
        self.stdin_ended = False
        self.terminal = None
        self.status = None
        if "terminal" in job:
            self.start_on_terminal(job)
        else:
            self.start_on_pipes(job)
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd is not None:
                os.set_blocking(fd, False)

    def start_on_pipes(self, job):
        in_r, self.stdin = os.pipe()
        self.stdout, out_w = os.pipe()
        self.stderr, err_w = os.pipe()
        for pipe in (self.stdin, self.stdout, self.stderr):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 18)
        self.pid = self.fork(job, in_r, out_w, err_w)
        for fd in (in_r, out_w, err_w):
            os.close(fd)

    def start_on_terminal(self, job):
        self.terminal, slave = os.openpty()
        set_terminal_size(slave, **job["terminal"])
        self.stdin = self.terminal
        self.stdout = os.dup(self.terminal)
        self.stderr = None
        self.pid = self.fork(job, slave, slave, slave)
        os.close(slave)

    def fork(self, job, stdin, stdout, stderr):
        pid = os.fork()
        if pid:
            return pid
        argv = job["argv"]
        try:
            if X86:  # not on processor 0, which QEMU damages while it runs a guest (see arch-x86_64.sh)
                os.sched_setaffinity(0, os.sched_getaffinity(0) - {0} or {0})
            os.setsid()
            for number, fd in enumerate((stdin, stdout, stderr)):
                os.dup2(fd, number, inheritable=True)
            if self.terminal is not None:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.chdir("/lab/src")
            os.execvpe(argv[0], argv, environment(job))
        except OSError as error:
            os.write(2, f"lab: cannot run {argv[0]}: {error.strerror}\n".encode())
            os._exit(127 if error.errno == errno.ENOENT else 126)

    def reap(self):
        """Sets `status`, as a shell would report it, once the command has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code
        return self.status

    def feed(self, data):
        if data:
            self.stdin_buffer += data
        else:
            self.stdin_ended = True
        self.flush()

    def flush(self):
        """Writes what the command takes of its input, and closes it at the end."""
        while self.stdin is not None and self.stdin_buffer:
            try:
                count = os.write(self.stdin, self.stdin_buffer[:65536])
            except BlockingIOError:
                return
            except OSError:  # the command does not read any more
                self.stdin_buffer.clear()
                return
            del self.stdin_buffer[:count]
        if self.stdin_ended and self.stdin is not None and self.terminal is None:
            os.close(self.stdin)
            self.stdin = None

    def read(self, fd):
        """One chunk of output, b"" at the end of the stream."""
        try:
            return os.read(fd, wire.CHUNK_BYTES)
        except OSError:  # EIO: a terminal whose last user is gone
            return b""

    def closed(self, fd):
        os.close(fd)
        if fd == self.stdout:
            self.stdout = None
        else:
            self.stderr = None


class Agent:
    def __init__(self):
        while (path := find_port()) is None:  # it appears some time after the driver
            time.sleep(0.01)
        self.port = os.open(path, os.O_RDWR)
        self.decoder = wire.Decoder()

    def send(self, kind, data=b""):
        write_all(self.port, wire.pack(kind, data))

    def wait_for_go(self):
        self.send(b"H")
        while True:
            for kind, data in self.decoder.feed(os.read(self.port, 4096)):
                if kind == b"G":
                    return json.loads(data)

    def prepare(self):
        """Reads the job's command, and has this run's disks mounted; None when that fails."""
        with open(JOB_DISK, "rb", buffering=0) as disk:
            disk.seek(-JOB_BYTES, os.SEEK_END)
            job = json.loads(disk.read(JOB_BYTES).rstrip(b"\0"))
        result = subprocess.run(["/lab/prepare"], stdin=subprocess.DEVNULL, capture_output=True)
        if result.returncode == 0:
            return job
        self.send(b"2", b"lab: cannot prepare the job:\n" + result.stderr)
        return None

    def on_frame(self, command, kind, data):
        if kind == b"0":
            command.feed(data)
        elif kind == b"W" and command.terminal is not None:
            set_terminal_size(command.terminal, **json.loads(data))

    def run(self, job):
        """Runs the command, its streams passing through the port; returns its exit status."""
        command = Command(job)
        self.send(b"S")
        wakeup_r, wakeup_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_w)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if job.get("stdin") == "none":
            command.feed(b"")
        ended = None
        while True:
            outputs = [fd for fd in (command.stdout, command.stderr) if fd is not None]
            if command.reap() is not None and ended is None:
                ended = time.monotonic()
            if ended is not None:
                left = LINGER_S - (time.monotonic() - ended)
                if not outputs or left <= 0:
                    return command.status
            inputs = [wakeup_r, *outputs]
            if len(command.stdin_buffer) < STDIN_MAX_BYTES and job.get("stdin") != "none":
                inputs.append(self.port)
            writers = [command.stdin] if command.stdin is not None and command.stdin_buffer else []
            readable, writable, _ = select.select(inputs, writers, [], None if ended is None else left)
            if wakeup_r in readable:
                os.read(wakeup_r, 4096)
            if self.port in readable:
                for kind, data in self.decoder.feed(os.read(self.port, wire.CHUNK_BYTES)):
                    self.on_frame(command, kind, data)
            if writable:
                command.flush()
            for fd in outputs:
                if fd in readable:
                    data = command.read(fd)
                    if data:
                        self.send(b"1" if fd == command.stdout else b"2", data)
                    else:
                        command.closed(fd)

    def send_files(self):
        if not os.listdir(OUT):
            return
        with subprocess.Popen(["tar", "-C", OUT, "--sparse", "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
            while data := tar.stdout.read(wire.CHUNK_BYTES):
                self.send(b"F", data)

    def serve(self):
        with open("/proc/cmdline", encoding="ascii") as file:
            icount = "lab.icount" in file.read().split()
        # With exact instruction counts nothing may come from outside at a moment of its own.
        go = {} if icount else self.wait_for_go()
        freshen(go)
        job = self.prepare()
        status = 125
        if job is not None:
            status = self.run(job)
            self.send_files()
        self.send(b"X", json.dumps({"status": status}).encode())
        while True:  # the machine outside ends this host
            time.sleep(3600)


if __name__ == "__main__":
    os.umask(0o022)
    held = hold_kvm()
    sys.exit(Agent().serve())
