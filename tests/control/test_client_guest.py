"""lodge exec and lodge cp with canned answers: what they make of a guest that answers with anything."""

import os
import pathlib
import subprocess
import tempfile

from fake import Fake
from rig import B, lodge
from test_client import FAILED, NO_VM, USAGE, cli

KINDS = ["serve"]
REGULAR, DIRECTORY, LINK = 1, 2, 3


def listing(tree):
    """A handler of ListGuestFiles: path -> (type, entries)."""
    def handler(call):
        path = call.request.request.path
        if path not in tree:
            call.fail(5, f"{path}: No such file or directory")
            return
        kind, entries = tree[path]
        call.reply(self={"type": kind, "attributes": {"mode": 0o4755}}, entries=entries if not call.request.request.no_entries else [])
    return handler


def file_of(data, mode=0o4777):
    def handler(call):
        call.send(attributes={"mode": mode, "size_bytes": len(data)})
        call.send(data=data)
        call.end()
    return handler


def entry(name, kind=REGULAR, target=b""):
    return {"name": name, "type": kind, "attributes": {"mode": 0o777}, "link_target": target}


def test_cp_puts_nothing_elsewhere(server):
    """Names that are none, links in the way, set-user-id bits."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "victim").mkdir()
        names = [entry(n) for n in (b"", b".", b"..", b"../out", b"/out", b"a/b", b"x" * 256, b"nu\0l", b"\xff")]
        tree = {"/d": (DIRECTORY, [entry(b"way", LINK, bytes(folder / "victim")), entry(b"way", DIRECTORY),
                                   *names, entry(b"good"), entry(b"odd", 77), entry(b"l", LINK, b"")]),
                "/d/way": (DIRECTORY, [entry(b"got in")])}
        with Fake(ListGuestFiles=listing(tree), ReadGuestFile=file_of(b"data")) as path:
            out = subprocess.run([B / "lodge", "cp", "a:/d", folder / "new", "--socket", path], capture_output=True, text=True)
            assert out.returncode == FAILED and "way" in out.stderr, out
            assert not list((folder / "victim").iterdir())
            tree["/d"][1][:2] = []
            out = subprocess.run([B / "lodge", "cp", "a:/d", folder / "new2", "--socket", path], capture_output=True, text=True)
            assert out.returncode == FAILED and out.stderr.count("no name") == 8, out.stderr
            assert sorted(os.listdir(folder / "new2")) == ["good"] and not (folder / "out").exists()
            assert (folder / "new2" / "good").stat().st_mode & 0o7777 == 0o777
            subprocess.run([B / "lodge", "cp", "a:/d/good", folder / "g", "--socket", path], check=False)


def test_cp_of_what_breaks_off(server):
    def broken(call):
        call.send(attributes={"mode": 0o644, "size_bytes": 100})
        call.send(data=b"half")
        call.fail(14, "the agent in the guest has gone: connection reset")

    with tempfile.TemporaryDirectory() as folder:
        old = pathlib.Path(folder) / "file"
        old.write_bytes(b"old")
        with Fake(ListGuestFiles=listing({"/f": (REGULAR, [])}), ReadGuestFile=broken) as path:
            assert "has gone" in cli(path, "cp", "a:/f", str(old), status=4)
        assert old.read_bytes() == b"old" and os.listdir(folder) == ["file"]
        with Fake(ListGuestFiles=listing({"/f": (REGULAR, [])}), ReadGuestFile=lambda call: call.end()) as path:
            assert "sends nothing" in cli(path, "cp", "a:/f", str(old), status=FAILED)
        assert old.read_bytes() == b"old"
        with Fake(ListGuestFiles=lambda call: call.reply()) as path:
            assert "does not say" in cli(path, "cp", "a:/f", str(old), status=FAILED)


def test_exec_of_odd_answers(server):
    def run(handler, *args):
        with Fake(ExecInGuest=handler) as path:
            return subprocess.run([B / "lodge", "exec", "--socket", path, "a", *(args or ["true"])], capture_output=True,
                                  stdin=subprocess.DEVNULL)

    def ends(**exited):
        def handler(call):
            next(call.typed())
            call.send(stdin_taken_bytes=2 ** 63, stdout_data=b"o", stderr_data=b"e")
            call.send(exited=exited)
            call.end()
        return handler

    out = run(ends(status=2))
    assert (out.returncode, out.stdout, out.stderr) == (2, b"o", b"e")
    assert run(ends(status=0x100)).returncode == 0
    assert run(ends(signal=2 ** 31)).returncode == 255
    assert run(lambda call: call.end()).returncode == 125
    out = run(lambda call: call.fail(5, "cannot start x\x1b[2J: none"))
    assert out.returncode == 127 and b"\x1b" not in out.stderr
    assert run(lambda call: call.fail(5, "there is no user x in the guest")).returncode == 125
    assert run(lambda call: call.fail(9, "cannot start x: it is being written to")).returncode == 126


def test_guest_words(server):
    facts = dict(hostname="h\x1b[2J", os="Some\u009bOS", cpus=3, memory_bytes=1 << 30, interfaces=[{"name": "e\n0", "mtu": 7}],
                 filesystems=[{"source": "/dev/vda", "target": "/", "fstype": "ext4", "size_bytes": 1 << 30}])
    asked = []
    with Fake(GetGuestFacts=lambda call: call.reply(**facts), ResizeVmDisk=lambda call: call.reply(),
              MountInGuest=lambda call: (asked.append(call.request), call.reply()),
              GrowGuestFilesystem=lambda call: (asked.append(call.request), call.reply())) as path:
        text = cli(path, "guest", "a")
        assert "h?[2J" in text and "Some?OS" in text and "\x1b" not in text
        cli(path, "guest", "mount", "a", "/dev/vdb", "/data", "--ro", "--mkfs", "--fstype", "xfs")
        r = asked.pop().request
        assert (r.source, r.target, r.fstype, r.flags, r.mkfs_if_blank) == ("/dev/vdb", "/data", "xfs", 1, True)
        cli(path, "guest", "mount", "a", "/dev/vdb", status=USAGE)
        cli(path, "guest", status=USAGE)
        facts["disks"] = [{"name": "vda", "size_bytes": 1 << 30}]
        cli(path, "resize", "a", "vda", "1G", "--grow")
        assert asked.pop().request.target == "/"
    with Fake(GetGuestFacts=lambda call: call.fail(5, "there is no VM 'a'")) as path:
        assert "there is no VM" in cli(path, "guest", "facts", "a", status=NO_VM)
