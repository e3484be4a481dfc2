"""Guests boot, and find the machine that was asked for."""
import os
import re
import struct
import time

from harness import Failure, Skip, by_machine, check, environment, equal, only, run_tool, test

# Warnings that a guest of QEMU shows on the same host as well, so nothing that a VMM can avoid.
UNAVOIDABLE = (
    # mitigations: what the host's processor needs or lacks
    r"^(Spectre V2|MDS|TAA|MMIO Stale Data|RETBleed|SRSO|TSA|ITS|GDS|VMSCAPE)\b",
    r"^Speculative Return Stack Overflow",
    # a machine without PCI
    r"^PCI: (Fatal: No config space access function found|System does not support PCI)",
    # a slow (emulated) or busy host
    r"^clocksource: (Long readout interval|timekeeping watchdog)",
    r"^rcu: INFO: |^hrtimer: interrupt took",
)


def unexplained(messages, unavoidable=UNAVOIDABLE):
    """Of the kernel's messages, those that nothing above explains."""
    lines = "\n".join(messages).splitlines()
    return [line for line in lines if not any(re.search(u, line) for u in unavoidable)]


def no_warnings_in(messages, unavoidable=UNAVOIDABLE):
    found = unexplained(messages, unavoidable)
    check(not found, f"{len(found)} warnings of the kernel: " + " / ".join(found[:12]))


def warnings(vm):
    """The kernel's warnings, without their level."""
    return [line.partition(" ")[2] for line in vm.reports("dmesg")]


@test(transport=["pci", "mmio"])
def hello(context, transport):
    """Boots to init, which switches off."""
    vm = context.guest("hello", "--transport", transport).ends(0)
    vm.report("hello")
    equal(len(vm.errors.text().splitlines()), 1, "lines on standard error")
    check("power" in vm.errors.text(), f"lodge does not say why it ended: {vm.errors.text()!r}")


@test(cpus=[1, 2, 4])
def cpus(context, cpus):
    vm = context.guest("cpus cat:/sys/devices/system/cpu/cpu0/topology/core_cpus_list "
                       "cat:/sys/devices/system/cpu/possible dmesg", cpus=cpus).ends(0)
    equal(vm.report("cpus"), str(cpus), "processors online")
    last = "0" if cpus == 1 else f"0-{cpus - 1}"
    equal(vm.report("cat /sys/devices/system/cpu/possible:"), last, "possible processors")
    no_warnings_in(warnings(vm))


@test(memory=["128M", "1G", "5G"])
def memory(context, memory):
    """All of it is there, above and below the hole at 4 GiB, and can be used."""
    vm = context.guest("memory:64 cat:/proc/iomem", memory=memory).ends(0)
    wanted = int(memory[:-1]) << (10 if memory.endswith("M") else 20)
    found = int(vm.report("memory"))
    # the kernel itself and its page structures
    check(wanted * 0.97 - 96 * 1024 < found < wanted, f"{found} KiB usable of {wanted}")
    ranges = re.findall(r"iomem: ([0-9a-f]+)-([0-9a-f]+) : System RAM", vm.console.text())
    total = sum(int(last, 16) - int(first, 16) + 1 for first, last in ranges)
    check(wanted * 1024 - (1 << 20) <= total <= wanted * 1024, f"System RAM: {total} bytes")


@test(transport=["pci", "mmio"], cpus=[1, 2])
def no_warnings(context, transport, cpus):
    """ACPI, interrupts, PCI and virtio give the kernel nothing to warn of."""
    disk = context.disk("disk", 1 << 20)
    vm = context.guest("clock rng:64 pread:vda,0,4096 dmesg", "--transport", transport, cpus=cpus,
                       disks=[f"path={disk},format=raw"]).ends(0)
    no_warnings_in(warnings(vm))


@test()
def clocks(context):
    """The time of day comes from the clock chip; the kernel runs on the clock of its virtual machine."""
    before = int(time.time())
    vm = context.guest("clock").ends(0)
    after = int(time.time())
    seconds, source = vm.report("clock").split()
    equal(source, by_machine(x86_64="kvm-clock", aarch64="arch_sys_counter"), "clock source")
    check(before - 2 <= int(seconds) <= after + 2, f"time of day {seconds} is not in {before}..{after}")
    rtc = vm.report("rtc")
    check(rtc.isdigit() and before - 2 <= int(rtc) <= after + 2, f"rtc: {rtc} is not in {before}..{after}")


@test(transport=["pci", "mmio"])
def random_numbers(context, transport):
    vm = context.guest("rng:4096", "--transport", transport).ends(0)
    count, different = vm.report("rng").split()
    equal(count, "4096", "bytes")
    check(int(different) > 250, f"only {different} different bytes of 256 among 4096")


@test()
def no_rng(context):
    vm = context.guest("cat:/sys/class/misc/hw_random/rng_available", "--no-rng").ends(0)
    check("virtio_rng" not in vm.report("cat"), "there is a virtio-rng")


@test()
def command_line(context):
    """The user's words come last and whole, up to the kernel's limit."""
    words = "first=1 quoted=\"a b\" " + "x" * 1500
    vm = context.guest("cat:/proc/cmdline", cmdline=words).ends(0)
    check(words in vm.console.text(), "the command line is cut")


@test()
@only("x86_64", "--cpu hides features by CPUID")
def cpu_features(context):
    """--cpu host,-feature hides it."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        host = next(line for line in file if line.startswith("flags")).split()
    names = [name for name in ("aes", "rdrand", "sse4_2", "smap") if name in host][:2]
    if len(names) < 2:
        raise Skip("the host's processor has none of the features that are tried")
    shown, hidden = names
    vm = context.guest(f"flag:{shown} flag:{hidden} flag:hypervisor", "--cpu", f"host,-{hidden}").ends(0)
    equal(vm.reports("flag"), [f"{shown} 1", f"{hidden} 0", "hypervisor 1"], "features")


def unpacked_kernel(context):
    """The vmlinux within a bzImage (Linux Documentation/x86/boot.rst: payload_offset)."""
    def make(path):
        with open(environment("LODGE_GUEST_KERNEL"), "rb") as file:
            image = file.read()
        setup = (image[0x1F1] or 4) * 512 + 512
        offset, length = struct.unpack_from("<II", image, 0x248)
        payload = image[setup + offset:setup + offset + length]
        tools = {b"\x02\x21\x4c\x18": "lz4", b"\xfd7zXZ\0"[:4]: "xz", b"\x28\xb5\x2f\xfd": "zstd"}
        tool = tools.get(payload[:4], "gzip")
        with open(path + ".packed", "wb") as file:
            file.write(payload[:-4])
        with open(path, "wb") as file:
            file.write(unpack(tool, path + ".packed"))
        os.unlink(path + ".packed")
    return context.artefacts.once("vmlinux", make)


def unpack(tool, path):
    import subprocess
    run_tool(tool, "--version")
    with open(path, "rb") as file:
        return subprocess.run([tool, "-dc"], stdin=file, check=True, capture_output=True).stdout


@test()
@only("x86_64", "an ELF kernel is entered through PVH")
def elf_kernel(context):
    """An ELF vmlinux boots as well."""
    kernel = unpacked_kernel(context)
    vm = context.lodge("--kernel", kernel, "--initrd", context.artefacts.initrd(), "--memory", "256M",
                       "--cmdline", "loglevel=5 test=hello")
    vm.ends(0).report("hello")


@test()
@only("aarch64", "there a distribution's kernel is not compressed by itself")
def gzipped_kernel(context):
    """A distribution's Image as Image.gz."""
    vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL_GZ"), "--initrd", context.artefacts.initrd(),
                       "--memory", "256M", "--cmdline", "loglevel=5 test=hello")
    vm.ends(0).report("hello")


@test(flavour=by_machine(x86_64=["bzImage", "vmlinux"], aarch64=["Image", "Image.gz"]))
def tiny_kernel(context, flavour):
    """A kernel built without modules."""
    folder = environment("LODGE_GUEST_TINY")
    vm = context.lodge("--kernel", os.path.join(folder, flavour), "--initrd", context.artefacts.initrd(modules=False),
                       "--memory", "128M", "--cmdline", "test=hello")
    vm.ends(0).report("hello")


def own_root(context):
    """An ext4 root file system whose init is ours."""
    from harness import GUEST_INIT
    tree = context.path("tree")
    for folder in ("sbin", "dev", "proc", "sys", "run", "tmp"):
        os.makedirs(os.path.join(tree, folder))
    for name in ("init", "other"):
        with open(GUEST_INIT, "rb") as source, open(os.path.join(tree, "sbin", name), "wb") as copy:
            copy.write(source.read())
        os.chmod(os.path.join(tree, "sbin", name), 0o755)
    image = context.path("root.img")
    run_tool("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "32M")
    return image


@test(transport=["pci", "mmio"], options=["", ",ro=on", ",direct=on"])
def root_disk(context, transport, options):
    """Our own initramfs brings a distribution kernel to a root file system on a disk."""
    image = own_root(context)
    vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                       "--root", f"path={image},format=raw{options}", "--transport", transport, "--memory", "256M",
                       "--cmdline", "loglevel=4 test=hello+cat:/proc/mounts+dmesg").ends(0)
    mounts = [line.split() for line in vm.reports("cat /proc/mounts:")]
    root = [m for m in mounts if m[1] == "/" and m[2] == "ext4"]
    check(root, f"no ext4 root among {mounts}")
    equal(root[-1][3].split(",")[0], "ro" if "ro=on" in options else "rw", "root mounted")
    no_warnings_in(warnings(vm))


@test()
def other_init(context):
    image = own_root(context)
    vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                       "--root", f"path={image},format=raw", "--init", "/sbin/other", "--memory", "256M",
                       "--cmdline", "loglevel=4 test=cat:/proc/self/cmdline").ends(0)
    check("/sbin/other" in vm.report("cat"), f"init is {vm.report('cat')}")


@test()
def missing_init(context):
    """A root without the init that was asked for ends with a word on the console, and no hang."""
    image = own_root(context)
    vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                       "--root", f"path={image},format=raw", "--init", "/sbin/absent", "--memory", "256M",
                       "--cmdline", "loglevel=4")
    status = vm.finish()
    check(status not in (0, 2), f"exit status {status}")
    if "/sbin/absent" not in vm.console.text() + vm.errors.text():
        raise Failure("nobody names the missing program")
