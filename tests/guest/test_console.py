"""The serial console on a terminal, on pipes and in a file."""
import os
import re
import termios
import time

from harness import DEADLINE_S, check, equal, test


def checksum(data):
    total = 0
    for byte in data:
        total = ((total << 1 | total >> 31) & 0xFFFFFFFF) ^ byte
    return total


def settings(vm):
    return termios.tcgetattr(vm.slave)


def is_raw(vm):
    return not settings(vm)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


@test(how=["poweroff", "reboot", "panic", "escape", "signal"])
def terminal_restored(context, how):
    """Raw while the guest runs, as it was before on every way out."""
    command = {"escape": "sleep", "signal": "sleep"}.get(how, how)
    vm = context.guest(f"wait:go {command}", "--stop-timeout", "0", terminal=True, equipped=True)
    before = settings(vm)
    vm.wait_for("@ waiting go")
    check(is_raw(vm), "the terminal is not raw while the guest runs")
    vm.send("\r")
    if command == "sleep":
        vm.wait_for("@ sleeping")
        if how == "escape":
            vm.send(b"\x01x")
        else:
            vm.process.terminate()
    vm.ends({"poweroff": 0, "reboot": 3, "panic": 4, "escape": 7, "signal": 143}[how])
    equal(settings(vm), before, "terminal settings")


@test()
def escape_is_not_fooled(context):
    """A doubled escape reaches the guest; other keys after it do too."""
    vm = context.guest("drain:4", terminal=True)
    vm.wait_for("@ draining")
    vm.send(b"\x01\x01\x01zq")
    vm.ends(0)
    equal(vm.report("drained"), f"4 {checksum(bytes([1, 1]) + b'zq'):08x}", "bytes that arrived")


@test()
def escape_without_reader(context):
    """The escape works although the guest reads nothing and its buffers are full."""
    vm = context.guest("spin", terminal=True)
    vm.wait_for("@ spinning")
    vm.send(b"x" * 20000)
    vm.send(b"\x01x")
    vm.ends(7)


@test()
def line_break(context):
    """A break is SysRq: with h, the kernel prints its help."""
    vm = context.guest("write:/proc/sys/kernel/sysrq,1 sleep", terminal=True, cmdline="loglevel=7")
    vm.wait_for("@ sleeping")
    vm.send(b"\x01b")
    time.sleep(0.5)  # the kernel takes the key within five seconds of the break
    vm.send(b"h")
    vm.wait_for("sysrq: HELP")
    vm.send(b"\x01x")
    vm.ends(7)


@test()
def power_key(context):
    vm = context.guest("button", terminal=True, equipped=True)
    vm.wait_for("@ watching")
    vm.send(b"\x01p")
    vm.ends(0)
    vm.report("pressed")


def flood_is_whole(text, lines):
    numbers = re.findall(r"^([0-9a-f]{5})$", text, re.M)
    for wanted, found in zip(range(lines), numbers):
        equal(int(found, 16), wanted, "line")
    equal(len(numbers), lines, "lines")


# Lines of six bytes, more than the buffer of the serial port and a small pipe hold.
FLOOD = 13000


@test(terminal=[False, True])
def flood(context, terminal):
    """More than the buffers on the way hold arrives whole and in order."""
    vm = context.guest(f"flood:{FLOOD}", cmdline="quiet", terminal=terminal)
    vm.ends(0)
    if terminal:
        time.sleep(0.2)
        vm.close()
    flood_is_whole(vm.console.text(), FLOOD)


@test()
def flood_to_slow_reader(context):
    """A reader that pauses loses nothing, and lodge's memory does not grow meanwhile."""
    vm = context.guest(f"wait:go flood:{FLOOD} hello", cmdline="quiet", pipe_bytes=4096)
    vm.wait_for("@ waiting go")
    vm.console.paused.clear()
    before = vm.own_kib()
    vm.send("\n")
    time.sleep(5)  # the guest fills every buffer on the way and waits
    grown = vm.own_kib() - before
    vm.console.paused.set()
    vm.ends(0)
    flood_is_whole(vm.console.text(), FLOOD)
    check(grown < 4096, f"lodge grew by {grown} KiB")


@test()
def to_file(context):
    """--console file: the output is there, whole, when lodge ends."""
    path = context.path("console.txt")
    context.guest("hello flood:5000", "--console", f"file:{path}", cmdline="quiet").ends(0)
    with open(path, encoding="ascii") as file:
        text = file.read().replace("\r\n", "\n")
    check("@ hello" in text, "the report is not in the file")
    flood_is_whole(text, 5000)


@test()
def none(context):
    """Without a console the guest runs all the same, and nothing is printed."""
    vm = context.guest("hello", "--console", "none").ends(0)
    equal(vm.console.text(), "", "output")


@test(delay=[0, 20], terminal=[False, True])
def paste(context, delay, terminal):
    """64 KiB of input arrive whole, also at a slow reader."""
    data = bytes(33 + i * 7 % 90 for i in range(65536))
    vm = context.guest(f"drain:{len(data)},{delay}", terminal=terminal)
    vm.wait_for("@ draining")
    if terminal:
        # as a terminal emulator pastes: as fast as the terminal takes it
        for start in range(0, len(data), 512):
            vm.send(data[start:start + 512])
            end = time.monotonic() + DEADLINE_S
            while vm.unread_input() > 2048:
                check(time.monotonic() < end, f"lodge does not read its input (byte {start})")
                time.sleep(0.001)
    else:
        vm.send(data, 300)
    vm.finish(300)
    equal(vm.report("drained"), f"{len(data)} {checksum(data):08x}", "bytes that arrived")


@test()
def end_of_input(context):
    """Input that ends at once, from /dev/null, ends nothing else."""
    context.guest("hello flood:100", closed_input=True).ends(0).report("hello")


@test()
def reader_gone(context):
    """Output that nobody takes any more (EPIPE) does not end the guest."""
    path = context.path("disk")
    context.disk("disk", 1 << 20)
    read, write = os.pipe()
    import subprocess
    from harness import LODGE, environment
    with subprocess.Popen([LODGE, "run", "--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd",
                           context.artefacts.initrd(), "--memory", "256M", "--disk", f"path={path},format=raw",
                           "--cmdline", "loglevel=4 test=hello+flood:2000+pwrite:vda,0,4096,0x77+fsync:vda"],
                          stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL) as process:
        os.close(write)
        os.read(read, 1)
        os.close(read)
        try:
            equal(process.wait(DEADLINE_S), 0, "exit status")
        finally:
            process.kill()
    with open(path, "rb") as file:
        equal(file.read(4096), b"\x77" * 4096, "what the guest wrote after that")
