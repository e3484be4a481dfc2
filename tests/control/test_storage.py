"""CreateDiskImage and DestroyDiskImage, and paths that must not leave the storage root."""

import json
import os
import subprocess

from rig import ID, have_kvm, need_kvm

KINDS = ["vmm", "serve"]
QCOW2 = 1
CREATED, EXISTS, FAILED, DOES_NOT_EXIST, DESTROYED = 1, 2, 3, 4, 5
BAD_PATHS = ["", "/etc/x", "../x", "a/../x", "./x", "a//b", "a/", "x\ny", "..", "x" * 300, "a/" * 2500 + "x"]


def folder(server, downloads=False):
    return server.storage / "home" / (f"user/{ID}/Downloads" if downloads else f"root/{ID}/crosvm")


def test_create_and_destroy(server):
    with server.client() as c:
        for location in (0, 1):
            where = dict(cryptohome_id=ID, disk_path="d.img", storage_location=location)
            path = folder(server, location == 1) / "d.img"
            made = c.CreateDiskImage(disk_size=3 << 20, **where)
            assert (made.status, made.disk_path, made.failure_reason) == (CREATED, str(path), ""), made
            st = os.stat(path)
            assert (st.st_size, st.st_mode & 0o777, st.st_blocks) == (3 << 20, 0o600, 0)
            again = c.CreateDiskImage(disk_size=1 << 20, **where)
            assert (again.status, again.disk_path) == (EXISTS, str(path))
            assert os.stat(path).st_size == 3 << 20
            gone = c.DestroyDiskImage(**where)
            assert (gone.status, gone.failure_reason) == (DESTROYED, "")
            assert not path.exists()
            gone = c.DestroyDiskImage(**where)
            assert (gone.status, gone.failure_reason) == (DOES_NOT_EXIST, "")


def test_qcow2_is_what_qemu_img_knows(server):
    with server.client() as c:
        where = dict(cryptohome_id=ID, disk_path="d.qcow2")
        made = c.CreateDiskImage(disk_size=3 << 30, image_type=QCOW2, **where)
        assert (made.status, made.failure_reason) == (CREATED, ""), made
        info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", "-f", "qcow2", made.disk_path],
                                         check=True, capture_output=True).stdout)
        assert (info["virtual-size"], info["cluster-size"]) == (3 << 30, 65536), info
        assert info["format-specific"]["data"]["refcount-bits"] == 16
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", made.disk_path], check=True)
        st = os.stat(made.disk_path)
        assert (st.st_mode & 0o777, st.st_size < 1 << 20) == (0o600, True)
        if have_kvm() and server.kind == "serve":
            server.start(c, "a", "spin", disks=[dict(path=made.disk_path, image_type=QCOW2, writable=True)])
            busy = c.DestroyDiskImage(**where)
            assert busy.status == FAILED and busy.failure_reason, busy
            assert c.StopVm(name="a").success
        assert c.DestroyDiskImage(**where).status == DESTROYED


def test_subdirectory_must_exist(server):
    with server.client() as c:
        where = dict(cryptohome_id=ID, disk_path="sub/d.img")
        made = c.CreateDiskImage(disk_size=1 << 20, **where)
        assert made.status == FAILED and "sub does not exist" in made.failure_reason
        (folder(server) / "sub").mkdir()
        assert c.CreateDiskImage(disk_size=1 << 20, **where).status == CREATED
        assert c.DestroyDiskImage(**where).status == DESTROYED


def create_fails(c, text, **fields):
    made = c.CreateDiskImage(**{**dict(cryptohome_id=ID, disk_path="d", disk_size=1 << 20), **fields})
    assert made.status == FAILED and text in made.failure_reason, made


def test_size_type_location_and_id(server):
    with server.client() as c:
        create_fails(c, "disk_size is 0", disk_size=0)
        create_fails(c, "image type 9", image_type=9)
        create_fails(c, "storage_location 5", storage_location=5)
        create_fails(c, "18446744073709551615", disk_size=2**64 - 1)
        for bad in ("", "xyz", "../" + ID, "12/34", "a" * 200):
            create_fails(c, "hexadecimal", cryptohome_id=bad)
        create_fails(c, "does not exist", cryptohome_id="abcd")
        assert not list(folder(server).iterdir())


def test_paths_stay_below_the_root(server):
    with server.client() as c:
        for bad in BAD_PATHS:
            create_fails(c, "disk_path", disk_path=bad)
            gone = c.DestroyDiskImage(cryptohome_id=ID, disk_path=bad)
            assert gone.status == FAILED and gone.failure_reason, bad
        assert not list(folder(server).iterdir())


def test_symbolic_links_are_not_followed(server):
    outside = server.dir / "outside"
    outside.mkdir()
    (outside / "d").write_text("precious")
    (folder(server) / "link").symlink_to(outside)
    (folder(server) / "file").symlink_to(outside / "d")
    (folder(server) / "dangling").symlink_to(outside / "new")
    with server.client() as c:
        create_fails(c, "symbolic link", disk_path="link/new")
        for name in ("file", "dangling"):
            create_fails(c, "no file", disk_path=name)
        for name in ("link/d", "file", "dangling", "link"):
            gone = c.DestroyDiskImage(cryptohome_id=ID, disk_path=name)
            assert gone.status == FAILED and gone.failure_reason, name
    assert sorted(p.name for p in outside.iterdir()) == ["d"]


def test_only_files_are_destroyed(server):
    (folder(server) / "sub").mkdir()
    os.mkfifo(folder(server) / "fifo")
    with server.client() as c:
        for name in ("sub", "fifo"):
            assert c.DestroyDiskImage(cryptohome_id=ID, disk_path=name).status == FAILED
            create_fails(c, "no file", disk_path=name)


def test_disk_in_use_is_kept(server):
    need_kvm()
    with server.client() as c:
        where = dict(cryptohome_id=ID, disk_path="d")
        path = c.CreateDiskImage(disk_size=1 << 20, **where).disk_path
        server.start(c, "its user", disks=[dict(path=path, writable=True)])
        gone = c.DestroyDiskImage(**where)
        assert gone.status == FAILED and "'its user'" in gone.failure_reason, gone
        assert os.path.exists(path)


def test_disk_locked_by_others_is_kept(server):
    import fcntl
    import struct

    with server.client() as c:
        where = dict(cryptohome_id=ID, disk_path="d")
        path = c.CreateDiskImage(disk_size=1 << 20, **where).disk_path
        with open(path, "r+b") as f:  # as QEMU states that it writes
            fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
            gone = c.DestroyDiskImage(**where)
            assert gone.status == FAILED and "another process" in gone.failure_reason, gone
        assert c.DestroyDiskImage(**where).status == DESTROYED


def test_twenty_at_once(server):
    with server.client() as c:
        calls = [c.begin("CreateDiskImage", cryptohome_id=ID, disk_path=f"d{i % 10}", disk_size=1 << 20)
                 for i in range(20)]
        got = [c.finish("CreateDiskImage", s).status for s in calls]
        assert sorted(got) == [CREATED] * 10 + [EXISTS] * 10, got
