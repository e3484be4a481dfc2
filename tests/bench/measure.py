#!/usr/bin/env python3
"""Runs one measurement on a host with KVM (the lab, or this machine) and prints lines "KEY VALUE".

usage: measure.py boot NAME=VMM:KERNEL...   nanoseconds from fork to the first line of init, files cached
       measure.py wall ROUNDS NAME=VMM:KERNEL...   the same ROUNDS times each, each round in another order
       measure.py memory VMM KERNEL         bytes of PSS beside guest memory, idle, one CPU, one disk
       measure.py io PATTERNS SECONDS ROUNDS KERNEL VMM:KERNEL...   operations a second of each in turn
       measure.py payload PATTERNS SECONDS ROUNDS VMM:IMAGE...   the same of a payload in user mode; IMAGE is raw,
                                            qcow2 (made by qemu-img, full) or empty (qcow2, new for each run)
       measure.py vsock SECONDS ROUNDS KERNEL   bytes or round trips a second of lodge's two and QEMU's vhost, in turn
       measure.py net SECONDS ROUNDS KERNEL ELF DEBIAN   packets between guest and host, each in turn; KERNEL is the bzImage
                                            of ELF, for kvmtool, DEBIAN a root image with iperf3
       measure.py start ROUNDS KERNEL       nanoseconds until a disk is mounted, lodge and QEMU in turn; lodge's agent
       measure.py share FILES ROUNDS KERNEL DEBIAN   nanoseconds that a share, the kernel's NFS server and a disk take, in turn
       measure.py cpu KERNEL                microseconds of CPU before the first guest instruction
"""
import os
import random
import re
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(__file__))
import cpio  # noqa: E402
import net as nets  # noqa: E402
import share as shares  # noqa: E402
import start as starts  # noqa: E402
import vmms  # noqa: E402
import vsock as streams  # noqa: E402

MEMORY_MIB = 128
BENCH_MEMORY_MIB = 200  # a size that no other mapping has


def make_initrd(folder):
    path = os.path.join(folder, "bench.cpio")
    with open("build/bench/init", "rb") as program, open(path, "wb") as archive:
        archive.write(cpio.initramfs(program.read()))
    return path


def make_disk(folder, mib=256):
    path = os.path.join(folder, "bench.img")
    with open(path, "wb") as disk:
        for _ in range(mib):
            disk.write(b"\xa5" * (1 << 20))
        os.fsync(disk.fileno())
    return path


def to_first_line(initrd, subject):
    """The subject's name and the nanoseconds that it takes once."""
    name, what = subject.split("=")
    vmm, kernel = what.split(":")
    command = getattr(vmms, vmm)(kernel, initrd, "bench=off", MEMORY_MIB)
    out = subprocess.run(["build/bench/first_line", "bench-init: first line", "120", *command],
                         stdout=subprocess.PIPE, check=True)
    return name, int(out.stdout)


def boot(folder, *subjects):
    """
    What the first in a new host meets is not what the others do, by some 5 %: a round that does not count brings
    programs and kernels into the page cache, and the kernel's own caches to their size.
    """
    initrd = make_initrd(folder)
    for measured in (False, True):
        for subject in subjects:
            name, spent_ns = to_first_line(initrd, subject)
            if measured:
                print(f"boot_{name} {spent_ns}", flush=True)


def wall(folder, rounds, *subjects):
    """
    A round that does not count brings all into the page cache. Each has an order of its own: on an emulated host a
    start is slower or faster by whose memory it gets, with or without translated code in it.
    """
    initrd = make_initrd(folder)
    for n in range(int(rounds) + 1):
        for subject in random.Random(n).sample(subjects, len(subjects)):
            name, spent_ns = to_first_line(initrd, subject)
            if n:
                print("wall_" + name, spent_ns, flush=True)


def pss_beside_guest(pid, guest_bytes):
    total, guest = 0, False
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if head:
                size = int(head.group(2), 16) - int(head.group(1), 16)
                guest = size >= guest_bytes or "lodge-guest-memory" in line
            elif line.startswith("Pss:") and not guest:
                total += int(line.split()[1]) * 1024
    return total


def memory(folder, vmm, kernel):
    command = getattr(vmms, vmm)(kernel, make_initrd(folder), "bench=idle", BENCH_MEMORY_MIB,
                                 disk=make_disk(folder, 16))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            if b"bench-init: idle" in line:
                break
        print("pss_bytes", pss_beside_guest(process.pid, BENCH_MEMORY_MIB << 20))
        process.kill()


def output_until_done(command, last_line):
    """Console output up to this line. Not every machine monitor ends when its guest switches off: then it is ended."""
    output = b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        guard = threading.Timer(600, process.kill)
        guard.start()
        for line in process.stdout:
            output += line
            if last_line in line:
                break
        process.kill()
        guard.cancel()
    return output


def print_rates(subject, patterns, output):
    seen = re.findall(rb"io (\w+) (\d+) (\d+)", output)
    if len(seen) != len(patterns.split("+")):
        sys.exit(f"{subject}: no figures in its output:\n{output.decode(errors='replace')}")
    for name, done, ns in seen:
        print(f"io_{subject}_{name.decode()}", int(done) * 1e9 / int(ns))


def io_once(folder, vmm, kernel, patterns, seconds):
    command = getattr(vmms, vmm)(kernel, make_initrd(folder), f"bench=io={patterns},{seconds}", 256,
                                 disk=os.path.join(folder, "bench.img"))
    print_rates(vmm, patterns, output_until_done(command, b"bench-init: done"))


def io(folder, patterns, seconds, rounds, *pairs):
    make_disk(folder)
    for _ in range(int(rounds)):
        for pair in pairs:
            vmm, kernel = pair.split(":")
            io_once(folder, vmm, kernel, patterns, seconds)


def tsc_khz():
    """The rate of the processor's time-stamp counter, as the kernel shows it; guests see the same."""
    with open("/proc/cpuinfo", encoding="ascii") as file:
        return int(float(re.search(r"cpu MHz\s*: ([\d.]+)", file.read()).group(1)) * 1000)


def image_of(folder, kind, raw):
    """(path, format) of the disk that is meant by `kind`, beside the raw one."""
    path = os.path.join(folder, kind + ".qcow2")
    if kind == "raw":
        return raw, "raw"
    if kind == "empty":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(os.path.getsize(raw))], check=True)
    elif not os.path.exists(path):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    return path, "qcow2"


def payload(folder, patterns, seconds, rounds, *subjects):
    """The same patterns from a payload in user mode, which needs no hardware that runs guest kernels."""
    raw, words = make_disk(folder), f"blk={patterns},{int(seconds) * 1000} tsc={tsc_khz()}"
    for _ in range(int(rounds)):
        for subject in subjects:
            vmm, kind = subject.split(":")
            command = getattr(vmms, vmm + "_payload")("build/payload/blk.elf", words, *image_of(folder, kind, raw))
            print_rates(f"{vmm}_{kind}", patterns, output_until_done(command, b"done"))


def vsock_once(name, command, connect, seconds):
    output = b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        guard = threading.Timer(120, process.kill)
        guard.start()
        for line in process.stdout:
            output += line
            if b"bench-init: vsock" in line:
                break
        else:
            sys.exit(f"{name}: the guest does not listen:\n{output.decode(errors='replace')}")
        for pattern, figure in streams.measure(connect, seconds).items():
            print(f"vsock_{name}_{pattern}", figure, flush=True)
        process.kill()
        guard.cancel()


def vsock(folder, seconds, rounds, kernel):
    initrd, path = make_initrd(folder), os.path.join(folder, "v")
    for n in range(int(rounds)):
        ours, theirs = 2000 + n, 3000 + n
        vsock_once("vhost", vmms.lodge_vsock(kernel, initrd, f"backend=vhost,cid={ours}"),
                   lambda cid=ours: streams.connect_vhost(cid), float(seconds))
        vsock_once("builtin", vmms.lodge_vsock(kernel, initrd, f"backend=builtin,socket={path}"),
                   lambda: streams.connect_builtin(path), float(seconds))
        vsock_once("qemu", vmms.qemu_vsock(kernel, initrd, theirs),
                   lambda cid=theirs: streams.connect_vhost(cid), float(seconds))


def net(folder, seconds, rounds, kernel, elf, debian):
    root, tap = nets.make_root(folder, debian), "bench0"
    given = (root, nets.PROGRAM, tap)
    subjects = {"lodge_vhost": vmms.lodge_net(elf, *given, "vhost"), "qemu_vhost": vmms.qemu_net(elf, *given, "on"),
                "lodge_builtin": vmms.lodge_net(elf, *given, "builtin"), "qemu_user": vmms.qemu_net(elf, *given, "off")}
    if vmms.have_kvmtool():
        subjects["kvmtool"] = vmms.kvmtool_net(kernel, *given)
    nets.host_up(tap)
    for n in range(int(rounds)):
        # there and back, so that what drifts on the host favours none
        for name in list(subjects)[::-1 if n & 1 else 1]:
            nets.once(name, subjects[name], int(seconds))
    nets.host_down(tap)


def start(folder, rounds, kernel):
    starts.measure(folder, int(rounds), kernel)


def share(folder, files, rounds, kernel, debian):
    shares.measure(folder, int(files), int(rounds), kernel, debian)


def cpu(folder, kernel):
    """CPU time of the process up to its first guest instruction: all is built, nothing runs."""
    command = vmms.lodge(kernel, make_initrd(folder), "bench=off", MEMORY_MIB, disk=make_disk(folder, 16))
    spent = []
    for _ in range(9):
        process = subprocess.Popen(command + ["--dry-run"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"lodge run --dry-run: status {status}")
        spent.append(usage.ru_utime + usage.ru_stime)
    print("cpu_us", sorted(spent)[len(spent) // 2] * 1e6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as work:
        {"boot": boot, "wall": wall, "memory": memory, "io": io, "payload": payload, "vsock": vsock, "net": net, "start": start,
         "share": share, "cpu": cpu}[sys.argv[1]](work, *sys.argv[2:])
