"""Every end of a guest has its exit status and a line that says why."""
import os
import signal
import time

from harness import check, equal, only, test


def last_words(vm):
    lines = vm.errors.text().strip().splitlines()
    return lines[-1] if lines else ""


@test(how=["", "reboot=k", "reboot=a"])
@only("x86_64", "the keyboard controller and ACPI reset the machine; PSCI is the one way elsewhere", how=["reboot=k", "reboot=a"])
def reboot(context, how):
    """Whichever way the kernel resets the machine."""
    vm = context.guest("reboot", cmdline=how).ends(3)
    check("re" in last_words(vm), f"lodge says {last_words(vm)!r}")


@test()
@only("x86_64", "no other processor gives up in a triple fault")
def triple_fault(context):
    vm = context.guest("reboot", cmdline="reboot=t").ends(5)
    check("triple fault" in last_words(vm), f"lodge says {last_words(vm)!r}")


@test(how=["panic", "exit:3"], cmdline=["panic=0", "panic=-1"])
def panic(context, how, cmdline):
    """A kernel that stays there after its panic, and one that would reboot."""
    vm = context.guest(how, cmdline=cmdline, equipped=True).ends(4)
    check("panic" in last_words(vm), f"lodge says {last_words(vm)!r}")
    vm.wait_for("Kernel panic")


@test(name=["SIGTERM", "SIGINT", "SIGHUP"])
def signal_without_answer(context, name):
    """A guest that does not heed the power button is stopped after a while."""
    number = getattr(signal, name)
    vm = context.guest("spin", "--stop-timeout", "2", cpus=2)
    vm.wait_for("@ spinning")
    os.kill(vm.pid, number)
    vm.ends(128 + number)
    check(name in last_words(vm), f"lodge says {last_words(vm)!r}")


@test()
def signal_at_once(context):
    vm = context.guest("sleep", "--stop-timeout", "0")
    vm.wait_for("@ sleeping")
    os.kill(vm.pid, signal.SIGTERM)
    vm.ends(128 + signal.SIGTERM)


@test()
def second_signal(context):
    """The second one does not wait."""
    vm = context.guest("sleep", "--stop-timeout", "600")
    vm.wait_for("@ sleeping")
    os.kill(vm.pid, signal.SIGTERM)
    # signals of one number merge while one is pending: wait until the first was heard
    end = time.monotonic() + 30
    while "power button" not in vm.errors.text() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(vm.pid, signal.SIGTERM)
    vm.ends(128 + signal.SIGTERM)


@test()
def power_button(context):
    """SIGTERM presses it; a guest that then switches off ends as such."""
    vm = context.guest("button hello", equipped=True)
    vm.wait_for("@ watching")
    os.kill(vm.pid, signal.SIGTERM)
    vm.ends(0)
    vm.report("pressed")


@test()
def early_signal(context):
    """Also before the kernel can hear it."""
    vm = context.guest("sleep", "--stop-timeout", "1")
    end = time.monotonic() + 30
    while not os.path.exists(f"/proc/{vm.pid}/fd/0") and time.monotonic() < end:
        pass
    time.sleep(0.2)  # anywhere in the start: the outcome is the same
    os.kill(vm.pid, signal.SIGTERM)
    status = vm.finish()
    check(status in (128 + signal.SIGTERM, -signal.SIGTERM), f"exit status {status}")


@test()
def nothing_left(context):
    """The process leaves no file behind."""
    image = context.disk("disk", 1 << 20)
    before = sorted(os.listdir(context.folder))
    vm = context.guest("hello", disks=[f"path={image},format=raw"])
    vm.ends(0)
    after = sorted(name for name in os.listdir(context.folder) if not name.endswith(".log"))
    equal(after, [name for name in before if not name.endswith(".log")], "files")
