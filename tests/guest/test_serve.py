"""Linux guests of `lodge serve`, by its own client."""
import concurrent.futures
import contextlib
import os
import re
import subprocess
import time

from harness import DEADLINE_S, LODGE, check, environment, equal, long, run_tool, test

MIB = 1 << 20


class Server:
    """`lodge serve` in the test's folder."""

    def __init__(self, context, *options, prefix=()):
        self.folder = context.path("serve")
        self.socket = os.path.join(self.folder, "socket")
        self.vms = os.path.join(self.folder, "vms")
        storage = os.path.join(self.folder, "storage")
        for folder in (self.folder, self.vms, storage):
            os.mkdir(folder)
        self.log = open(context.path("serve.log"), "wb")
        self.process = subprocess.Popen([*prefix, LODGE, "serve", "--socket", self.socket, "--runtime-dir", self.vms,
                                         "--storage-root", storage, *options], stdout=self.log, stderr=self.log)
        until("the server answers", lambda: self.answers() or self.process.poll() is not None)
        check(self.process.poll() is None, "lodge serve has ended: see serve.log")

    def answers(self):
        return not subprocess.run([LODGE, "list", "--socket", self.socket], capture_output=True, check=False).returncode

    def ran(self, words, status):
        done = subprocess.run([LODGE, words[0], "--socket", self.socket, *map(str, words[1:])], capture_output=True,
                              errors="replace", stdin=subprocess.DEVNULL, timeout=2 * DEADLINE_S, check=False)
        equal(done.returncode, status, f"lodge {' '.join(map(str, words))}: {done.stdout}{done.stderr}: exit status")
        return done

    def run(self, *words, status=0):
        """One command of the client; returns what it printed."""
        return self.ran(words, status).stdout

    def fails(self, *words):
        """One that fails; returns what it said."""
        return self.ran(words, 1).stderr

    def start(self, context, name, commands, *arguments, cmdline="", equipped=False):
        """A guest that runs commands of init/guest.h, as Context.guest; its root is not looked at."""
        words = f"loglevel=5 {cmdline} test={'+'.join(commands.split())}"
        root = context.path("root")
        if not os.path.exists(root):
            context.disk("root", MIB)
        self.run("start", name, *context.kernel(equipped), "--cmdline", words, "--root", f"path={root},format=raw,ro=on", *arguments)

    def console(self, name):
        return self.run("console", "--log", name).replace("\r\n", "\n")

    def shows(self, name, expression, deadline_s=DEADLINE_S):
        return until(f"{expression!r} on the console of {name}",
                     lambda: re.search(expression, self.console(name), re.M), deadline_s)

    def names(self):
        return [line.split()[0] for line in self.run("list").splitlines()[1:]]

    def leaves_nothing(self):
        self.process.terminate()
        equal(self.process.wait(DEADLINE_S), 0, "exit status of the server")
        equal([name for name in os.listdir(self.vms) if name != "lock"], [], "the runtime directory")
        self.log.close()
        with open(self.log.name, encoding="utf-8", errors="replace") as log:
            check("seccomp" not in log.read(), "a system call was forbidden: see serve.log")


def until(what, condition, deadline_s=DEADLINE_S):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    check(False, f"{what}: not within {deadline_s:.0f} s")
    return None


@contextlib.contextmanager
def serving(context, *options, prefix=()):
    server = Server(context, *options, prefix=prefix)
    try:
        yield server
        server.leaves_nothing()
    finally:
        if server.process.poll() is None:
            subprocess.run([LODGE, "stop", "--socket", server.socket, "--all", "--force"], capture_output=True,
                           timeout=60, check=False)
            server.process.kill()
            server.process.wait()


@test()
@long()
def fifty_at_once(context):
    """All come up, and all shut down when they are asked."""
    names = [f"vm{n}" for n in range(50)]
    with serving(context) as server, concurrent.futures.ThreadPoolExecutor(50) as pool:
        context.artefacts.initrd()
        context.disk("root", MIB)
        list(pool.map(lambda name: server.start(context, name, "button", "--memory", "96M", equipped=True), names))
        equal(sorted(server.names()), sorted(names), "VMs")
        for name in names:
            server.shows(name, "^@ watching", 4 * DEADLINE_S)  # fifty kernels share the host's processors
        server.run("stop", "--all", "--timeout", 200)
        equal(server.names(), [], "VMs after the end")


@test(transport=["pci", "mmio"])
def pause_resize_metrics(context, transport):
    """A guest that stands still does so and knows nothing of it; a disk grows while it runs; what it did is counted."""
    image = context.path("data.qcow2")
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
    with serving(context) as server:
        server.start(context, "a", "blkio:vdb,0,8M,1,60,3 wait:pause sleep:3 wait:larger disks pwrite:vdb,12M,1M,0x31 "
                                   "fsync:vdb wait:end", "--transport", transport, "--cpus", 2,
                     "--disk", f"path={image},format=qcow2")
        with subprocess.Popen([LODGE, "console", "--socket", server.socket, "a"], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as console:
            def enter():
                console.stdin.write(b"\n")
                console.stdin.flush()

            server.shows("a", "^@ waiting pause")
            server.run("pause", "a")
            check("paused" in server.run("list"), "not paused")
            before = server.console("a")
            enter()
            time.sleep(8)
            equal(server.console("a"), before, "the console of a guest that stands still")
            server.run("resume", "a")
            server.shows("a", "^@ waiting larger")
            server.run("resize", "a", "vdb", "16M")
            enter()
            server.shows("a", "^@ waiting end")
            text = server.console("a")
            check(re.search(r"^@ disk vdb .*\bsize=32768\b", text, re.M), f"the disk has not grown: {text[-2000:]}")
            check("pwrite vdb 12582912 1048576 errno=0" in text, "no write behind the old end")
            check("soft lockup" not in text and "rcu_sched" not in text, "the guest noticed that it was paused")
            metrics = server.run("metrics", "a")
            for operation in ("read", "write", "flush"):
                found = re.search(rf'^lodge_vm_block_operations_total{{.*device="vdb",operation="{operation}"}} (\d+)',
                                  metrics, re.M)
                check(found and int(found[1]) > 0, f"no {operation} counted: {metrics}")
            enter()
            console.wait(DEADLINE_S)
        until("its end", lambda: not server.names())
    check('"virtual-size": 16777216' in run_tool("qemu-img", "info", "--output=json", image), "size of the image")
    run_tool("qemu-img", "check", "-q", "-f", "qcow2", image)


@test(how=["poweroff", "panic", "reboot"])
def wait_says_how(context, how):
    with serving(context) as server:
        server.start(context, "a", f"wait:go {how}", cmdline="panic=-1", equipped=True)
        with subprocess.Popen([LODGE, "wait", "--socket", server.socket, "a"], stdout=subprocess.PIPE) as waiting, \
                subprocess.Popen([LODGE, "events", "--socket", server.socket, "a", "--json"],
                                 stdout=subprocess.PIPE) as events, \
                subprocess.Popen([LODGE, "console", "--socket", server.socket, "a"], stdin=subprocess.PIPE,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as console:
            server.shows("a", "^@ waiting go")
            console.stdin.write(b"\n")
            console.stdin.flush()
            equal(waiting.wait(DEADLINE_S), {"poweroff": 0, "panic": 4, "reboot": 3}[how], "exit status of lodge wait")
            until("its end", lambda: not server.names())
            time.sleep(0.5)
            events.terminate()
            console.wait(DEADLINE_S)
            text = events.stdout.read().decode()
        check(how in text.lower(), f"the events do not say {how}: {text}")


@test()
def debian(context):
    """An unprepared Debian: up to the login, shut down by `lodge stop`, its file system clean."""
    image = context.path("debian.img")
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    with serving(context) as server:
        server.run("start", "deb", "--kernel", environment("LODGE_GUEST_KERNEL"), "--modules",
                   environment("LODGE_GUEST_MODULES"), "--root", f"path={image},format=raw", "--memory", "512M",
                   "--cpus", 2)
        server.shows("deb", "login: ")
        server.run("stop", "deb", "--timeout", 200)
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    equal(checked.returncode, 0, f"file system check: {checked.stdout[-500:]}")
