"""Mounts, file systems, network, facts, time, files: what the agent does to the guest it is in."""

import hashlib
import os
import subprocess
import time

from rig import DEADLINE_S, Skip, expect, pb

MS_RDONLY, MS_NOEXEC, MS_BIND = 1, 8, 4096
CAP_SYS_RESOURCE = 24


def have_capability(n):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return bool(int(status["CapEff"], 16) >> n & 1)


def test_facts(guest):
    device, _ = guest.disk()
    c = guest.client()
    c.Mount(source=device, target="/mnt/data", fstype="ext4", mkfs_if_blank=True)
    f = c.GetFacts()
    u = os.uname()
    assert (f.kernel_release, f.kernel_version, f.machine) == (u.release, u.version, u.machine)
    assert f.hostname == "guest" and f.os == "Test Guest 1"
    assert abs(f.time_ns - time.time_ns()) < 10**10 and 0 < f.uptime_ns
    total = int(open("/proc/meminfo").readline().split()[1]) * 1024
    assert f.memory_bytes == total and 0 < f.memory_available_bytes < total
    assert f.cpus >= 1
    assert [d for d in f.disks if d.name == device[5:] and d.size_bytes == 64 << 20 and not d.read_only], f.disks
    fs = [m for m in f.filesystems if m.target == "/mnt/data"]
    assert len(fs) == 1 and fs[0].source == device and fs[0].fstype == "ext4" and not fs[0].read_only
    assert 50 << 20 < fs[0].size_bytes < 64 << 20 and fs[0].available_bytes > 40 << 20
    names = {i.name: i for i in f.interfaces}
    assert names["lo"].up and names["lo"].mac == "" and "127.0.0.1/8" in names["lo"].addresses
    assert len(names["eth0"].mac) == 17 and not names["eth0"].up and names["eth0"].mtu == 1500


def test_mount_of_a_blank_disk(guest):
    device, file = guest.disk()
    c = guest.client()
    expect("INVALID_ARGUMENT", "mounting %s on /mnt/a/b as ext4: Invalid argument" % device, c.Mount, source=device,
           target="/mnt/a/b", fstype="ext4")
    assert c.Mount(source=device, target="/mnt/a/b", fstype="ext4", mkfs_if_blank=True).made
    assert c.sh("echo kept > /mnt/a/b/file").status == 0
    expect("FAILED_PRECONDITION", "busy", c.Mount, source=device, target="/mnt/a/b", fstype="ext4")
    c.Unmount(target="/mnt/a/b")
    # it is not blank any more
    reply = c.Mount(source=device, target="/mnt/ro", fstype="ext4", flags=MS_RDONLY | MS_NOEXEC, mkfs_if_blank=True)
    assert not reply.made
    assert c.sh("cat /mnt/ro/file").out == b"kept\n"
    assert c.sh("touch /mnt/ro/x").status != 0
    options = [line.split() for line in c.sh("cat /proc/mounts").out.decode().splitlines() if "/mnt/ro" in line]
    assert {"ro", "noexec"} <= set(options[0][3].split(","))
    c.Unmount(target="/mnt/ro")
    assert subprocess.run(["e2fsck", "-fn", file], capture_output=True).returncode == 0


def test_what_is_not_blank_is_not_formatted(guest):
    c = guest.client()
    for at in (1, 512, 70000, (1 << 20) - 1, (64 << 20) - 1):
        device, file = guest.disk()
        with open(file, "r+b") as f:
            f.seek(at)
            f.write(b"x")
        before = hashlib.sha256(file.read_bytes()).digest()
        expect("INVALID_ARGUMENT", "Invalid argument", c.Mount, source=device, target="/mnt/a", fstype="ext4",
               mkfs_if_blank=True)
        assert hashlib.sha256(file.read_bytes()).digest() == before
    assert c.GetFacts().hostname == "guest"


def test_mount_errors_say_what(guest):
    c = guest.client()
    device, _ = guest.disk()
    expect("NOT_FOUND", "No such file or directory", c.Mount, source="/dev/vdz", target="/mnt/a", fstype="ext4")
    expect("NOT_FOUND", "kernel has no such file system", c.Mount, source=device, target="/mnt/a", fstype="nonesuchfs")
    expect("NOT_FOUND", "mkfs.nonesuchfs is not in the guest", c.Mount, source=device, target="/mnt/a",
           fstype="nonesuchfs", mkfs_if_blank=True)
    expect("INVALID_ARGUMENT", "has no mkfs", c.Mount, source=device, target="/mnt/a", fstype="../x", mkfs_if_blank=True)
    expect("FAILED_PRECONDITION", "not a block device", c.Mount, source="/etc/passwd", target="/mnt/a", fstype="ext4",
           mkfs_if_blank=True)
    expect("INVALID_ARGUMENT", "not an absolute path", c.Mount, source=device, target="mnt", fstype="ext4")
    expect("NOT_FOUND", "making /etc/passwd", c.Mount, source=device, target="/etc/passwd/a", fstype="ext4")
    expect("INVALID_ARGUMENT", "unmounting /mnt: Invalid argument", c.Unmount, target="/mnt")
    start = time.monotonic()
    expect("NOT_FOUND", "/dev/vdy", c.Mount, source="/dev/vdy", target="/mnt/a", fstype="ext4", wait_ms=300)
    assert time.monotonic() - start >= 0.3
    start = time.monotonic()
    stream = c.begin("Mount", timeout_ns=200_000_000, source="/dev/vdy", target="/mnt/a", fstype="ext4", wait_ms=60000)
    expect("DEADLINE_EXCEEDED", "deadline", c.finish, "Mount", stream)


def test_a_slow_call_delays_no_other(guest):
    c = guest.client()
    slow = c.begin("Mount", source="/dev/vdy", target="/mnt/a", fstype="ext4", wait_ms=3000)
    start = time.monotonic()
    assert c.exec("true").status == 0
    assert c.GetFacts().hostname == "guest"
    assert time.monotonic() - start < 2.5
    expect("NOT_FOUND", "/dev/vdy", c.finish, "Mount", slow)


def test_bind_and_tmpfs(guest):
    c = guest.client()
    c.Mount(source="/etc", target="/mnt/etc", flags=MS_BIND)
    assert c.exec("cat", "/mnt/etc/os-release").status == 0
    c.Mount(source="tmp", target="/mnt/t", fstype="tmpfs", data="size=1m,mode=700")
    assert c.sh("head -c 2000000 /dev/zero > /mnt/t/x").status != 0
    expect("FAILED_PRECONDITION", "busy", lambda: (c.exec("sleep", "1888", cwd="/mnt/t", detach=True),
                                                   c.Unmount(target="/mnt/t")))
    c.Unmount(target="/mnt/t", detach=True)


def test_a_grown_disk(guest):
    device, file = guest.disk()
    c = guest.client()
    c.Mount(source=device, target="/mnt/a", fstype="ext4", mkfs_if_blank=True)
    c.sh("head -c 1000000 /dev/urandom > /mnt/a/x")
    with open(file, "r+b") as f:
        f.truncate(192 << 20)
    subprocess.run(["losetup", "-c", device], check=True)
    expect("INVALID_ARGUMENT", "nothing is mounted on /etc", c.GrowFilesystem, target="/etc")
    expect("FAILED_PRECONDITION", "cannot grow", c.GrowFilesystem, target="/dev")
    if not have_capability(CAP_SYS_RESOURCE):
        expect("PERMISSION_DENIED", f"growing /mnt/a: the file system on {device}: Operation not permitted",
               c.GrowFilesystem, target="/mnt/a")
        raise Skip("this machine's root may not resize a mounted ext4 (CAP_SYS_RESOURCE)")
    reply = c.GrowFilesystem(target="/mnt/a")
    assert reply.old_size_bytes < 64 << 20 and reply.size_bytes > 170 << 20
    again = c.GrowFilesystem(target="/mnt/a")
    assert again.old_size_bytes == again.size_bytes == reply.size_bytes
    c.Unmount(target="/mnt/a")
    assert subprocess.run(["e2fsck", "-fn", file], capture_output=True).returncode == 0


def test_network(guest):
    c = guest.client()
    c.ConfigureNetwork(addresses=["100.115.92.6/30", "fd00::6/64"], gateways=["100.115.92.5", "fd00::5"], mtu=1400,
                       nameservers=["100.115.92.5", "fd00::5"], search=["example.org"], hostname="box",
                       interface="eth0")
    f = c.GetFacts()
    eth = [i for i in f.interfaces if i.name == "eth0"][0]
    assert eth.up and eth.mtu == 1400 and {"100.115.92.6/30", "fd00::6/64"} <= set(eth.addresses), eth
    assert f.hostname == "box"
    assert c.sh("cat /etc/resolv.conf").out == b"search example.org\nnameserver 100.115.92.5\nnameserver fd00::5\n"
    routes = c.exec("/usr/bin/ip", "route").out.decode()
    assert "default via 100.115.92.5 dev eth0" in routes, routes
    assert "default via fd00::5 dev eth0" in c.exec("/usr/bin/ip", "-6", "route").out.decode()
    # again with others: these are the ones, of IPv4
    reply = c.ConfigureNetwork(addresses=["10.0.0.2/24"], gateways=["10.0.0.1"], interface="eth0")
    assert reply.interface == "eth0"
    eth = [i for i in c.GetFacts().interfaces if i.name == "eth0"][0]
    assert {a for a in eth.addresses if not a.startswith("fe80")} == {"10.0.0.2/24", "fd00::6/64"}, eth
    routes = c.exec("/usr/bin/ip", "route").out.decode()
    assert "default via 10.0.0.1" in routes and "100.115" not in routes, routes
    assert c.ConfigureNetwork().interface in ("eth0", "peer0")


def test_network_errors_say_what(guest):
    c = guest.client()
    expect("NOT_FOUND", "no interface eth7", c.ConfigureNetwork, interface="eth7")
    for address in ("10.0.0.1", "10.0.0.1/33", "10.0.0.1/", "fe80::/129", "x/8", "10.0.0.1/8/8", "1" * 5000 + "/8"):
        expect("INVALID_ARGUMENT", "is no address", c.ConfigureNetwork, addresses=[address])
    expect("INVALID_ARGUMENT", "gateway", c.ConfigureNetwork, gateways=["10.0.0.1/8"])
    expect("INVALID_ARGUMENT", "name server", c.ConfigureNetwork, nameservers=["a\nb"])
    expect("INVALID_ARGUMENT", "search domain", c.ConfigureNetwork, search=["a\nnameserver 1.2.3.4"])
    expect("INVALID_ARGUMENT", "MTU", c.ConfigureNetwork, mtu=17)
    expect("FAILED_PRECONDITION", "unreachable", c.ConfigureNetwork, interface="eth0", gateways=["192.0.2.1"])
    expect("INVALID_ARGUMENT", "more than", c.ConfigureNetwork, addresses=["10.0.0.1/8"] * 100)


def test_time(guest):
    c = guest.client()
    # this machine's clock is not the test's: the guest has not the right
    expect("PERMISSION_DENIED", "setting the guest's clock: Operation not permitted", c.SetTime, time_ns=time.time_ns())
    expect("INVALID_ARGUMENT", "not after 1970", c.SetTime, time_ns=-5)
    expect("INVALID_ARGUMENT", "not after 1970", c.SetTime)


def test_files(guest):
    c = guest.client()
    data = os.urandom((1 << 20) + 17)
    c.write_file(data, path="/root/file", attributes=pb.FileAttributes(mode=0o4751, uid=7, gid=8, mtime_ns=10**18 + 5))
    attributes, got = c.read_file("/root/file")
    assert got == data
    assert attributes == pb.FileAttributes(mode=0o4751, uid=7, gid=8, mtime_ns=10**18 + 5, size_bytes=len(data))
    c.write_file(b"", path="/root/file")  # replaced
    attributes, got = c.read_file("/root/file")
    assert got == b"" and attributes.mode == 0o644 and attributes.size_bytes == 0
    c.write_file(b"x", path="/root", name="in-dir")
    assert c.read_file("/root/in-dir")[1] == b"x"
    c.write_file(b"y", path="/new/dirs/file", make_directories=True)
    assert c.read_file("/new/dirs/file")[1] == b"y"
    assert c.exec("ls", "-A", "/root", "/new/dirs").out == b"/new/dirs:\nfile\n\n/root:\nfile\nin-dir\n"


def test_file_errors_say_what(guest):
    c = guest.client()
    expect("NOT_FOUND", "/no: No such file", c.write_file, b"x", path="/no/file")
    expect("FAILED_PRECONDITION", "is a directory", c.write_file, b"x", path="/root")
    expect("FAILED_PRECONDITION", "is a directory", c.write_file, b"x", path="/root", name="../etc/passwd")
    expect("INVALID_ARGUMENT", "absolute", c.write_file, b"x", path="file")
    expect("INVALID_ARGUMENT", "too long", c.write_file, b"x", path="/" + "x" * 5000)
    expect("FAILED_PRECONDITION", "Read-only file system", c.write_file, b"x" * 1000, path="/usr/x")
    expect("NOT_FOUND", "/no: No such file", c.read_file, "/no")
    expect("FAILED_PRECONDITION", "is a directory", c.read_file, "/")
    expect("INVALID_ARGUMENT", "not a regular file", c.read_file, "/dev/zero")
    c.Mount(source="t", target="/mnt/small", fstype="tmpfs", data="size=64k")
    expect("RESOURCE_EXHAUSTED", "No space left", c.write_file, bytes(200000), path="/mnt/small/x")
    assert c.exec("ls", "-A", "/mnt/small").out == b""


def test_a_broken_copy_leaves_the_old_file(guest):
    other = guest.client()
    other.write_file(b"old", path="/root/f")
    c = guest.client()
    d = c.duplex("WriteFile")
    d.send(open=pb.WriteFileOpen(path="/root/f"), data=b"new, in part")
    assert d.next().taken_bytes == 12
    c.close()
    end = time.monotonic() + DEADLINE_S
    while b"copy" in other.exec("ps", "-o", "args").out and time.monotonic() < end:
        time.sleep(0.01)
    assert other.read_file("/root/f")[1] == b"old"
    assert other.exec("ls", "-A", "/root").out == b"f\n"
