"""The agent in Linux guests of `lodge serve`: mounts of the start, and a shutdown that leaves file systems clean."""
import os
import re
import subprocess

from harness import DEADLINE_S, LODGE, Skip, by_machine, check, environment, equal, only, run_tool, test

from test_serve import serving, until

MIB = 1 << 20


def file_system(context, name, size="16M"):
    """An image with an empty ext4."""
    path = context.path(name)
    run_tool("mke2fs", "-q", "-t", "ext4", path, size)
    return path


def bare_root(context):
    """A root without any program: the agent stays, as all that it can run."""
    def make(path):
        folder = path + ".d"
        for name in ("dev", "proc", "sys", "run", "tmp", "mnt"):
            os.makedirs(os.path.join(folder, name))
        run_tool("mke2fs", "-q", "-t", "ext4", "-d", folder, path, "16M")
    path = context.path("root")
    subprocess.run(["cp", "--sparse=always", context.artefacts.once("bare-root", make), path], check=True)
    return path


def state_of(image):
    """What ext4 says of itself."""
    return dict(re.findall(r"^([^:\n]+):\s+(.*)$", run_tool("dumpe2fs", "-h", image), re.M))


def is_clean(image):
    said = state_of(image)
    equal(said["Filesystem state"], "clean", f"state of {image}")
    check("needs_recovery" not in said["Filesystem features"], f"{image}: its journal has something to replay")
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    equal(checked.returncode, 0, f"{image}: file system check: {checked.stdout[-500:]}")


def mounts_of(server, name):
    """What is mounted in the guest: target -> source, type, options."""
    lines = [line.split() for line in server.run("cp", f"{name}:/proc/mounts", "-").splitlines()]
    return {line[1]: (line[0], line[2], line[3]) for line in lines}


def shell(server, name, command):
    return server.run("exec", name, "--", "sh", "-c", command)


def start(server, name, root, *arguments):
    return server.run("start", name, "--kernel", environment("LODGE_GUEST_KERNEL"), "--modules",
                      environment("LODGE_GUEST_MODULES"), "--root", f"path={root},format=raw", "--memory", "256M",
                      "--start-timeout", int(DEADLINE_S), *arguments)


@test(transport=["pci", "mmio"])
def mounts(context, transport):
    """Each where it belongs, also past one that is not to be mounted; and all unmounted by `lodge stop`."""
    root, a, c = bare_root(context), file_system(context, "a"), file_system(context, "c")
    plain = context.disk("plain", MIB)
    with serving(context) as server:
        start(server, "a", root, "--transport", transport, "--disk", f"path={a},format=raw,mount=/srv/a/b",
              "--disk", f"path={plain},format=raw",
              "--disk", f"path={c},format=raw,mount=/srv/c,mount_flags=noatime+nodev,mount_data=errors=remount-ro")
        shown = mounts_of(server, "a")
        equal(shown["/srv/a/b"][0], "/dev/vdb", "what is mounted on /srv/a/b")
        equal(shown["/srv/c"][0], "/dev/vdd", "what is mounted on /srv/c")
        check({"rw", "noatime", "nodev", "errors=remount-ro"} <= set(shown["/srv/c"][2].split(",")),
              f"flags of /srv/c: {shown['/srv/c']}")
        server.run("stop", "a", "--timeout", 200)
    equal([state_of(image)["Mount count"] for image in (a, c)], ["1", "1"], "how often a and c were mounted")
    for image in (root, a, c):
        is_clean(image)


@test()
def read_only_is_forced(context):
    root, image = bare_root(context), file_system(context, "image")
    with open(image, "rb") as file:
        before = file.read()
    with serving(context) as server:
        start(server, "a", root, "--disk", f"path={image},format=raw,ro=on,mount=/srv/a")
        equal(mounts_of(server, "a")["/srv/a"][2].split(",")[0], "ro", "the mount")
        server.run("stop", "a", "--timeout", 200)
    with open(image, "rb") as file:
        check(file.read() == before, "a read-only disk has changed")


@test()
def mount_that_fails(context):
    """The start fails, says why, and leaves nothing."""
    root, good, blank = bare_root(context), file_system(context, "good"), context.disk("blank", MIB)
    with serving(context) as server:
        for keys, text in ((f"path={blank},format=raw,mount=/srv/x", "Invalid argument"),
                           (f"path={blank},format=raw,mount=/srv/x,fstype=nosuchfs", "no such file system"),
                           (f"path={blank},format=raw,mount=/srv/x,fstype=ext4,mkfs=on", "mkfs.ext4")):
            said = server.fails("start", "a", "--kernel", environment("LODGE_GUEST_KERNEL"), "--modules",
                                environment("LODGE_GUEST_MODULES"), "--root", f"path={root},format=raw",
                                "--disk", f"path={good},format=raw,mount=/srv/good", "--disk", keys)
            check(text in said and blank in said, f"{keys}: it says {said!r}")
            equal(server.names(), [], "VMs")
            equal([name for name in os.listdir(server.vms) if name != "lock"], [], "the runtime directory")


@test()
def guest_without_agent(context):
    """An initrd of the user's own: it starts; what needs the agent says so."""
    image = file_system(context, "image")
    with serving(context) as server:
        server.start(context, "a", "wait:end")
        server.shows("a", "^@ waiting end")
        said = server.fails("start", "b", "--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd",
                            context.artefacts.initrd(), "--cmdline", "test=wait:end", "--root",
                            f"path={context.path('root')},format=raw,ro=on", "--start-timeout", 20,
                            "--disk", f"path={image},format=raw,mount=/srv")
        check("must start lodge-agent" in said, f"it says {said!r}")
        server.run("stop", "a", "--force")


@test(when=["at once", "at the login"])
def debian_is_shut_down(context, when):
    """Also a systemd that still starts: nothing is left to replay or to check."""
    image, data = context.path("debian.img"), context.disk("data", 64 * MIB)
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    with serving(context) as server:
        start(server, "deb", image, "--disk", f"path={data},format=raw,mount=/data,mkfs=on")
        if when == "at the login":
            server.shows("deb", "login: ")
        server.run("stop", "deb", "--timeout", 200)
    equal(state_of(data)["Mount count"], "1", "how often the disk was mounted")
    is_clean(image)
    is_clean(data)


@test()
def init_that_writes_to_the_end(context):
    """A shell takes no part in a shutdown and keeps its file: the root cannot be read-only, but has nothing to replay."""
    image = context.path("debian.img")
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    with serving(context) as server:
        start(server, "deb", image, "--init", "/bin/bash", "--cmdline",
              '-- -c "exec 3>/held; while :; do echo line >&3; sleep 0; done"')
        until("it writes", lambda: int(shell(server, "deb", "stat -c %s /held 2>/dev/null || echo 0")) > 1000)
        server.run("stop", "deb", "--timeout", 200)
    is_clean(image)


@test(fstype=["squashfs", "erofs", "btrfs", "xfs", "vfat"])
def file_systems(context, fstype):
    """Disks of other kinds than ext4: the modules come along."""
    root, image = bare_root(context), context.path("image")
    content = context.path("content")
    os.mkdir(content)
    with open(os.path.join(content, "file"), "w", encoding="ascii") as file:
        file.write("content\n")
    if fstype == "squashfs":
        run_tool("mksquashfs", content, image, "-quiet", "-no-progress")
    elif fstype == "erofs":
        run_tool("mkfs.erofs", "--quiet", image, content)
    else:
        context.disk("image", 320 * MIB)
        run_tool(f"mkfs.{fstype}", image)
    read_only = ",ro=on" if fstype in ("squashfs", "erofs") else ""
    with serving(context) as server:
        start(server, "a", root, "--disk", f"path={image},format=raw,mount=/srv/a,fstype={fstype}{read_only}")
        equal(mounts_of(server, "a")["/srv/a"][1], fstype, "its type")
        if read_only:
            equal(server.run("cp", "a:/srv/a/file", "-"), "content\n", "a file in it")
        server.run("stop", "a", "--timeout", 200)


@test(fstype=["ext4", "squashfs", "erofs", "btrfs"])
def roots(context, fstype):
    """Read-only roots of other kinds, and one in a partition; with nothing in them but the agent's mount points."""
    folder, image = context.path("tree"), context.path("root")
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "srv"):
        os.makedirs(os.path.join(folder, name))
    partition = ""
    if fstype == "squashfs":
        run_tool("mksquashfs", folder, image, "-quiet", "-no-progress")
    elif fstype == "erofs":
        run_tool("mkfs.erofs", "--quiet", image, folder)
    elif fstype == "btrfs":
        context.disk("root", 256 * MIB)
        run_tool("mkfs.btrfs", "-q", "--rootdir", folder, image)
    else:
        part = context.path("part")
        run_tool("mke2fs", "-q", "-t", "ext4", "-d", folder, part, "16M")
        context.disk("root", 20 * MIB)
        subprocess.run(["sfdisk", "-q", image], input="2048,32768,L\n", text=True, check=True)
        run_tool("dd", f"if={part}", f"of={image}", "bs=1M", "seek=1", "conv=notrunc", "status=none")
        partition = ",partition=1"
    data = file_system(context, "data")
    with serving(context) as server:
        server.run("start", "a", "--kernel", environment("LODGE_GUEST_KERNEL"), "--modules",
                   environment("LODGE_GUEST_MODULES"), "--root",
                   f"path={image},format=raw,ro=on,fstype={fstype}{partition}", "--start-timeout", int(DEADLINE_S),
                   "--disk", f"path={data},format=raw,mount=/srv")
        shown = mounts_of(server, "a")
        equal(shown["/"][1], fstype, "type of the root")
        equal(shown["/srv"][0], "/dev/vdb", "what is mounted on /srv")
        server.run("stop", "a", "--timeout", 200)
    is_clean(data)


@test(how=["ext4", "btrfs", "partition"])
def root_by_label(context, how):
    """Past a partition without that label; and a label that nothing has is a panic."""
    folder, image, part = context.path("tree"), context.path("root"), context.path("part")
    for name in ("dev", "proc", "sys", "run", "tmp"):
        os.makedirs(os.path.join(folder, name))
    if how == "btrfs":
        context.disk("part", 256 * MIB)
        run_tool("mkfs.btrfs", "-q", "-L", "this-one", "--rootdir", folder, part)
    else:
        run_tool("mke2fs", "-q", "-t", "ext4", *(["-L", "this-one"] if how == "ext4" else []), "-d", folder, part, "256M")
    context.disk("root", 300 * MIB)
    name = ', name="this-one"' if how == "partition" else ""
    subprocess.run(["sfdisk", "-q", image], check=True, text=True,
                   input=f"label: gpt\nstart=2048, size=8192\nstart=16384, size=524288{name}\n")
    run_tool("dd", f"if={part}", f"of={image}", "bs=1M", "seek=8", "conv=notrunc,sparse", "status=none")
    root = f"path={image},format=raw,ro=on,fstype={'btrfs' if how == 'btrfs' else 'ext4'},label="
    with serving(context) as server:
        words = ["--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                 "--start-timeout", int(DEADLINE_S), "--cmdline", "panic=-1"]
        server.run("start", "a", *words, "--root", root + "this-one")
        equal(mounts_of(server, "a")["/"][0], "/dev/vda2", "the root")
        server.run("stop", "a", "--timeout", 200)
        check("ended before it was ready" in server.fails("start", "b", *words, "--root", root + "another"), "no label")


def tiny_kernel():
    """Without modules (tests/lab/tiny-kernel)."""
    path = os.path.join(os.path.dirname(environment("LODGE_GUEST_KERNEL")), "tiny", by_machine(x86_64="vmlinux", aarch64="Image"))
    if not os.path.exists(path):
        raise Skip("there is no tiny kernel (tests/lab/tiny-kernel)")
    return path


@test()
def kernel_without_modules(context):
    root, data = bare_root(context), file_system(context, "data")
    with serving(context) as server:
        server.run("start", "a", "--kernel", tiny_kernel(), "--root", f"path={root},format=raw", "--start-timeout",
                   int(DEADLINE_S), "--disk", f"path={data},format=raw,mount=/srv")
        equal(mounts_of(server, "a")["/srv"][0], "/dev/vdb", "what is mounted on /srv")
        server.run("stop", "a", "--timeout", 200)
    is_clean(data)


@test()
def programs(context):
    """Debian: output, status, signals, users, a terminal, files there and back, the time, a disk that grows."""
    image, data = context.path("debian.img"), context.disk("data", 64 * MIB)
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    there, back = context.path("there"), context.path("back")
    with open(there, "wb") as file:
        file.write(os.urandom(8 * MIB))
    with serving(context) as server:
        start(server, "deb", image, "--disk", f"path={data},format=raw,mount=/data,mkfs=on")
        equal(shell(server, "deb", "echo out; echo err >&2"), "out\n", "output")
        server.run("exec", "deb", "--", "sh", "-c", "exit 7", status=7)
        server.run("exec", "deb", "--", "sh", "-c", "kill -TERM $$", status=128 + 15)
        server.run("exec", "deb", "--", "/nosuch", status=127)
        equal(server.run("exec", "-u", "daemon", "deb", "--", "id", "-un"), "daemon\n", "the user")
        check(server.run("exec", "-t", "deb", "--", "tty").startswith("/dev/pts/"), "no terminal")
        server.run("cp", there, "deb:/data/file")
        server.run("cp", "deb:/data/file", back)
        with open(there, "rb") as a, open(back, "rb") as b:
            check(a.read() == b.read(), "a file came back changed")
        server.run("resize", "deb", "vdb", "256M", "--grow")
        check(int(shell(server, "deb", "df --output=size -B1M /data | tail -n 1")) > 200, "/data has not grown")
        check("Debian" in server.run("guest", "deb"), "the facts")
        server.run("stop", "deb", "--timeout", 200)
    is_clean(image)


@test()
def killed_under_load(context):
    """What the guest has synced is there after SIGKILL of its process, and ext4 recovers."""
    image, data = context.path("debian.img"), context.disk("data", 64 * MIB)
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    with serving(context) as server:
        start(server, "deb", image, "--disk", f"path={data},format=raw,mount=/data,mkfs=on")
        with subprocess.Popen([LODGE, "exec", "--socket", server.socket, "deb", "--", "sh", "-c",
                               "n=0; while n=$((n + 1)); do echo $n >/data/$n; sync -d /data/$n /data; echo $n; done"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
            for line in writer.stdout:
                if int(line) == 20:
                    break
            os.kill(int(server.run("info", "deb", "--json").split('"pid":')[1].split(",")[0]), 9)
            synced = [20, *map(int, writer.stdout.read().split())]
            check("lodge exec" in writer.stderr.read(), "lodge exec says nothing")
            equal(writer.wait(DEADLINE_S), 125, "exit status of lodge exec")
        until("its end", lambda: not server.names())
        start(server, "deb", image, "--disk", f"path={data},format=raw,mount=/data")
        equal(shell(server, "deb", f"cat /data/{max(synced)}"), f"{max(synced)}\n", "the last that was synced")
        server.run("stop", "deb", "--timeout", 200)
    is_clean(data)


@test()
@only("x86_64", "Debian's cloud kernel for Arm has a driver for the power key with ACPI alone")
def agent_that_is_killed(context):
    """Its calls end with an error, the guest goes on, and the power button still works."""
    image = context.path("debian.img")
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    with serving(context) as server:
        start(server, "deb", image)
        server.shows("deb", "login: ")
        with subprocess.Popen([LODGE, "exec", "--socket", server.socket, "deb", "--", "sleep", "1000"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace") as sleeper:
            server.ran(["exec", "deb", "--", "sh", "-c", "kill -9 $(pgrep -f lodge-agent)"], 125)
            equal(sleeper.wait(DEADLINE_S), 125, "exit status of lodge exec")
        check("no agent answers" in server.ran(["exec", "deb", "--", "true"], 125).stderr, "what lodge exec says")
        server.run("stop", "deb", "--timeout", 200)
    is_clean(image)


def run_exec(context, image, command, *arguments, stdin=""):
    return subprocess.run([LODGE, "run", "--kernel", environment("LODGE_GUEST_KERNEL"), "--modules",
                           environment("LODGE_GUEST_MODULES"), "--root", f"path={image},format=raw", "--memory", "256M",
                           "--start-timeout", str(int(DEADLINE_S)), "--stop-timeout", "200",
                           "--console", f"file:{context.path('console')}", "--exec", command, *arguments],
                          input=stdin, capture_output=True, errors="replace", timeout=2 * DEADLINE_S, check=False)


@test(backend=["vhost", "builtin"])
def run_one_command(context, backend):
    """`lodge run --exec`: its streams and its status, a disk mounted for it, and a clean end."""
    image, data = context.path("debian.img"), context.disk("data", 64 * MIB)
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    # it ends when systemd has hardly begun, let alone listens
    done = run_exec(context, image, "cat; echo to stderr >&2; findmnt -n -o SOURCE /data; exit 5", "--vsock",
                    f"backend={backend}", "--disk", f"path={data},format=raw,mount=/data,mkfs=on", stdin="typed\n")
    equal((done.returncode, done.stdout, done.stderr), (5, "typed\n/dev/vdb\n", "to stderr\n"), "what came of it")
    is_clean(image)
    is_clean(data)


@test()
def run_no_shell(context):
    """A root without a shell: the status says that the command could not be started."""
    done = run_exec(context, bare_root(context), "true")
    equal(done.returncode, 127, f"exit status ({done.stderr})")
