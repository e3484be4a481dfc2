"""What the guest tests stand on: guests of `lodge run`, disks, and the list of tests.

A test is a function with the decorator `test`; it gets a Context and the values of its variants, and
fails by raising. Every wait has a deadline, and a guest that passes it is killed and shown.
"""
import fcntl
import glob
import itertools
import os
import re
import select
import shutil
import struct
import subprocess
import termios
import threading
import time

import initrd
import pattern

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LODGE = os.environ.get("LODGE_BINARY", os.path.join(TOP, "build/lodge"))
GUEST_INIT = os.path.join(TOP, "build/tests/guest/guest-init")
# Modules of a distribution's kernel that test guests need.
MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_rng", "vmw_vsock_virtio_transport", "pvpanic_mmio", "button", "evdev",
           "gpio_keys", "rtc_cmos", "rtc_pl031")
# x86_64 or aarch64: the host's, and so the guest's
MACHINE = os.uname().machine
# No guest here has less memory, and nothing of lodge's own is as large.
GUEST_MAPPING_MIN = 100 << 20
# For tests that mean I/O errors to happen: the guest's kernel tells of them at level 3, and its lines
# would fall into those of the reports.
NO_ERRORS = "loglevel=3"
# An emulated host is slow, more so with sanitizers or beside other work, most of all in the exits of an Arm guest
# (1 ms each): deadlines are there to end what hangs.
DEADLINE_S = float(os.environ.get("LODGE_TEST_DEADLINE", {"aarch64": "600"}.get(MACHINE, "240")))


class Failure(Exception):
    """A test found a fault."""


class Skip(Exception):
    """A test cannot run on this host; says why."""


class Test:
    """One function with one value of each of its variants."""

    def __init__(self, name, function, arguments):
        self.name, self.function, self.arguments = name, function, arguments

    def unfit(self):
        """Why it is none for this machine, or None."""
        for machine, reason, variants in getattr(self.function, "only", ()):
            if machine != MACHINE and all(self.arguments[name] in values for name, values in variants.items()):
                return f"{machine} only: {reason}"
        return None

    def long(self):
        variants = getattr(self.function, "long", None)
        return variants is not None and all(self.arguments[name] in values for name, values in variants.items())

    def run(self, context):
        reason = self.unfit()
        if reason:
            raise Skip(reason)
        self.function(context, **self.arguments)


TESTS = []


def only(machine, reason, **variants):
    """Marks a test, or those of its variants with these values ({name: [value...]}), as one of this machine alone."""
    def mark(function):
        function.only = [*getattr(function, "only", ()), (machine, reason, variants)]
        return function
    return mark


def by_machine(**values):
    """That of the values which is this machine's: x86_64=..., aarch64=..."""
    return values[MACHINE]


def test(**variants):
    """Registers a function, once for each combination of its variants."""
    def register(function):
        topic = function.__module__.removeprefix("test_")
        for values in itertools.product(*variants.values()):
            name = f"{topic}.{function.__name__}"
            if values:
                name += "[" + ",".join(str(v) for v in values) + "]"
            TESTS.append(Test(name, function, dict(zip(variants, values))))
        return function
    return register


def long(**variants):
    """Below @test(): takes minutes, or those of its variants with these values ({name: [value...]}) show little that
    the others do not, and --short leaves them out."""
    def mark(function):
        function.long = variants
        return function
    return mark


def check(condition, message):
    if not condition:
        raise Failure(message)


def equal(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what}: {found!r}, not {wanted!r}")


def environment(name):
    value = os.environ.get(name)
    if not value or not os.path.exists(value):
        raise Skip(f"{name} is not set (see tests/lab/README.md)")
    return value


class Reader:
    """Collects what a descriptor gives, in a thread; writes it to a log as well."""

    def __init__(self, fd, log_path):
        self.data = bytearray()
        self.ended = False
        self.paused = threading.Event()
        self.paused.set()
        self.changed = threading.Condition()
        self._fd, self._log_path = fd, log_path
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        with open(self._log_path, "wb", buffering=0) as log:
            while True:
                self.paused.wait()
                try:
                    chunk = os.read(self._fd, 65536)
                except OSError:  # EIO: the other side of a terminal is closed
                    chunk = b""
                log.write(chunk)
                with self.changed:
                    self.data += chunk
                    self.ended = not chunk
                    self.changed.notify_all()
                if not chunk:
                    return

    def text(self):
        with self.changed:
            return self.data.decode("utf-8", "replace").replace("\r\n", "\n")


def stat_of(folder):
    """Name, state and seconds of a processor's time of a process or thread in /proc. proc(5)."""
    with open(f"{folder}/stat", encoding="ascii", errors="replace") as file:
        name, fields = file.read().split("(", 1)[1].rsplit(")", 1)
    fields = fields.split()
    return name, fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def thread_state(folder):
    """name:state:place in the kernel:seconds of a processor's time, of a thread in /proc; None: it has ended."""
    try:
        name, state, seconds = stat_of(folder)
        with open(f"{folder}/wchan", encoding="ascii") as file:
            return f"{name}:{state}:{file.read()}:{seconds:.0f}"
    except OSError:
        return None


class Vm:
    """One `lodge run`. Its console is a pipe, or a terminal with `terminal`."""

    def __init__(self, context, number, arguments, terminal=False, prefix=(), closed_input=False, pipe_bytes=65536):
        self.arguments = [*prefix, LODGE, "run", *arguments]
        self.position = 0
        log = os.path.join(context.folder, f"console{number}.log")
        self.stacks = os.path.join(context.folder, f"stacks{number}.log")
        error_read, error_write = os.pipe()
        self.terminal = None
        if terminal:
            self.terminal, slave = os.openpty()
            self.process = subprocess.Popen(["setsid", "--ctty", *self.arguments], stdin=slave, stdout=slave,
                                            stderr=error_write)
            self.slave = slave  # stays open, so that its settings can be looked at afterwards
            self.input = self.terminal
            output = self.terminal
        else:
            output, output_write = os.pipe()
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, pipe_bytes)
            stdin = subprocess.DEVNULL if closed_input else subprocess.PIPE
            self.process = subprocess.Popen(self.arguments, stdin=stdin, stdout=output_write, stderr=error_write)
            os.close(output_write)
            self.input = None if closed_input else self.process.stdin.fileno()
        os.close(error_write)
        self.console = Reader(output, log)
        self.errors = Reader(error_read, os.path.join(context.folder, f"stderr{number}.log"))

    @property
    def pid(self):
        return self.process.pid

    def wait_for(self, expression, deadline_s=DEADLINE_S):
        """Waits for a match in what the console shows from the last one on."""
        if isinstance(expression, str):
            expression = expression.encode()
        end = time.monotonic() + deadline_s
        with self.console.changed:
            while True:
                match = re.compile(expression, re.M).search(self.console.data, self.position)
                if match:
                    self.position = match.end()
                    return match
                left = end - time.monotonic()
                if self.console.ended:
                    raise Failure(f"the console ended before {expression.decode()!r} came")
                if left <= 0:
                    self.hangs(f"{expression.decode()!r} did not come within {deadline_s:.0f} s")
                self.console.changed.wait(min(left, 1.0))

    def hangs(self, what):
        """Fails with a line that says what lodge's threads do, and where the guest is: of a rare one there may be no more."""
        lines = self.console.text().splitlines()
        threads = ", ".join(filter(None, map(thread_state, glob.glob(f"/proc/{self.pid}/task/*"))))
        self.save_stacks()
        raise Failure(f"{what}; {threads or 'it has ended'}; the console: {lines[-1] if lines else 'nothing'}")

    def save_stacks(self):
        """Where lodge's threads are, for whoever looks for the reason of a hang."""
        if self.process.poll() is None and shutil.which("gdb"):
            with open(self.stacks, "wb") as file:
                try:
                    subprocess.run(["gdb", "-p", str(self.pid), "-batch", "-ex", "thread apply all bt"],
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, timeout=60, check=False)
                except subprocess.TimeoutExpired:
                    pass

    def send(self, data, deadline_s=DEADLINE_S):
        """Types `data`, as fast as lodge takes it."""
        if isinstance(data, str):
            data = data.encode()
        end = time.monotonic() + deadline_s
        while data:
            writable = select.select([], [self.input], [], max(0, end - time.monotonic()))[1]
            if not writable:
                self.hangs(f"lodge did not take its input within {deadline_s:.0f} s ({len(data)} bytes are left)")
            # not more than a pipe or terminal that is writable takes at once
            data = data[os.write(self.input, data[:select.PIPE_BUF if self.terminal is None else 256]):]

    def unread_input(self):
        """Bytes typed into the terminal that lodge has not read."""
        return struct.unpack("i", fcntl.ioctl(self.slave, termios.FIONREAD, bytes(4)))[0]

    def finish(self, deadline_s=DEADLINE_S):
        """Waits for the end of the process; returns its exit status (-N: signal N)."""
        try:
            status = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.hangs(f"lodge did not end within {deadline_s:.0f} s")
        self.errors.thread.join(5)
        if self.terminal is None:
            self.console.thread.join(5)
        return status

    def ends(self, status=0, deadline_s=DEADLINE_S):
        """Waits for the end, wants this exit status and no fault reported by the guest."""
        found = self.finish(deadline_s)
        self.no_faults()
        if found != status:
            raise Failure(f"exit status {found}, not {status}; lodge said: {self.errors.text().strip()!r}")
        return self

    def reports(self, kind=""):
        """The guest's reports of one kind ("digest"): the rest of each line."""
        lines = re.findall(r"^@ (.*)$", self.console.text(), re.M)
        if not kind:
            return lines
        return [line[len(kind) + 1:] for line in lines if line == kind or line.startswith(kind + " ")]

    def report(self, kind):
        lines = self.reports(kind)
        if not lines:
            raise Failure(f"the guest did not report {kind!r}")
        return lines[-1]

    def no_faults(self):
        faults = self.reports("fail")
        if faults:
            raise Failure("the guest: " + "; ".join(faults[:5]))
        for word in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer"):
            if word in self.errors.text():
                raise Failure(f"lodge: {word} (see its standard error)")

    def own_kib(self):
        """Anonymous memory of lodge's own: that of the guest is one large mapping."""
        total, own = 0, True
        with open(f"/proc/{self.pid}/smaps", encoding="ascii", errors="replace") as file:
            for line in file:
                head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
                if head:
                    own = int(head[2], 16) - int(head[1], 16) < GUEST_MAPPING_MIN
                elif own and line.startswith("Anonymous:"):
                    total += int(line.split()[1])
        return total

    def cpu_seconds(self):
        return stat_of(f"/proc/{self.pid}")[2]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            try:
                self.process.stdin.close()
            except OSError:
                pass
        self.errors.thread.join(5)
        if self.terminal is not None:
            os.close(self.slave)  # the last user: the reader sees the end
            self.console.thread.join(5)
            os.close(self.terminal)
            self.terminal = None
        self.console.paused.set()


class Artefacts:
    """Files that tests share, made once."""

    def __init__(self, folder):
        self.folder = folder
        self.lock = threading.Lock()

    def once(self, name, make):
        path = os.path.join(self.folder, name)
        with self.lock:
            if not os.path.exists(path):
                make(path + ".new")
                os.rename(path + ".new", path)
        return path

    def initrd(self, modules=True):
        def make(path):
            with open(path, "wb") as file:
                file.write(initrd.build(GUEST_INIT, modules and environment("LODGE_GUEST_MODULES"), MODULES))
        return self.once("initrd" if modules else "initrd-without-modules", make)


class Context:
    """What one test has: a folder, and the guests that it starts."""

    def __init__(self, folder, artefacts):
        self.folder, self.artefacts = folder, artefacts
        self.vms = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def disk(self, name, size, content=b""):
        """A sparse image of `size` bytes that begins with `content`."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(content)
            file.truncate(size)
        return path

    def pattern_disk(self, name, size, generation=1):
        return self.disk(name, size, pattern.make(0, size // pattern.SECTOR, generation))

    def lodge(self, *arguments, **options):
        """`lodge run` with just these arguments."""
        vm = Vm(self, len(self.vms), [str(a) for a in arguments], **options)
        self.vms.append(vm)
        return vm

    def kernel(self, equipped=False):
        """--kernel of a distribution and the --initrd with our init. `equipped`: the kernel must know the power key
        and pvpanic. Debian's cloud kernel for Arm has a driver for the one with ACPI alone, for the other none: there
        it is the tiny one."""
        if equipped and MACHINE == "aarch64":
            return ["--kernel", os.path.join(environment("LODGE_GUEST_TINY"), "Image"),
                    "--initrd", self.artefacts.initrd(modules=False)]
        return ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", self.artefacts.initrd()]

    def guest(self, commands, *arguments, disks=(), cpus=1, memory="256M", cmdline="", equipped=False, **options):
        """A guest that runs `commands` (init/guest.h) and powers off; `disks` are values of --disk."""
        words = f"loglevel=5 {cmdline} test={'+'.join(commands.split())}"
        disks = itertools.chain.from_iterable(("--disk", disk) for disk in disks)
        return self.lodge(*self.kernel(equipped), "--cpus", cpus, "--memory", memory, "--cmdline", words, *disks,
                          *arguments, **options)

    def close(self):
        for vm in self.vms:
            vm.close()

    def tails(self, lines=25):
        """The end of every guest's console and of what lodge said, for a failed test."""
        out = []
        for number, vm in enumerate(self.vms):
            out.append(f"$ {' '.join(vm.arguments)}")
            out.append(f"--- console {number}")
            out += vm.console.text().splitlines()[-lines:]
            out.append(f"--- standard error {number} (exit status {vm.process.poll()})")
            out += vm.errors.text().splitlines()[-lines:]
        return out


def digest_matches(vm, disk, path, start, length):
    """The guest's digest of a range is that of the image file, every sector being well-formed."""
    found, errors = pattern.digest_of_file(path, start, length)
    check(not errors, f"{path}: " + "; ".join(errors))
    for line in vm.reports("digest"):
        name, value = line.split()[:2]
        if name == disk:
            equal(f"{found:016x}", value, f"digest of {disk}")
            return
    raise Failure(f"the guest reported no digest of {disk}")


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def run_tool(*command):
    if not shutil.which(command[0]):
        raise Skip(f"{command[0]} is not installed")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
