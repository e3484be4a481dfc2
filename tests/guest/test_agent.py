"""The agent in Linux guests of `lodge serve`: mounts of the start, and a shutdown that leaves file systems clean."""
import os
import re
import subprocess

from harness import DEADLINE_S, check, environment, equal, run_tool, test

from test_serve import serving

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
              "--disk", f"path={plain},format=raw", "--disk", f"path={c},format=raw,mount=/srv/c,mount_flags=noatime")
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
        server.run("stop", "a", "--timeout", 200)
