"""qcow2 disks as a guest uses them; what is in the image afterwards is qemu-img's to say."""
import os
import subprocess
import time

from harness import DEADLINE_S, LODGE, NO_ERRORS, check, digest_matches, environment, equal, long, run_tool, test
from test_host import outcomes, small_filesystem

MIB = 1 << 20
OPTIONS = {
    "default": "",
    "v2": "compat=0.10",
    "tiny_clusters": "cluster_size=512,refcount_bits=1",
    "subclusters": "extended_l2=on,cluster_size=32k",
    "lazy": "lazy_refcounts=on,cluster_size=4k,refcount_bits=64",
    "preallocated": "preallocation=metadata",
}


def create(context, name, size, options="", backing=None, backing_format="qcow2"):
    path = context.path(name)
    words = ["-o", options] if options else []
    if backing:
        words += ["-b", backing, "-F", backing_format]
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", *words, path, str(size))
    return path


def convert(context, source, name, *options):
    path = context.path(name)
    run_tool("qemu-img", "convert", *options, source, path)
    return path


def image_check(path, leaks=False):
    """qemu-img finds nothing wrong; with `leaks`, at most clusters that nobody uses (status 3)."""
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    check(done.returncode in ((0, 3) if leaks else (0,)), f"qemu-img check {path}: {done.stdout}{done.stderr}")


def image_matches(context, vm, disk, path, start, length):
    """The guest's digest is that of the image as qemu-img reads it."""
    image_check(path)
    digest_matches(vm, disk, convert(context, path, f"{disk}.raw", "-f", "qcow2", "-O", "raw"), start, length)


@test(options=OPTIONS)
def formats(context, options):
    """Reads, writes, flushes, discards and zeroing on two queues, the first writes of their clusters among them."""
    image = create(context, "disk", 40 * MIB, OPTIONS[options])
    vm = context.guest("disks blkio:vda,1M,32M,2,80,3", cpus=2,
                       disks=[f"path={image},format=qcow2,queues=2"]).ends(0)
    image_matches(context, vm, "vda", image, MIB, 32 * MIB)


@test(transport=["pci", "mmio"], io=["io_uring", "epoll"], direct=["on", "off"])
def ways(context, transport, io, direct):
    """The same through every way to the host's file."""
    image = create(context, "disk", 24 * MIB)
    vm = context.guest("blkio:vda,0,20M,1,60,9", "--transport", transport, "--io", io,
                       disks=[f"path={image},format=qcow2,direct={direct}"]).ends(0)
    image_matches(context, vm, "vda", image, 0, 20 * MIB)


@test()
def chain(context):
    """An overlay over a compressed image over a raw file: read through, and only the overlay is written."""
    raw = context.pattern_disk("raw", 8 * MIB)
    middle = create(context, "middle", 8 * MIB, backing=raw, backing_format="raw")
    packed = convert(context, raw, "packed", "-f", "raw", "-c", "-O", "qcow2")
    top = create(context, "top", 12 * MIB, backing=middle)
    other = create(context, "other", 8 * MIB, backing=packed)
    below = [raw, middle, packed]
    before = [open(path, "rb").read() for path in below]
    vm = context.guest("blkverify:vda,0,8M pread:vda,9M,64K blkverify:vdb,0,8M pwrite:vda,64K,4096,0x21 fsync:vda "
                       "pread:vda,64K,4096",
                       disks=[f"path={top},format=qcow2,backing=on", f"path={other},format=qcow2,backing=on"]).ends(0)
    for disk in ("vda", "vdb"):
        equal(vm.report(f"verified {disk}"), vm.report("verified vda"), "digest")
    equal(vm.reports("first"), ["00 last 00", "21 last 21"], "data")
    for path, content in zip(below, before):
        with open(path, "rb") as file:
            check(file.read() == content, f"{path} was written")
    image_check(top)
    image_check(other)


@test()
def refused(context):
    """What is not asked for is not opened, and what is no qcow2 image is not run: one line that says why."""
    base = context.disk("base", MIB)
    overlay = create(context, "overlay", MIB, backing=base, backing_format="raw")
    broken = create(context, "broken", MIB)
    with open(broken, "r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff\xff\xff")  # cluster_bits
    for path, options, word in ((overlay, "", "backing"), (base, "", "not a qcow2"), (broken, "", "cluster")):
        vm = context.guest("hello", disks=[f"path={path},format=qcow2{options}"])
        status = vm.finish()
        lines = vm.errors.text().splitlines()
        equal((status, len(lines)), (1, 1), f"{path}: exit status and lines of {lines}")
        check(path in lines[0] and word in lines[0].lower(), f"the message says neither {path} nor {word}: {lines[0]!r}")


@test()
def read_only(context):
    """Nothing of a read-only disk changes, and two guests may have it."""
    image = convert(context, context.pattern_disk("raw", 4 * MIB), "disk", "-f", "raw", "-c", "-O", "qcow2")
    with open(image, "rb") as file:
        before = file.read()
    for _ in range(2):
        vm = context.guest("disks wait:go blkverify:vda,0,4M pwrite:vda,0,4096,0x11", cmdline=NO_ERRORS,
                           disks=[f"path={image},format=qcow2,ro=on"])
        vm.wait_for("@ waiting go")
    for vm in context.vms:
        vm.send("\n")
        vm.finish()
        check(not any(o == "errno=0" for o in outcomes(vm, "pwrite")), "a write succeeded")
        check(vm.reports("verified vda"), "not read whole")
    with open(image, "rb") as file:
        check(file.read() == before, "the image has changed")


@test(io=["io_uring", "epoll"])
def full(context, io):
    """ENOSPC in the middle of an allocation: the guest sees an error, goes on with room, and the image is whole."""
    with small_filesystem(context, 4 * MIB) as folder:
        image = os.path.join(folder, "disk")
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", image, "64M")
        vm = context.guest("pwrite:vda,0,1M,0x11 fsync:vda pwrite:vda,1M,8M,0x22 pread:vda,0,1M wait:room "
                           "pwrite:vda,32M,1M,0x33 fsync:vda pread:vda,32M,1M", "--io", io, cmdline=NO_ERRORS, cpus=2,
                           disks=[f"path={image},format=qcow2"])
        vm.wait_for("@ waiting room")
        subprocess.run(["mount", "-o", "remount,size=32M", folder], check=True)
        vm.send("\n")
        vm.ends(0)
        found = outcomes(vm, "pwrite")
        equal((found[0], found[2]), ("errno=0", "errno=0"), "writes with room")
        check(found[1] in ("errno=5", "errno=28"), f"write without room: {found[1]}")
        equal(vm.reports("first"), ["11 last 11", "33 last 33"], "data")
        image_check(image, leaks=True)


@test(lazy=["off", "on"])
def killed(context, lazy):
    """SIGKILL under load: what was flushed is there, the image opens again and is whole."""
    image = create(context, "disk", 64 * MIB, f"lazy_refcounts={lazy},cluster_size=16k")
    vm = context.guest("pwrite:vda,0,4M,0x55 fsync:vda wait:go blkio:vda,8M,48M,2,100000,5", cpus=2,
                       disks=[f"path={image},format=qcow2,queues=2"])
    vm.wait_for("@ waiting go")
    vm.send("\n")
    begin = os.path.getsize(image)
    deadline = time.monotonic() + DEADLINE_S
    while os.path.getsize(image) < begin + 2 * MIB:
        check(vm.process.poll() is None and time.monotonic() < deadline, "the image does not grow")
        time.sleep(0.1)
    vm.process.kill()
    vm.finish()
    again = context.guest("pread:vda,0,4M blkio:vda,8M,32M,2,40,6", cpus=2,
                          disks=[f"path={image},format=qcow2,queues=2"]).ends(0)
    equal(again.reports("first"), ["55 last 55"], "what was flushed")
    image_check(image, leaks=True)
    done = subprocess.run([LODGE, "disk", "check", "--repair", "all", "--format", "qcow2", image], capture_output=True,
                          text=True, check=False)
    check(done.returncode == 0, f"lodge disk check --repair: {done.stdout}{done.stderr}")
    image_check(image)


@test()
def discard_gives_space_back(context):
    image = create(context, "disk", 64 * MIB)
    context.guest("pwrite:vda,0,32M,0x77 fsync:vda", disks=[f"path={image},format=qcow2"]).ends(0)
    before = os.stat(image).st_blocks * 512
    vm = context.guest("discard:vda,0,31M fsync:vda pread:vda,16M,64K pread:vda,31M,64K",
                       disks=[f"path={image},format=qcow2"]).ends(0)
    equal(vm.reports("first"), ["00 last 00", "77 last 77"], "data")
    after = os.stat(image).st_blocks * 512
    check(before > 32 * MIB and after < 4 * MIB, f"{before} bytes before, {after} after")
    image_check(image)


@test(options=["default", "subclusters"])
@long(options=["subclusters"])
def debian_root(context, options):
    """An unprepared Debian root in a compressed image under an overlay: a login, writes, and a clean end."""
    from test_debian import command, log_in
    base = convert(context, environment("LODGE_GUEST_ROOT"), "base", "-f", "raw", "-c", "-O", "qcow2")
    size = os.path.getsize(environment("LODGE_GUEST_ROOT"))
    image = create(context, "root", size, OPTIONS[options], backing=base)
    vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                       "--root", f"path={image},format=qcow2,backing=on", "--cpus", "2", "--memory", "512M", terminal=True)
    log_in(vm)
    check("status=0" in command(vm, "dd if=/dev/urandom of=/data bs=1M count=16 status=none && sync && "
                                    "sha256sum /data >/data.sum"), "writing a file")
    check("status=0" in command(vm, "echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /data.sum"), "reading it again")
    vm.send("systemctl poweroff\n")
    vm.ends(0)
    image_check(image)
    raw = convert(context, image, "flat", "-f", "qcow2", "-O", "raw")
    checked = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
    equal(checked.returncode, 0, f"file system check: {checked.stdout[-500:]}")
