"""What is wrong with files, arguments or host is said in one line; exit status 1 or 2; nothing is left."""
import os
import struct

from harness import by_machine, check, environment, need_root, only, test


def refused(context, arguments, named, statuses=(1,), **options):
    """lodge says one line that names the thing, and leaves no file behind."""
    before = set(os.listdir(context.folder))
    vm = context.lodge(*arguments, **options)
    status = vm.finish()
    lines = vm.errors.text().splitlines()
    check(status in statuses, f"exit status {status}, not {statuses}: {lines}")
    check(len(lines) == 1, f"{len(lines)} lines: {lines}")
    check(named in lines[0], f"{named!r} is not named: {lines[0]!r}")
    check(len(lines[0]) < 400, "the line is very long")
    check(vm.console.text() == "", f"output: {vm.console.text()!r}")
    left = {n for n in os.listdir(context.folder) if not n.endswith(".log")} - before
    check(not left, f"left behind: {left}")
    return lines[0]


def kernel_bytes():
    with open(environment("LODGE_GUEST_KERNEL"), "rb") as file:
        return file.read()


def whole_kernel():
    """A kernel that says how long it is: an Image of Arm does not, when compressed it does."""
    with open(environment(by_machine(x86_64="LODGE_GUEST_KERNEL", aarch64="LODGE_GUEST_KERNEL_GZ")), "rb") as file:
        return file.read()


def bzimage():
    """The setup header of Linux Documentation/x86/boot.rst."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x020F)
    return bytes(setup) + bytes(8192)


def elf(machine, bits=2):
    return b"\x7fELF" + bytes([bits, 1, 1, 0]) + bytes(8) + struct.pack("<HHI", 2, machine, 1) + bytes(4000)


KERNELS = {
    "empty": lambda: b"",
    "one-byte": lambda: b"M",
    "text": lambda: b"#!/bin/sh\necho no kernel\n" * 100,
    "zeroes": lambda: bytes(1 << 20),
    "header-only": lambda: whole_kernel()[:0x260],
    "cut-in-setup": lambda: whole_kernel()[:4096],
    "cut-in-half": lambda: whole_kernel()[:len(whole_kernel()) // 2],
    "cut-at-end": lambda: whole_kernel()[:-65536],
    "elf-aarch64": lambda: elf(183),
    "elf-riscv": lambda: elf(243),
    "elf-32": lambda: elf(3, 1),
    "arm64-image": lambda: b"MZ\0\0" + bytes(52) + b"ARM\x64" + bytes(8192),
    "elf-x86": lambda: elf(62),
    "x86-bzimage": bzimage,
}


@test(kind=list(KERNELS))
@only("x86_64", "it is the machine's own architecture elsewhere", kind=["arm64-image"])
@only("aarch64", "it is the machine's own architecture elsewhere", kind=["elf-x86", "x86-bzimage"])
def kernel(context, kind):
    """Not a kernel, not a whole one, or one for another architecture."""
    path = context.path("kernel")
    with open(path, "wb") as file:
        file.write(KERNELS[kind]())
    line = refused(context, ["--kernel", path, "--initrd", context.artefacts.initrd()], path)
    for word, names in {"aarch64": ("aarch64", "arm64"), "arm64": ("aarch64", "arm64"), "riscv": ("risc-v", "riscv"),
                        "x86": ("x86",)}.items():
        if word in kind:
            check(any(name in line.lower() for name in names), f"the architecture is not named: {line!r}")


@test(damage=range(6))
def kernel_damaged(context, damage):
    """A kernel with bytes turned over: refused, or started and failed in the guest; never a crash of ours."""
    data = bytearray(kernel_bytes())
    for i in range(200):
        data[(damage * 7919 + i * 104729) % len(data)] ^= 1 << i % 8
    if damage < 3:  # the header alone
        start, length = by_machine(x86_64=(0x1F1, 0x77), aarch64=(0, 64))
        data = bytearray(kernel_bytes())
        for i in range(16):
            data[start + (damage * 37 + i * 11) % length] ^= 1 << i % 8
    path = context.path("kernel")
    with open(path, "wb") as file:
        file.write(data)
    vm = context.lodge("--kernel", path, "--initrd", context.artefacts.initrd(), "--memory", "256M", "--cmdline",
                       "loglevel=4 panic=-1 test=hello", "--stop-timeout", "0")
    try:
        status = vm.process.wait(40)
    except Exception:  # pylint: disable=broad-except  a guest that runs into the void: lodge must still obey
        vm.process.terminate()
        status = vm.finish(30)
    check(status >= 0 and status not in (134, 139), f"exit status {status}")
    vm.no_faults()


@test(what=["missing", "directory", "empty", "tiny", "odd", "unreadable", "fifo", "device"])
def disk(context, what):
    path = context.path("disk")
    if what == "directory":
        os.mkdir(path)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path = "/dev/null"
    elif what != "missing":
        with open(path, "wb") as file:
            file.write(bytes({"empty": 0, "tiny": 100, "odd": 511, "unreadable": 4096}[what]))
    prefix = ()
    if what == "unreadable":
        need_root()
        os.chmod(path, 0)
        os.chmod(context.folder, 0o755)
        prefix = ("setpriv", "--reuid", "65534", "--regid", "65534", "--groups", str(os.stat("/dev/kvm").st_gid))
        os.chmod(os.path.dirname(context.folder), 0o755)
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd(), "--disk",
                      f"path={path},format=raw"], path, (1, 2), prefix=prefix)


@test(what=["kernel", "initrd"])
def missing_file(context, what):
    path = context.path("absent")
    arguments = {"--kernel": environment("LODGE_GUEST_KERNEL"), "--initrd": context.artefacts.initrd()}
    arguments["--" + what] = path
    refused(context, [word for pair in arguments.items() for word in pair], path, (1, 2))


@test(what=["kernel", "initrd"])
def directory_instead(context, what):
    path = context.path("folder")
    os.mkdir(path)
    arguments = {"--kernel": environment("LODGE_GUEST_KERNEL"), "--initrd": context.artefacts.initrd()}
    arguments["--" + what] = path
    refused(context, [word for pair in arguments.items() for word in pair], path, (1, 2))


@test(memory=["900T", "8P", "63M", "0", "-1", "lots"])
def memory(context, memory):
    """More than the host has, or less than a kernel needs."""
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd(), "--memory",
                      memory], "emory", (1, 2))


@test()
def memory_of_host(context):
    """Somewhat more than the host has is noticed before the guest finds out."""
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1])
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd(), "--memory",
                      f"{total * 4 // 1024}M"], "emory", (1, 2))


@test()
def memory_too_small_for_kernel(context):
    """A kernel and initrd that do not fit are said so, with what is needed."""
    path = context.disk("initrd", 80 << 20)
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", path, "--memory", "64M"], "emory", (1,))


@test()
def no_permission_for_kvm(context):
    need_root()
    os.chmod(context.folder, 0o755)
    os.chmod(os.path.dirname(context.folder), 0o755)
    line = refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd()],
                   "/dev/kvm", (1,), prefix=("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"))
    check("group" in line or "permission" in line.lower(), f"no cure: {line!r}")


@test()
def wrong_format(context):
    path = context.disk("disk", 1 << 20)
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd(), "--disk",
                      f"path={path}"], "format", (2,))
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd(), "--disk",
                      f"path={path},format=vhd"], "vhd", (2,))


@test()
def modules_missing(context):
    """A module directory that is none."""
    root = context.disk("root", 1 << 20)
    folder = context.path("modules")
    os.mkdir(folder)
    refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", folder, "--root",
                      f"path={root},format=raw"], "modules", (1, 2))
