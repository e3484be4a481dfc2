"""ResizeVmDisk: what is refused, and images that grow under a VM. What the guest sees: tests/unit/test_blk_raw.c."""

import os
import subprocess

from rig import B, expect_rpc_error, need_kvm

KINDS = ["vmm"]
MIB = 1 << 20


def qcow2(server, name, size):
    path = server.dir / name
    subprocess.run([B / "lodge", "disk", "create", "--format", "qcow2", path, str(size)], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def checked(path):
    subprocess.run([B / "lodge", "disk", "check", "--format", "qcow2", path], check=True, stdout=subprocess.DEVNULL)


def info(path, *words):
    return subprocess.run([B / "lodge", "disk", "info", "--json", *words, path], check=True, capture_output=True,
                          text=True).stdout


def test_refusals(server):
    need_kvm()
    disk = server.disk("d", 2 * MIB)
    with server.client() as c:
        expect_rpc_error("NOT_FOUND", c.ResizeVmDisk, name="a", size_bytes=4 * MIB)
        server.start(c, "a", "spin", disks=[dict(path=str(disk), writable=True)])
        for code, fields in (
                ("FAILED_PRECONDITION", dict(disk=0, size_bytes=4 * MIB)),  # the rootfs is read-only
                ("NOT_FOUND", dict(disk=2, size_bytes=4 * MIB)),
                ("INVALID_ARGUMENT", dict(disk=1, size_bytes=MIB)),
                ("INVALID_ARGUMENT", dict(disk=1, size_bytes=2 * MIB)),
                ("INVALID_ARGUMENT", dict(disk=1, size_bytes=4 * MIB + 1)),
                ("INVALID_ARGUMENT", dict(disk=1, size_bytes=(1 << 64) - 512))):
            expect_rpc_error(code, c.ResizeVmDisk, name="a", **fields)
        assert disk.stat().st_size == 2 * MIB
        assert c.StopVm(name="a", force=True).success


def test_raw(server):
    need_kvm()
    disk = server.disk("d", 2 * MIB)
    with server.client() as c:
        server.start(c, "a", "spin", disks=[dict(path=str(disk), writable=True)])
        assert c.ResizeVmDisk(name="a", disk=1, size_bytes=3 * MIB).old_size_bytes == 2 * MIB
        assert disk.stat().st_size == 3 * MIB
        c.PauseVm(name="a")
        assert c.ResizeVmDisk(name="a", disk=1, size_bytes=5 * MIB).old_size_bytes == 3 * MIB
        c.ResumeVm(name="a")
        calls = [c.begin("ResizeVmDisk", name="a", disk=1, size_bytes=(6 + i) * MIB) for i in range(5)]
        done = 0
        for call in calls:  # one at a time
            try:
                c.finish("ResizeVmDisk", call)
                done += 1
            except Exception as e:
                assert "already" in str(e), e
        assert done and disk.stat().st_size >= 6 * MIB
        assert c.StopVm(name="a", force=True).success


def test_qcow2(server):
    need_kvm()
    disk = qcow2(server, "d.qcow2", 3 * MIB + 512)
    with server.client() as c:
        server.start(c, "a", "spin", disks=[dict(path=str(disk), writable=True, image_type=1)])
        # beyond what the first L1 table reaches
        for size in (4 * MIB, 600 << 20, 3 << 40):
            c.ResizeVmDisk(name="a", disk=1, size_bytes=size)
        expect_rpc_error("INVALID_ARGUMENT", c.ResizeVmDisk, name="a", disk=1, size_bytes=1 << 62)
        assert c.StopVm(name="a", force=True).success
    checked(disk)
    assert str(3 << 40) in info(disk, "--format", "qcow2")


def test_end_while_it_is_resized(server):
    need_kvm()
    disk = qcow2(server, "d.qcow2", MIB)
    with server.client() as c, server.client() as d:
        server.start(c, "a", "spin", disks=[dict(path=str(disk), writable=True, image_type=1)])
        call = c.begin("ResizeVmDisk", name="a", disk=1, size_bytes=1 << 40)
        assert d.StopVm(name="a", force=True).success
        try:
            c.finish("ResizeVmDisk", call)
        except Exception:
            pass
    checked(disk)
    assert os.path.exists(disk)
