"""Machines that are described by a device tree: what it says, and a kernel that knows nothing else."""
import os

from harness import by_machine, check, environment, equal, only, test
from test_boot import no_warnings_in, warnings

ALL_ARE = "on 64-bit Arm the guests of all topics are described by a device tree"


def fdt_guest(context, commands, *arguments, disks=(), cpus=1, cmdline="", **options):
    """As context.guest(), of a kernel without ACPI and PCI."""
    disks = [word for disk in disks for word in ("--disk", disk)]
    return context.lodge("--hw", "fdt", "--kernel", environment("LODGE_GUEST_FDT_KERNEL"),
                         "--initrd", context.artefacts.initrd(modules=False), "--cpus", cpus, "--memory", "128M",
                         "--cmdline", f"loglevel=5 {cmdline} test={'+'.join(commands.split())}",
                         *disks, *arguments, **options)


@test(cpus=[1, 2])
@only("x86_64", ALL_ARE)
def hello(context, cpus):
    """Boots, with all its processors, and switches off: console, interrupts and power come from the tree."""
    vm = fdt_guest(context, "cpus cat:/proc/interrupts dmesg", cpus=cpus).ends(0)
    equal(vm.report("cpus"), str(cpus), "processors online")
    wires = "\n".join(vm.reports("cat /proc/interrupts:"))
    check("IO-APIC" in wires, f"no interrupt is the IOAPIC's:\n{wires}")
    no_warnings_in(warnings(vm))


@test()
@only("x86_64", ALL_ARE)
def disks(context):
    """Written and read back, through interrupts that the tree tells of."""
    paths = [context.disk(f"disk{i}", 8 << 20) for i in range(3)]
    vm = fdt_guest(context, "blkio:vda,0,4M,1,20,1 blkio:vdc,0,4M,1,20,1 rng:16 cat:/proc/interrupts",
                   disks=[f"path={p},format=raw" for p in paths], cpus=2).ends(0)
    used = [line.split() for line in vm.reports("cat /proc/interrupts:") if "virtio" in line]
    check(len(used) >= 3 and all(sum(int(n) for n in words[1:3]) for words in used[:1]), f"interrupts: {used}")


@test()
@only("x86_64", ALL_ARE)
def reboot(context):
    fdt_guest(context, "reboot").ends(3)


@test()
@only("x86_64", ALL_ARE)
def panic(context):
    fdt_guest(context, "panic").ends(4)


@test()
def dump(context):
    """--dump-dtb writes the tree (in which the unit tests have dtc find no fault), and starts nothing."""
    path = context.path("tree.dtb")
    kernel = environment(by_machine(x86_64="LODGE_GUEST_FDT_KERNEL", aarch64="LODGE_GUEST_KERNEL"))
    vm = context.lodge("--hw", "fdt", "--kernel", kernel, "--initramfs", "none", "--dump-dtb", path).ends(0)
    equal(vm.console.text(), "", "what the guest says")
    with open(path, "rb") as file:
        equal(file.read(4), b"\xd0\x0d\xfe\xed", "magic of a device tree")
    check(os.path.getsize(path) < 1 << 16, "the tree is larger than it should be")
