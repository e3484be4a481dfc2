"""Debian's cloud kernel with an unprepared Debian root, systemd included."""
import os
import re
import signal
import subprocess

from harness import by_machine, check, environment, equal, test

from test_boot import UNAVOIDABLE, no_warnings_in

# of systemd and udev, not of the machine; and what the root itself is missing
UNAVOIDABLE_HERE = UNAVOIDABLE + (
    r"^systemd(-\w+)?\[\d+\]:",
    r"^(audit|printk|random|kauditd)",
)
PROMPT = r"^root@guest:~# $"


def debian(context, *arguments, copy=True, **options):
    image = context.path("debian.img")
    if copy:
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", environment("LODGE_GUEST_ROOT"), image], check=True)
    return context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                         "--root", f"path={image},format=raw", *arguments, **options)


def command(vm, text):
    """Types a command at the shell's prompt; returns what it printed."""
    vm.send(f"{text}; echo status=$?=\n")
    start = vm.position
    vm.wait_for(r"status=\d+=\r?$")
    shown = vm.console.data[start:vm.position].decode("utf-8", "replace").replace("\r", "")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


def log_in(vm):
    vm.wait_for("login: ")
    vm.send("root\n")
    vm.wait_for(r"root@guest")


@test(transport=["pci", "mmio"])
def systemd(context, transport):
    """Boots to a login, runs commands, switches off; and the power button does so as well, or where the kernel has no
    driver for it, the agent."""
    vm = debian(context, "--cpus", "2", "--memory", "512M", "--transport", transport, terminal=True)
    log_in(vm)
    check("Linux" in command(vm, "stty -echo; PS1=; uname -s"), "uname")
    check("/dev/vda" in command(vm, "findmnt -n -o SOURCE /"), "the root is not the disk")
    equal(re.findall(r"^cpus=(\d+)", command(vm, "echo cpus=$(nproc)"), re.M), ["2"], "processors")
    failed = re.findall(r"^\S* ?(\S+) .*failed", command(vm, "systemctl --no-pager --plain --no-legend --failed"), re.M)
    equal(failed, [], "failed units")
    text = command(vm, "dmesg --level=emerg,alert,crit,err,warn --notime")
    no_warnings_in([line for line in text.splitlines() if line and "status=" not in line], UNAVOIDABLE_HERE)
    check("status=0" in command(vm, "dd if=/dev/urandom of=/data bs=1M count=16 status=none && sync && "
                                    "sha256sum /data >/data.sum"), "writing a file")
    vm.send("systemctl poweroff\n")
    vm.ends(0)

    agent = by_machine(x86_64=[], aarch64=["--agent", "--start-timeout", "600"])
    vm = debian(context, "--memory", "512M", "--transport", transport, "--stop-timeout", "250", *agent, copy=False)
    vm.wait_for("login: ")
    os.kill(vm.pid, signal.SIGTERM)
    vm.ends(0)
    image = context.path("debian.img")
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    equal(checked.returncode, 0, f"file system check: {checked.stdout[-500:]}")


@test()
def shell_as_init(context):
    """--init /bin/bash on the unprepared root; a panic from within is a panic outside, or a reboot where the kernel
    has no driver for pvpanic."""
    words = by_machine(x86_64=["--cmdline", "panic=0"], aarch64=[])
    vm = debian(context, "--memory", "512M", "--init", "/bin/bash", *words, terminal=True)
    vm.wait_for(r"bash-5.*# |root@.*# ")
    check("Debian" in command(vm, "head -1 /etc/os-release"), "os-release")
    command(vm, "mount | grep -q ' /proc ' || mount -t proc proc /proc; sync")
    vm.send("echo c >/proc/sysrq-trigger\n")
    vm.ends(by_machine(x86_64=4, aarch64=3))


@test()
def reboot_from_shell(context):
    vm = debian(context, "--memory", "512M", "--init", "/bin/bash", terminal=True)
    vm.wait_for(r"bash-5.*# |root@.*# ")
    vm.send("sync; reboot -ff\n")
    vm.ends(3)
