"""A disk of the host fails or fills up: the guest sees an error, and the VM lives."""
import contextlib
import os
import subprocess

import devmapper
from harness import NO_ERRORS, check, digest_matches, equal, need_root, test

MIB = 1 << 20


def outcomes(vm, kind):
    return [line.split()[-1] for line in vm.reports(kind)]


@contextlib.contextmanager
def small_filesystem(context, size):
    """A tmpfs of `size` bytes."""
    need_root()
    folder = context.path("small")
    os.mkdir(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", folder], check=True)
    try:
        yield folder
    finally:
        for vm in context.vms:
            vm.close()
        subprocess.run(["umount", folder], check=True)


@test(io=["io_uring", "epoll"])
def full(context, io):
    """ENOSPC: writes fail, reads and the other disk go on; with room again, so do writes."""
    other = context.disk("other", 8 * MIB)
    with small_filesystem(context, 4 * MIB) as folder:
        image = os.path.join(folder, "disk")
        with open(image, "wb") as file:
            file.truncate(16 * MIB)
        vm = context.guest("pwrite:vda,0,1M,0x11 fsync:vda pwrite:vda,1M,8M,0x22 pread:vda,0,1M "
                           "blkio:vdb,0,4M,2,40,1 wait:room pwrite:vda,8M,1M,0x33 fsync:vda pread:vda,8M,1M", "--io", io,
                           cmdline=NO_ERRORS, cpus=2, disks=[f"path={image},format=raw", f"path={other},format=raw"])
        vm.wait_for("@ waiting room")
        subprocess.run(["mount", "-o", "remount,size=32M", folder], check=True)
        vm.send("\n")
        vm.ends(0)
        write = outcomes(vm, "pwrite")
        equal(write[0], "errno=0", "write with room")
        check(write[1] in ("errno=5", "errno=28"), f"write without room: {write[1]}")
        equal(write[2], "errno=0", "write with room again")
        equal(vm.reports("first"), ["11 last 11", "33 last 33"], "data")
        equal(outcomes(vm, "fsync")[0], "errno=0", "flush")
        digest_matches(vm, "vdb", other, 0, 4 * MIB)


@test(io=["io_uring", "epoll"], transport=["pci", "mmio"])
def fails_and_heals(context, io, transport):
    """EIO on a range of a block device: only what touches it fails, and only while it does."""
    other = context.disk("other", 8 * MIB)
    backing = context.disk("backing", 16 * MIB)
    with contextlib.closing(devmapper.Device(f"lodge-test-{os.getpid()}-{id(context)}", backing)) as device:
        try:
            vm = context.guest("pwrite:vda,8M,64K,0x11 pwrite:vda,0,64K,0x22 fsync:vda wait:fail "
                               "pread:vda,8M,64K pwrite:vda,8M,64K,0x33 pread:vda,0,64K pwrite:vda,4M,1M,0x44 "
                               "blkio:vdb,0,4M,2,40,1 wait:heal "
                               "pwrite:vda,8M,64K,0x55 fsync:vda pread:vda,8M,64K", "--io", io, "--transport", transport,
                               cmdline=NO_ERRORS, cpus=2,
                               disks=[f"path={device.path},format=raw,direct=on", f"path={other},format=raw"])
            vm.wait_for("@ waiting fail")
            device.fail(8 * MIB // 512, MIB // 512)
            vm.send("\n")
            vm.wait_for("@ waiting heal")
            device.heal()
            vm.send("\n")
            vm.ends(0)
        finally:
            for vm in context.vms:
                vm.close()
    equal(outcomes(vm, "pread"), ["errno=5", "errno=0", "errno=0"], "reads")
    equal(outcomes(vm, "pwrite"), ["errno=0", "errno=0", "errno=5", "errno=0", "errno=0"], "writes")
    equal(vm.reports("first"), ["22 last 22", "55 last 55"], "data")
    digest_matches(vm, "vdb", other, 0, 4 * MIB)


@test(io=["io_uring", "epoll"])
def flush_fails(context, io):
    """A flush that the host could not do is never reported as done."""
    backing = context.disk("backing", 16 * MIB)
    with contextlib.closing(devmapper.Device(f"lodge-flush-{os.getpid()}-{id(context)}", backing)) as device:
        try:
            # through the host's page cache: the write itself succeeds there, only the flush meets the disk
            vm = context.guest("wait:fail pwrite:vda,1M,1M,0x11 fsync:vda wait:heal pwrite:vda,1M,1M,0x22 fsync:vda",
                               "--io", io, cmdline=NO_ERRORS, disks=[f"path={device.path},format=raw"])
            vm.wait_for("@ waiting fail")
            device.fail()
            vm.send("\n")
            vm.wait_for("@ waiting heal")
            device.heal()
            vm.send("\n")
            vm.ends(0)
        finally:
            for vm in context.vms:
                vm.close()
    equal(outcomes(vm, "fsync")[0], "errno=5", "flush of a failing disk")


@test(io=["io_uring", "epoll"])
def truncated(context, io):
    """The image file shrinks under the guest: reads behind its end fail or give zeroes, and nothing hangs."""
    image = context.pattern_disk("disk", 4 * MIB)
    vm = context.guest("pread:vda,2M,64K wait:cut pread:vda,2M,64K pread:vda,0,64K pwrite:vda,3M,64K,0x66 fsync:vda",
                       "--io", io, cmdline=NO_ERRORS, disks=[f"path={image},format=raw"])
    vm.wait_for("@ waiting cut")
    os.truncate(image, MIB)
    vm.send("\n")
    vm.ends(0)
    found = outcomes(vm, "pread")
    equal((found[0], found[2]), ("errno=0", "errno=0"), "reads of what is there")
    check(found[1] == "errno=5" or "00 last 00" in vm.reports("first"), "a read behind the end gave stale data")
