"""virtio-blk as a guest uses it, checked byte by byte in the guest and then in the image file."""
import os

import pattern
from harness import NO_ERRORS, check, digest_matches, equal, long, test

MIB = 1 << 20


def facts(vm, name):
    """What the guest's kernel says of a disk."""
    for line in vm.reports("disk"):
        found, *words = line.split()
        if found == name:
            return dict(word.split("=", 1) for word in words)
    return {}


@test(transport=["pci", "mmio"], io=["io_uring", "epoll"], queues=[1, 2, 3, 4])
@long(queues=[2, 3])
def io(context, transport, io, queues):
    """Reads, writes, flushes, discards and zeroing on every queue at once."""
    image = context.disk("disk", 40 * MIB)
    vm = context.guest(f"disks blkio:vda,1M,32M,{queues},60,{queues} irqs", "--transport", transport, "--io", io,
                       cpus=queues, disks=[f"path={image},format=raw,queues={queues}"]).ends(0)
    equal(facts(vm, "vda")["mq"], str(queues), "queues")
    digest_matches(vm, "vda", image, MIB, 32 * MIB)
    check(not any(pattern.digest_of_file(image, start, MIB)[0] for start in (0, 33 * MIB)), "written out of range")
    if transport == "pci":
        counts = [int(line.split()[1]) for line in vm.reports("irq") if "-req." in line]
        equal(len(counts), queues, "interrupts of queues")
        check(all(counts), f"a queue had no interrupt: {counts}")


@test(io=["io_uring", "epoll"])
def direct(context, io):
    """O_DIRECT on the host, whatever the guest's alignment."""
    image = context.disk("disk", 40 * MIB)
    vm = context.guest("disks blkio:vda,1M,32M,2,80,7", "--io", io, cpus=2,
                       disks=[f"path={image},format=raw,direct=on"]).ends(0)
    digest_matches(vm, "vda", image, MIB, 32 * MIB)


@test(transport=["pci", "mmio"])
def two_disks(context, transport):
    """Several disks at once, of which one bypasses the cache and one has no write cache."""
    images = [context.disk(f"disk{i}", 20 * MIB) for i in range(3)]
    options = ("queues=1", "direct=on,queues=2", "cache=writethrough")
    vm = context.guest("blkio:vda,0,16M,2,40,1 blkio:vdb,0,16M,2,40,2 blkio:vdc,0,16M,2,40,3", "--transport",
                       transport, cpus=2,
                       disks=[f"path={image},format=raw,{o}" for image, o in zip(images, options)]).ends(0)
    for name, image in zip(("vda", "vdb", "vdc"), images):
        digest_matches(vm, name, image, 0, 16 * MIB)


@test(transport=["pci", "mmio"])
def properties(context, transport):
    """Size, serial number, block size, cache mode and what the disk can do, as asked for."""
    first = context.disk("first", 5 * MIB + 512)
    second = context.disk("second", MIB)
    vm = context.guest("disks", "--transport", transport, cpus=4,
                       disks=[f"path={first},format=raw,serial=S-1234567890abcdefg,queues=3",
                              f"path={second},format=raw,ro=on,cache=writethrough"]).ends(0)
    one, two = facts(vm, "vda"), facts(vm, "vdb")
    equal(one["size"], str((5 * MIB + 512) // 512), "size in sectors")
    equal(one["serial"], "S-1234567890abcdefg", "serial")
    equal((one["mq"], one["ro"], one["cache_type"]), ("3", "0", "write_back"), "queues, read-only, cache")
    equal(one["logical_block_size"], "512", "logical block size")
    check(int(one["physical_block_size"]) >= 512, "physical block size")
    check(int(one["discard_max_bytes"]) > 0 and int(one["write_zeroes_max_bytes"]) > 0, f"no discard: {one}")
    check(int(one["max_segments"]) > 32, "few segments")
    equal((two["size"], two["ro"], two["cache_type"]), ("2048", "1", "write_through"), "second disk")


@test(transport=["pci", "mmio"])
def cache_toggle(context, transport):
    """The guest may switch the write cache off and on."""
    image = context.disk("disk", 20 * MIB)
    cache = "/sys/block/vda/cache_type"
    vm = context.guest(f"write:{cache},write_through cat:{cache} cat:/sys/block/vda/queue/write_cache "
                       f"blkio:vda,0,16M,1,40,1 write:{cache},write_back cat:{cache} blkio:vda,0,8M,1,20,2",
                       "--transport", transport, disks=[f"path={image},format=raw"])
    vm.finish()
    # the second run starts on what the first one wrote: only the toggling itself is of interest there
    found = vm.reports(f"cat {cache}:")
    equal(found, ["write through", "write back"], "cache type")
    equal(vm.report("cat /sys/block/vda/queue/write_cache:"), "write through", "the kernel's view")


@test(transport=["pci", "mmio"])
def read_only(context, transport):
    """A read-only disk is read, and no byte of it is ever changed."""
    image = context.pattern_disk("disk", MIB)
    os.chmod(image, 0o444)
    with open(image, "rb") as file:
        before = file.read()
    vm = context.guest("disks blkverify:vda,0,1M write:/sys/block/vda/ro,0 pwrite:vda,0,4096 ",
                       "--transport", transport, disks=[f"path={image},format=raw,ro=on"])
    vm.finish()
    equal(facts(vm, "vda")["ro"], "1", "ro")
    digest, _ = pattern.digest_of_file(image, 0, MIB)
    equal(vm.report("verified vda"), f"{digest:016x}", "digest")
    check(not any(line.endswith("errno=0") for line in vm.reports("pwrite")), "a write succeeded")
    with open(image, "rb") as file:
        check(file.read() == before, "the image has changed")


@test(transport=["pci", "mmio"])
def edges(context, transport):
    """The last sector of an odd size, and what lies behind it."""
    size = 3 * MIB + 512
    image = context.pattern_disk("disk", size)
    vm = context.guest(f"blkverify:vda,0,{size} pread:vda,{size - 512},512 pwrite:vda,{size - 512},512,0x41 fsync:vda "
                       f"pread:vda,{size},512", "--transport", transport, cmdline=NO_ERRORS,
                       disks=[f"path={image},format=raw"]).ends(0)
    outcomes = [line.split()[-1] for line in vm.reports("pread") + vm.reports("pwrite") + vm.reports("fsync")]
    equal(outcomes, ["errno=0", "errno=5", "errno=0", "errno=0"], "outcomes")
    equal(os.path.getsize(image), size, "size of the image")
    with open(image, "rb") as file:
        file.seek(size - 512)
        equal(file.read(), b"\x41" * 512, "last sector")


@test(io=["io_uring", "epoll"])
def discard_gives_back(context, io):
    """A discard frees the host's blocks; zeroing reads as zeroes; neither changes the size."""
    size = 16 * MIB
    image = context.pattern_disk("disk", size)
    before = os.stat(image).st_blocks
    vm = context.guest("discard:vda,4M,8M zeroout:vda,12M,1M pread:vda,4M,1M pread:vda,12M,1M fsync:vda", "--io", io,
                       disks=[f"path={image},format=raw"]).ends(0)
    equal(vm.report("discard").split()[-1], "errno=0", "discard")
    equal(vm.reports("first"), ["00 last 00", "00 last 00"], "content")
    check(os.stat(image).st_blocks < before - 7 * MIB // 512, "the host's blocks were not freed")
    equal(os.path.getsize(image), size, "size")
    wanted, errors = pattern.digest_of_file(image, 0, 4 * MIB)
    check(wanted and not errors, "what lies before the range has changed")
    wanted, errors = pattern.digest_of_file(image, 13 * MIB, 3 * MIB)
    check(wanted and not errors, "what lies behind the range has changed")


@test()
def no_discard(context):
    """discard=off: the data stays."""
    image = context.pattern_disk("disk", MIB)
    with open(image, "rb") as file:
        before = file.read()
    context.guest("discard:vda,0,1M", disks=[f"path={image},format=raw,discard=off"]).finish()
    with open(image, "rb") as file:
        check(file.read() == before, "the image has changed")


@test(transport=["pci", "mmio"], io=["io_uring", "epoll"])
def unbind(context, transport, io):
    """The driver leaves and comes back while requests run; what was written stays."""
    image = context.disk("disk", 20 * MIB)
    vm = context.guest("blkio:vda,0,16M,2,150,9,3", "--transport", transport, "--io", io, cpus=2,
                       disks=[f"path={image},format=raw,queues=2"]).ends(0)
    digest_matches(vm, "vda", image, 0, 16 * MIB)


@test(transport=["pci", "mmio"])
def rebind(context, transport):
    """Reset and set-up, many times in a row."""
    image = context.pattern_disk("disk", MIB)
    vm = context.guest("unbind:vda,30 blkverify:vda,0,1M", "--transport", transport, cpus=2,
                       disks=[f"path={image},format=raw,queues=2"]).ends(0)
    digest, _ = pattern.digest_of_file(image, 0, MIB)
    equal(vm.report("verified vda"), f"{digest:016x}", "digest")


@test()
def many_disks(context):
    """As many as there is room for."""
    images = [context.pattern_disk(f"disk{i}", 64 << 10, i + 1) for i in range(20)]
    names = ["vd" + chr(ord("a") + i) for i in range(20)]
    vm = context.guest("disks " + " ".join(f"blkverify:{name},0,64K" for name in names),
                       disks=[f"path={image},format=raw" for image in images]).ends(0)
    for name, image in zip(names, images):
        digest, _ = pattern.digest_of_file(image, 0, 64 << 10)
        equal(vm.report(f"verified {name}"), f"{digest:016x}", name)


@test(io=["io_uring", "epoll"])
def flushed_is_durable(context, io):
    """What the guest has flushed is in the file when lodge is killed at once."""
    image = context.disk("disk", 8 * MIB)
    vm = context.guest("pwrite:vda,1M,1M,0x5a fsync:vda sleep", "--io", io, disks=[f"path={image},format=raw"])
    vm.wait_for("@ sleeping")
    vm.process.kill()
    vm.finish()
    equal(vm.report("fsync").split()[-1], "errno=0", "fsync")
    with open(image, "rb") as file:
        file.seek(MIB)
        check(file.read(MIB) == b"\x5a" * MIB, "the flushed data is not in the file")
