"""The command lines of the machine monitors that are measured side by side."""
import os
import shutil

MAC = "02:00:00:00:00:99"  # the same for all: the host remembers it
COMMON = "console=ttyS0 quiet panic=-1"


def lodge(kernel, initrd, words, memory_mib, disk=None, cpus=1):
    command = ["build/lodge", "run", "--kernel", kernel, "--initrd", initrd, "--cpus", str(cpus),
               "--memory", f"{memory_mib}M", "--cmdline", f"quiet {words}", "--log", "error"]
    if disk:
        command += ["--disk", f"path={disk},format=raw,direct=on"]
    return command


def lodge_static(*args, **kwargs):
    """Without libraries to load, as a kvmtool of its own sources usually is."""
    return ["build/static/lodge"] + lodge(*args, **kwargs)[1:]


def lodge_payload(payload, words, disk, image_format="raw"):
    return ["build/lodge", "run", "--kernel", payload, "--initramfs", "none", "--transport", "mmio", "--memory", "64M",
            "--cmdline", words, "--disk", f"path={disk},format={image_format},direct=on", "--log", "error"]


def qemu_payload(payload, words, disk, image_format="raw"):
    """The payload is entered through PVH; the processor is a plain one, because a /dev/kvm that emulates guest
    kernels lacks registers that -cpu host wants."""
    return ["qemu-system-x86_64", "-M", "microvm,x-option-roms=off,pit=off,pic=off,isa-serial=on,acpi=off", "-accel", "kvm",
            "-cpu", "qemu64", "-m", "64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-serial", "stdio", "-kernel", payload, "-append", words, "-global", "virtio-mmio.force-legacy=false",
            "-object", "iothread,id=io",
            "-drive", f"id=d,file={disk},format={image_format},if=none,aio=io_uring,cache=none",
            "-device", "virtio-blk-device,drive=d,iothread=io"]


def qemu_microvm(kernel, initrd, words, memory_mib, disk=None, cpus=1, acpi=False):
    """The minimal microvm that starts fastest: without its RTC a kernel waits a second for one. An
    ELF kernel is entered through PVH."""
    machine = f"microvm,x-option-roms=off,rtc=on,pit=off,pic=off,isa-serial=on,acpi={'on' if acpi else 'off'}"
    command = ["qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-cpu", "host", "-m", str(memory_mib),
               "-smp", str(cpus), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", f"{COMMON} reboot=t {words}"]
    if disk:
        command += ["-object", "iothread,id=io", "-drive",
                    f"id=d,file={disk},format=raw,if=none,aio=io_uring,cache=none",
                    "-device", "virtio-blk-device,drive=d,iothread=io"]
    return command


def lodge_vsock(kernel, initrd, option):
    return lodge(kernel, initrd, "bench=vsock", 128) + ["--vsock", option]


def qemu_vsock(kernel, initrd, cid):
    return qemu_microvm(kernel, initrd, "bench=vsock", 128) + [
        "-global", "virtio-mmio.force-legacy=false", "-device", f"vhost-vsock-device,guest-cid={cid}"]


def lodge_net(kernel, root, init, tap, backend):
    return ["build/lodge", "run", "--kernel", kernel, "--initramfs", "none", "--root", f"path={root},format=raw,ro=on",
            "--memory", "256M", "--init", init, "--log", "error", "--net", f"tap={tap},backend={backend},spoof=on,mac={MAC}"]


def qemu_net(kernel, root, init, tap, vhost):
    """Its devices are on PCI as ours, with MSI-X: by MMIO its interrupts would go through its main loop."""
    machine = "microvm,x-option-roms=off,rtc=on,pit=off,pic=off,isa-serial=on,acpi=on,pcie=on"
    return ["qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
            "-append", f"{COMMON} reboot=t root=/dev/vda ro init={init}",
            "-drive", f"id=d,file={root},format=raw,if=none,readonly=on", "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
            "-netdev", f"tap,id=n,ifname={tap},script=no,downscript=no,vhost={vhost}",
            "-device", f"virtio-net-pci,netdev=n,mac={MAC},disable-legacy=on"]


def kvmtool_net(kernel, root, init, tap):
    command = kvmtool(kernel, "", f"root=/dev/vda ro init={init}", 256)
    command[command.index("-i"):command.index("-i") + 2] = []
    return command + ["-d", f"{root},ro", "-n", f"mode=tap,tapif={tap},guest_mac={MAC}"]


def qemu_virt(kernel, initrd, words, memory_mib, disk=None, cpus=1):
    """QEMU's machine on 64-bit Arm, with nothing that it does not need."""
    command = ["qemu-system-aarch64", "-M", "virt,gic-version=host", "-accel", "kvm", "-cpu", "host", "-m", str(memory_mib),
               "-smp", str(cpus), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", f"console=ttyAMA0 quiet panic=-1 {words}"]
    if disk:
        command += ["-object", "iothread,id=io", "-drive", f"id=d,file={disk},format=raw,if=none,aio=io_uring,cache=none",
                    "-device", "virtio-blk-pci,drive=d,iothread=io"]
    return command


def qemu_microvm_acpi(*args, **kwargs):
    return qemu_microvm(*args, acpi=True, **kwargs)


def kvmtool(kernel, initrd, words, memory_mib, disk=None, cpus=1):
    command = [os.environ.get("KVMTOOL") or shutil.which("lkvm") or "lkvm", "run", "-k", kernel, "-i", initrd,
               "-c", str(cpus), "-m", str(memory_mib), "--console", "serial", "-p", f"{COMMON} {words}"]
    if disk:
        command += ["-d", disk + ",direct"]
    return command


def kvmtool_equipped(*args, **kwargs):
    """On 64-bit Arm, with what every guest of lodge has there: counters, random numbers, and a base at random."""
    return kvmtool(*args, **kwargs) + ["--pmu", "--rng", "--kaslr-seed", "0x9e3779b97f4a7c15"]


def have_kvmtool():
    path = os.environ.get("KVMTOOL") or shutil.which("lkvm")
    return bool(path and os.path.exists(path))
