"""Guests that write nonsense to every register and ring: the VMM lives, stays small and does not spin."""
import time

from harness import check, equal, only, test

MIB = 1 << 20
RELAXED = "iomem=relaxed"
# beside guest memory; a sanitizer's own memory is far above
ANONYMOUS_MAX_KIB = 48 * 1024


def calm(vm):
    """An idle guest, after all that: neither memory nor processor time is being eaten."""
    import harness
    if "asan" not in harness.LODGE and "tsan" not in harness.LODGE:
        anonymous = vm.own_kib()
        check(anonymous < ANONYMOUS_MAX_KIB, f"lodge holds {anonymous} KiB beside guest memory")
    before, start = vm.cpu_seconds(), time.monotonic()
    time.sleep(2)  # the measurement itself
    share = (vm.cpu_seconds() - before) / (time.monotonic() - start)
    check(share < 0.8, f"lodge uses {share:.0%} of a processor while its guest waits")


def still_works(context, commands, *arguments, **options):
    """Runs the commands, then looks at the idle VM, then wants I/O on the first disk and a power-off."""
    first = context.disk("first", 8 * MIB)
    second = context.disk("second", 8 * MIB)
    vm = context.guest(f"{commands} wait:calm blkio:vda,0,4M,1,20,1 rng:16", *arguments,
                       disks=[f"path={first},format=raw", f"path={second},format=raw"], **options)
    vm.wait_for("@ waiting calm")
    calm(vm)
    vm.send("\n")
    vm.ends(0)
    return vm


@test(seed=[1, 2])
@only("x86_64", "no other processor has ports")
def ports(context, seed):
    """Every port is read; those of our devices get nonsense, in items and in strings."""
    still_works(context, f"ports:6000,{seed}", cmdline=RELAXED).report("ports written")


@test(seed=[1, 2])
def uart(context, seed):
    """The serial port's registers. The guest's kernel must not know of the port: its interrupt handler would
    believe what it reads there. So the guest tells by its disk."""
    image = context.disk("disk", MIB)
    vm = context.guest(f"uart:8000,{seed} pwrite:vda,0,4096,0x51 fsync:vda sleep:10 pwrite:vda,4096,4096,0x52 fsync:vda",
                       cmdline="8250.nr_uarts=0", disks=[f"path={image},format=raw"])
    end = time.monotonic() + 200
    while time.monotonic() < end and vm.process.poll() is None and not holds(image, 0, 0x51):
        time.sleep(0.1)
    check(holds(image, 0, 0x51), "the guest did not get through")
    calm(vm)
    vm.ends(0)
    check(holds(image, 4096, 0x52), "the guest did not go on")


def holds(image, offset, byte):
    with open(image, "rb") as file:
        file.seek(offset)
        return file.read(4096) == bytes([byte]) * 4096


@test(seed=[1, 2])
def pci_config(context, seed):
    """Configuration space of every function, by ECAM and, on x86, by ports."""
    still_works(context, f"config:8000,{seed}", cmdline=RELAXED).report("config written")


@test(transport=["pci", "mmio"], device=["vdb", "rng"])
def registers(context, transport, device):
    still_works(context, f"registers:{device},8000,1 registers:{device},8000,2", "--transport", transport,
                cmdline=RELAXED).report("registers written")


@test(transport=["pci", "mmio"])
@only("aarch64", "elsewhere KVM decodes every access")
def undecoded(context, transport):
    """Instructions that give KVM no syndrome, on a device's registers: the guest's program gets a bus error."""
    equal(still_works(context, "undecoded:vdb", "--transport", transport, cmdline=RELAXED).report("undecoded"),
          "4, bus errors 4", "accesses")


@test(transport=["pci", "mmio"], io=["io_uring", "epoll"])
def rings(context, transport, io):
    """Requests that break virtio's rules are refused; the device resets and works again."""
    vm = still_works(context, "rings:vdb", "--transport", transport, "--io", io, cmdline=RELAXED)
    vm.report("rings done")
    check(len(vm.reports("case")) > 50, "cases are missing")


@test(transport=["pci", "mmio"], device=["vdb", "rng"])
def garbage(context, transport, device):
    """Rings full of nonsense, changed while the device reads them."""
    still_works(context, f"garbage:{device},200,1 garbage:{device},200,2", "--transport", transport,
                cmdline=RELAXED).report("garbage done")


@test(transport=["pci", "mmio"], io=["io_uring", "epoll"])
def reset_in_flight(context, transport, io):
    """A reset with requests in flight returns, and nothing is written to the guest afterwards."""
    vm = still_works(context, "inflight:vdb,30,1", "--transport", transport, "--io", io, cmdline=RELAXED)
    equal(vm.report("inflight done").split(",")[0], "30", "rounds")


@test()
def reset_in_flight_direct(context):
    """The same with O_DIRECT, where the host's disk writes into guest memory."""
    image = context.pattern_disk("disk", MIB)
    vm = context.guest("inflight:vda,30,2 blkverify:vda,0,1M", cmdline=RELAXED,
                       disks=[f"path={image},format=raw,direct=on"]).ends(0)
    vm.report("verified")


@test(transport=["pci", "mmio"])
def ends_while_busy(context, transport):
    """The machine is stopped while disks work: no hang, no crash."""
    image = context.disk("disk", 40 * MIB)
    vm = context.guest("hello blkio:vda,0,32M,4,100000,1", "--transport", transport, "--stop-timeout", "0", cpus=2,
                       disks=[f"path={image},format=raw,queues=2"])
    vm.wait_for("@ hello")
    time.sleep(1)  # anywhere in the midst of it
    vm.process.terminate()
    vm.ends(128 + 15)
