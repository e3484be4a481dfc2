"""Shared directories: what is refused, and that a start that fails leaves nothing. With guests: tests/guest/test_share.py."""
import os
import shutil
import subprocess

from rig import Server, Skip, until
from test_start import refused

KINDS = ["serve"]


class Alone(Server):
    before = ["unshare", "--net"]

    def __enter__(self):
        if os.geteuid() or not shutil.which("ganesha.nfsd"):
            raise Skip("shares need root and nfs-ganesha")
        super().__enter__()
        self.shared = self.dir / "shared"
        self.shared.mkdir()
        return self

    def host(self, *words):
        """A command in the server's namespace."""
        return subprocess.run(["nsenter", "-t", str(self.process.pid), "--net", *words], check=True, capture_output=True,
                              text=True).stdout


SERVER = Alone


def servers(server):
    """Processes that are in the server's network and not the server's own."""
    mine = os.stat(f"/proc/{server.process.pid}/ns/net").st_ino
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == mine:
                with open(f"/proc/{pid}/comm") as f:
                    found.append(f.read().strip())
        except OSError:
            pass
    return [name for name in found if name in ("ganesha.nfsd", "lodge-keeper", "nft")]


def test_what_is_no_directory(server):
    file = server.dir / "file"
    file.touch()
    refused(server, "share /absent does not exist", name="a", **server.spec(shared_directory="/absent"))
    refused(server, "not absolute", name="a", **server.spec(shared_directory="srv"))
    refused(server, f"share {file}: is not a directory", name="a", **server.spec(shared_directory=str(file)))
    refused(server, "share : no path is given", name="a", **server.spec(shares=[dict(mount_point="/x")]))
    refused(server, "cannot be shared by NFS", name="a", **server.spec(shared_directory="/proc/self"))


def test_mount_points(server):
    a, b = str(server.shared), "/tmp"
    refused(server, f"share {b}: /mnt/shared is the mount point of {a} already", name="a",
            **server.spec(shared_directory=a, shares=[dict(path=b, mount_point="/mnt/shared")]))
    refused(server, f"share {b}: no mount point", name="a", **server.spec(shared_directory=a, shares=[dict(path=b)]))
    refused(server, "mount_point", name="a", **server.spec(shares=[dict(path=a, mount_point="x")]))
    many = [dict(path=a, mount_point=f"/m{n}") for n in range(9)]
    refused(server, "at most 8 directories", name="a", **server.spec(shares=many))


def test_users(server):
    path = str(server.shared)
    refused(server, "rights of root's", name="a", **server.spec(shares=[dict(path=path, user="0")]))
    refused(server, "'x'", name="a", **server.spec(shares=[dict(path=path, user="x")]))
    refused(server, "share_user: '0:0'", name="a", **server.spec(shared_directory=path, share_user="0:0"))


def test_what_it_needs(server):
    path = str(server.shared)
    refused(server, "interface of the pool", name="a", **server.spec(shared_directory=path, networks=["none"]))
    spec = server.spec(shared_directory=path)
    spec["vm"]["no_agent"] = True
    refused(server, "needs the agent", name="a", **spec)


def test_nothing_stays_of_a_start_that_fails(server):
    """Its guest has no agent, or there is no KVM: in either case the servers are there by then."""
    second = server.dir / "second"
    second.mkdir()
    spec = server.spec("spin", shared_directory=str(server.shared), start_timeout_ms=1000,
                       shares=[dict(path=str(second), mount_point="/x", read_only=True)])
    with server.client() as c:
        reply = c.StartVm(name="a", **spec)
        assert not reply.success and reply.failure_reason, reply
    until("nothing is left", lambda: not servers(server))
    assert "lodge" not in server.host("ip", "-br", "link"), server.host("ip", "-br", "link")
    assert "lodge" not in server.host("nft", "list", "tables")
