"""CreateDiskImage and DestroyDiskImage, and paths that must not leave the storage root."""

import json
import os
import subprocess

from rig import B, ID, Skip, as_user, expect_rpc_error, have_kvm, lodge, need_kvm

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


def test_a_root_that_is_not_there(server):
    absent = str(server.dir / "absent")
    run = subprocess.run([B / "lodge", server.kind, "--socket", server.socket + "2", "--storage-root", absent,
                          *(["--runtime-dir", str(server.dir / "run2")] if server.kind == "serve" else [])],
                         capture_output=True, text=True)
    assert run.returncode == 1 and f"{absent} does not exist; make it (mkdir -p)" in run.stderr, run
    assert run.stderr.count("\n") == 1 and not os.path.exists(server.socket + "2")


def test_a_folder_that_is_not_there_is_named_with_the_cure(server):
    with server.client() as c:
        reply = c.CreateDiskImage(cryptohome_id="ab", disk_path="d", disk_size=1 << 20)
        assert reply.status == FAILED and "home/root/ab/crosvm does not exist; make it (mkdir -p)" in reply.failure_reason, reply


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


# ---- images that are there ----

def place(c, name, size=3 << 20, **fields):
    """An image that was just made, as further calls name it, and its path."""
    made = c.CreateDiskImage(cryptohome_id=ID, disk_path=name, disk_size=size, **fields)
    assert made.status == CREATED, made
    return dict(cryptohome_id=ID, disk_path=name, **fields), made.disk_path


def test_info(server):
    with server.client() as c:
        for image_type, name in ((0, "raw"), (QCOW2, "qcow2")):
            where, path = place(c, name, image_type=image_type)
            with open(path, "r+b") as f:
                if not image_type:
                    f.write(bytes(range(256)) * 256)
                os.fsync(f)
            got = c.GetDiskImageInfo(**where)
            assert (got.path, got.size_bytes, got.in_use) == (path, 3 << 20, False), got
            assert got.allocated_bytes == os.stat(path).st_blocks * 512
            if have_kvm() and server.kind == "serve":
                server.start(c, name, "spin", disks=[dict(path=path, image_type=image_type, writable=True)])
                assert c.GetDiskImageInfo(**where).in_use


def test_resize(server):
    with server.client() as c:
        for image_type, name in ((0, "raw"), (QCOW2, "qcow2")):
            where, path = place(c, name, image_type=image_type)
            with open(path, "rb") as f:
                before = f.read()
            for size in (0, 1000, 2**64 - 512):
                expect_rpc_error("INVALID_ARGUMENT", c.ResizeDiskImage, size_bytes=size, **where)
            expect_rpc_error("INVALID_ARGUMENT", c.ResizeDiskImage, size_bytes=1 << 20, **where)
            with open(path, "rb") as f:
                assert f.read() == before
            assert c.ResizeDiskImage(size_bytes=5 << 20, **where).old_size_bytes == 3 << 20
            assert c.ResizeDiskImage(size_bytes=1 << 20, shrink=True, **where).old_size_bytes == 5 << 20
            assert c.GetDiskImageInfo(**where).size_bytes == 1 << 20


def test_check_and_repair(server):
    with server.client() as c:
        where, path = place(c, "q", image_type=QCOW2)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 256k", path], check=True, capture_output=True)
        got = c.CheckDiskImage(**where)
        assert (got.corruptions, got.leaks, got.clusters, got.allocated_clusters) == (0, 0, 48, 4), got
        with open(path, "r+b") as f:  # an L2 entry is forgotten: its cluster leaks
            f.seek(40)
            l1 = int.from_bytes(f.read(8), "big")
            f.seek(l1)
            l2 = int.from_bytes(f.read(8), "big") & 0x00fffffffffffe00
            f.seek(l2)
            f.write(bytes(8))
        assert c.CheckDiskImage(**where).leaks == 1
        assert c.CheckDiskImage(**where).leaks_fixed == 0
        assert c.CheckDiskImage(repair=True, **where).leaks_fixed == 1
        assert c.CheckDiskImage(**where).leaks == 0
        where, path = place(c, "r")
        assert c.CheckDiskImage(**where).corruptions == 0


def test_edits_obey_the_rules_of_names(server):
    outside = server.dir / "outside"
    outside.mkdir()
    (outside / "d").write_bytes(bytes(4096))
    (folder(server) / "link").symlink_to(outside)
    (folder(server) / "file").symlink_to(outside / "d")
    os.mkfifo(folder(server) / "fifo")
    with server.client() as c:
        for call in (c.GetDiskImageInfo, c.CheckDiskImage, lambda **f: c.ResizeDiskImage(size_bytes=8192, **f)):
            for bad in (*BAD_PATHS, "link/d", "file", "fifo"):
                expect_rpc_error("INVALID_ARGUMENT", call, cryptohome_id=ID, disk_path=bad)
            expect_rpc_error("INVALID_ARGUMENT", call, cryptohome_id=ID, disk_path="x", image_type=9)
            expect_rpc_error("NOT_FOUND", call, cryptohome_id=ID, disk_path="absent")
            expect_rpc_error("NOT_FOUND", call, cryptohome_id="ab", disk_path="absent")
    assert (outside / "d").stat().st_size == 4096


def test_wrong_type_is_said(server):
    with server.client() as c:
        where, path = place(c, "raw")
        for call in (c.GetDiskImageInfo, c.CheckDiskImage, lambda **f: c.ResizeDiskImage(size_bytes=8 << 20, **f)):
            try:
                call(**{**where, "image_type": QCOW2})
            except lodge.RpcError as e:
                assert lodge.CODES[e.code] == "INVALID_ARGUMENT" and path in e.text and "/proc" not in e.text, e
            else:
                raise AssertionError("a raw file was taken for qcow2")


def test_an_image_in_use_is_left_alone(server):
    need_kvm()
    with server.client() as c:
        where, path = place(c, "d", image_type=QCOW2)
        server.start(c, "its user", "spin", disks=[dict(path=path, image_type=QCOW2, writable=True)])
        with open(path, "rb") as f:
            before = f.read()
        for call in (lambda **f: c.ResizeDiskImage(size_bytes=8 << 20, **f), c.CheckDiskImage,
                     lambda **f: c.CheckDiskImage(repair=True, **f)):
            try:
                call(**where)
            except lodge.RpcError as e:
                assert lodge.CODES[e.code] == "FAILED_PRECONDITION" and "'its user'" in e.text, e
            else:
                raise AssertionError("not refused")
        with open(path, "rb") as f:
            assert f.read() == before


def test_a_backing_file_is_not_opened(server):
    with server.client() as c:
        where, path = place(c, "top", image_type=QCOW2)
        secret = server.disk("base", 8 << 20)
        subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, path], check=True)
        expect_rpc_error("INVALID_ARGUMENT", c.ResizeDiskImage, size_bytes=8 << 20, **where)
        assert c.GetDiskImageInfo(**where).size_bytes == 3 << 20


def test_images_belong_to_who_made_them(server):
    if os.geteuid() != 0:
        raise Skip("only root can be somebody else")
    server.end()
    server.args = ["--allow-uid", "20001", "--allow-uid", "20002", "--socket-mode", "0666"]
    os.chmod(server.dir, 0o755)
    server.begin()

    def make():
        with server.client() as c:
            where, path = place(c, "mine")
            assert c.ResizeDiskImage(size_bytes=5 << 20, **where).old_size_bytes == 3 << 20
            return path
    path = as_user(20001, 20011, [], make)
    st = os.stat(path)
    assert (st.st_uid, st.st_gid, st.st_mode & 0o777, st.st_size) == (20001, 20011, 0o600, 5 << 20)
    where = dict(cryptohome_id=ID, disk_path="mine")

    def others():
        with server.client() as c:
            assert c.GetDiskImageInfo(**where).size_bytes == 5 << 20
            expect_rpc_error("PERMISSION_DENIED", c.ResizeDiskImage, size_bytes=6 << 20, **where)
            expect_rpc_error("PERMISSION_DENIED", c.CheckDiskImage, repair=True, **where)
            gone = c.DestroyDiskImage(**where)
            assert gone.status == FAILED and "may not write" in gone.failure_reason, gone
    as_user(20002, 20002, [], others)
    assert os.path.exists(path)
    with server.client() as c:
        assert c.DestroyDiskImage(**where).status == DESTROYED
