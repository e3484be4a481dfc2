"""A guest that speaks NFS itself, to leave its share: handles, names, nodes, rights, nonsense; and others who would join it."""
import contextlib
import os
import struct

import nfs_client as nfs
from harness import check, equal, long, run_tool, test

import shares
from shares import NOBODY, TARGET, Guest, Parts, content, folder, put, shared
from test_serve import serving, until

SECRET = "the host's own"
# What a server may say to a handle that it has not given out.
NO_HANDLE = ("STALE", "BADHANDLE", "FHEXPIRED", "INVAL", "BADXDR", "SERVERFAULT", "NOENT")


@contextlib.contextmanager
def attacked(context, *keys):
    """A share with a file beside it that nobody may see: gives the guest, a raw client, the share and the file."""
    outside = put(context.path("outside"), SECRET, mode=0o644)
    with shared(context, *keys) as (guest, path):
        put(os.path.join(path, "file"), "the share's")
        os.mkdir(os.path.join(path, "dir"))
        with guest.raw(guest.address()) as client:
            yield guest, client, path, outside
        equal(content(outside).decode(), SECRET, "the file outside")
        equal(guest.ask(f"cat {TARGET}/file"), "the share's", "the share afterwards")


def is_refused(client, handle, what):
    """Neither read nor written, neither seen nor gone through."""
    for operations in ((nfs.getattr_(nfs.TYPE, nfs.FILEID),), (nfs.read(0, 4096),), (nfs.readdir(),), (nfs.lookup("etc"), nfs.getfh()),
                       (nfs.write(0, b"overwritten"),), (nfs.setattr_({nfs.MODE: nfs.uint(0o777)}),)):
        answer = client.run(nfs.putfh(handle), *operations)
        check(not answer.ok and answer.results == [] or answer.status in NO_HANDLE, f"{what}: {handle.hex()}: {answer}")


@test()
def handles_flipped(context):
    """Every bit of a handle that the server gave out, every other length, and pieces of one before the rest of another."""
    with attacked(context) as (_, client, _, _):
        for names in ((), ("file",), ("dir",)):
            handle = client.handle(*names)
            own = client.run(nfs.putfh(handle), nfs.getattr_(nfs.FILEID)).last
            for bit in range(8 * len(handle)):
                forged = bytearray(handle)
                forged[bit // 8] ^= 1 << bit % 8
                answer = client.run(nfs.putfh(bytes(forged)), nfs.getattr_(nfs.FILEID))
                # there are some that nobody looks at
                check(not answer.ok or answer.last == own, f"bit {bit} of {handle.hex()}, flipped: {answer}")
            for length in range(len(handle)):
                check(not client.run(nfs.putfh(handle[:length]), nfs.getattr_(nfs.FILEID)).ok, f"{length} bytes of {handle.hex()}")
            for length in (1, 8, 128 - len(handle), 129 - len(handle)):
                check(not client.run(nfs.putfh(handle + bytes(length)), nfs.getattr_(nfs.FILEID)).ok, f"{length} more of {handle.hex()}")
        one, other = client.handle("file"), client.handle("dir")
        for cut in range(1, min(len(one), len(other))):
            forged = one[:cut] + other[cut:]
            if forged not in (one, other):
                check(not client.run(nfs.putfh(forged), nfs.getattr_(nfs.FILEID)).ok, f"{cut} bytes of one and the rest of another")


@test()
def handles_of_other_files(context):
    """The inode number of one outside, or of the file system's root, with every generation that is not checked."""
    with attacked(context) as (_, client, path, outside):
        own = client.handle("file")
        number = struct.pack("<I", os.stat(os.path.join(path, "file")).st_ino)
        at = own.find(number)
        check(at > 0, f"the handle {own.hex()} does not hold the inode number {number.hex()}: this test must know another form")
        targets = [2, os.stat(outside).st_ino, os.stat("/etc/shadow").st_ino, os.stat(context.folder).st_ino]
        for inode in targets:
            for generation in (None, 0, 1):
                forged = own[:at] + struct.pack("<I", inode) + own[at + 4:]
                if generation is not None:
                    forged = forged[:at + 4] + struct.pack("<I", generation) + forged[at + 8:]
                is_refused(client, forged, f"inode {inode}, generation {generation}")
                # as the server would have it without what it adds to know its own
                is_refused(client, forged[:at + 8], f"inode {inode}, generation {generation}, cut")


@test()
def names_that_lead_out(context):
    with attacked(context) as (_, client, path, outside):
        root = client.handle()
        for name in ("..", ".", "/", "/etc", "../outside", "dir/../..", "dir/../../outside", outside, "", b"\0", b"..\0", "x" * 256, "x" * 70000):
            answer = client.run(nfs.putfh(root), nfs.lookup(name), nfs.getfh())
            check(not answer.ok, f"LOOKUP of {name[:40]!r}: {answer}")
            for what, operations in (("OPEN", (nfs.open_(client.clientid, name, how=nfs.READ, make=False),)),
                                     ("CREATE", (nfs.create(nfs.NF4DIR, name),)), ("REMOVE", (nfs.remove(name),)),
                                     ("RENAME", (nfs.savefh(), nfs.rename("file", name))), ("RENAME from", (nfs.savefh(), nfs.rename(name, "got"))),
                                     ("LINK", (nfs.savefh(), nfs.lookup("file"), nfs.savefh(), nfs.putfh(root), nfs.link(name)))):
                answer = client.run(nfs.putfh(root), *operations)
                check(not answer.ok, f"{what} of {name[:40]!r}: {answer}")
        equal(sorted(os.listdir(path)), ["dir", "file"], "what is in the share")


@test()
@long()
def up_and_across(context):
    """LOOKUPP ends at the share's root; there is no other export, and no public one."""
    with attacked(context) as (_, client, path, _):
        answer = client.run(nfs.putrootfh(), nfs.getattr_(nfs.FILEID, nfs.FSID), nfs.readdir(numbers=(nfs.FILEID, nfs.MOUNTED_ON_FILEID)))
        check(answer.ok, f"the root: {answer}")
        equal(answer.results[1][nfs.FILEID], os.stat(path).st_ino, "the root's inode")
        equal(sorted(answer.results[2][0]), [b"dir", b"file"], "what is in the root")
        answer = client.run(nfs.putrootfh(), nfs.lookupp(), nfs.getfh())
        check(not answer.ok, f"LOOKUPP of the root: {answer}")
        answer = client.run(nfs.putrootfh(), nfs.lookup("dir"), nfs.lookupp(), nfs.lookupp(), nfs.getfh())
        check(not answer.ok, f"LOOKUPP twice: {answer}")
        answer = client.run(nfs.putpubfh(), nfs.getattr_(nfs.FILEID))
        check(not answer.ok or answer.results[1][nfs.FILEID] == os.stat(path).st_ino, f"the public root: {answer}")
        for name in ("share", "lodge", "run", "proc", "dev", "usr", "etc"):
            answer = client.run(nfs.putrootfh(), nfs.lookup(name), nfs.getfh())
            equal(answer.status, "NOENT", f"LOOKUP of {name}")
        # one that was moved out while it is in use
        inner = client.handle("dir")
        os.rename(os.path.join(path, "dir"), context.path("taken"))
        answer = client.run(nfs.putfh(inner), nfs.lookupp(), nfs.getattr_(nfs.FILEID))
        check(not answer.ok or answer.results[2][nfs.FILEID] == os.stat(path).st_ino, f"LOOKUPP of a directory that was moved out: {answer}")
        os.rename(context.path("taken"), os.path.join(path, "dir"))


@test()
def nodes_and_rights(context):
    """No devices; owners stay; who claims to be root is not; what is not permitted to the share's user is not to anybody."""
    with attacked(context) as (guest, client, path, _):
        put(os.path.join(path, "secret"), SECRET, owner=0, mode=0o600)
        root = client.handle()
        for kind, name in ((nfs.NF4BLK, "blk"), (nfs.NF4CHR, "chr")):
            answer = client.run(nfs.putfh(root), nfs.create(kind, name, special=(1, 3)))
            check(not answer.ok, f"CREATE of a device: {answer}")
            check(not os.path.lexists(os.path.join(path, name)), "a device is there")
        for uid in (0, 1, 1000, 0x7fffffff):
            client.credentials = nfs.auth_sys(uid, 0, (0, 4, 6, 27))
            secret = client.handle("secret")
            for what, operations in (("READ", (nfs.read(0, 100),)), ("WRITE", (nfs.write(0, b"x"),)),
                                     ("SETATTR", (nfs.setattr_({nfs.MODE: nfs.uint(0o666)}),)),
                                     ("SETATTR", (nfs.setattr_({nfs.SIZE: nfs.hyper(0)}),))):
                answer = client.run(nfs.putfh(secret), *operations)
                check(not answer.ok, f"{what} of root's file as {uid}: {answer}")
            name = f"by-{uid}"
            answer = client.run(nfs.putfh(root), nfs.open_(client.clientid, name, {nfs.MODE: nfs.uint(0o6755), }), nfs.getfh())
            check(answer.ok, f"OPEN as {uid}: {answer}")
            for number in (nfs.OWNER, nfs.OWNER_GROUP):
                for owner in ("0", "root", "root@localdomain", "4294967295", "1000"):
                    client.run(nfs.putfh(answer.results[2]), nfs.setattr_({number: nfs.opaque(owner)}))
            found = os.stat(os.path.join(path, name))
            equal((found.st_uid, found.st_gid), (NOBODY, NOBODY), f"owner of what {uid} made")
        equal(content(os.path.join(path, "secret")).decode(), SECRET, "root's file")
        equal(os.stat(os.path.join(path, "secret")).st_mode & 0o7777, 0o600, "its mode")


HUGE = nfs.uint(0xffffffff)  # the head of a fragment of 2 GiB


def nonsense(own):
    """Byte streams that are no calls, or none that anybody means."""
    call = nfs.uint(7) + nfs.uint(0) + nfs.uint(2) + nfs.uint(nfs.NFS_PROGRAM) + nfs.uint(4)

    def record(body):
        return nfs.uint(nfs.FRAGMENT_LAST | len(body)) + body

    auth = nfs.auth_sys(0, 0) + nfs.uint(0) + nfs.uint(0)
    compound = record(call + nfs.uint(1) + auth + nfs.opaque("") + nfs.uint(1))
    yield "random bytes", os.urandom(1 << 16)
    yield "zeros", bytes(1 << 20)
    yield "a fragment of 2 GiB", HUGE + bytes(1 << 20)
    yield "a fragment of 1 GiB that is not the last", nfs.uint(0x40000000) + bytes(1 << 20)
    yield "ten thousand empty fragments", nfs.uint(0) * 10000
    yield "a call that ends early", record(call[:-4])
    yield "credentials of 2 GiB", record(call + nfs.uint(1) + nfs.uint(1) + nfs.uint(0x7fffffff))
    yield "a million groups", record(call + nfs.uint(1) + nfs.uint(1) + nfs.opaque(nfs.uint(0) + nfs.opaque("x") + nfs.uint(0) * 2 + nfs.uint(1 << 20)))
    yield "another program", record(call[:12] + nfs.uint(100005) + nfs.uint(3) + nfs.uint(1) + auth)
    yield "another version", record(call[:16] + nfs.uint(3) + nfs.uint(1) + auth + nfs.opaque(own))
    yield "no operations", record(compound[4:] + nfs.uint(0))
    yield "four billion operations", record(compound[4:] + nfs.uint(0xffffffff) + nfs.uint(24) * 1000)
    yield "ten thousand operations", record(compound[4:] + nfs.uint(10000) + nfs.uint(24) * 10000)
    yield "an operation that does not exist", record(compound[4:] + nfs.uint(1) + nfs.uint(9999))
    yield "a handle of 2 GiB", record(compound[4:] + nfs.uint(1) + nfs.uint(22) + nfs.uint(0x7fffffff))
    yield "a tag of 2 GiB", record(call + nfs.uint(1) + auth + nfs.uint(0x7fffffff))


@test()
@long()
def nonsense_is_survived(context):
    """Whatever comes, the share works afterwards, also that of another VM, whose server stays the same."""
    with serving(context) as server:
        other = Guest(context, server, "b", f"path={folder(context, 'others')},mount=/srv/b")
        other_parts = Parts(other.address("/srv/b"))
        guest = Guest(context, server, "a", f"path={folder(context)}")
        guest.ask(f"echo x >{TARGET}/file")
        address = guest.address()
        with guest.raw(address) as client:
            own = client.handle("file")
        for what, data in nonsense(own):
            streams = [nfs.Pipe(guest.exec_words("bash", "-c", shares.BYTES_TO.format(*address)))
                       for _ in range(4 if data.startswith(HUGE) else 1)]
            for stream in streams:
                with contextlib.suppress(BrokenPipeError):
                    stream.sendall(data)
            equal(guest.ask(f"cat {TARGET}/file"), "x\n", f"the share after {what}")
            equal(shares.listener(other_parts.address), other_parts.server, f"the other VM's server after {what}")
            for stream in streams:
                stream.close()
        other.ask("echo y >/srv/b/file")
        other.stop()
        guest.stop()


@test()
@long()
def too_many_connections(context):
    """Of one guest: another VM's share works meanwhile, and so does its own afterwards."""
    with serving(context) as server:
        other = Guest(context, server, "b", f"path={folder(context, 'others')}")
        guest = Guest(context, server, "a", f"path={folder(context)}")
        host, port = guest.address()
        greedy = guest.another_shell()
        greedy.ask("ulimit -n 4096")
        greedy.tells(f"for n in $(seq 10 2000); do eval \"exec $n<>/dev/tcp/{host}/{port}\" || break; done")
        other.ask(f"echo y >{TARGET}/file", 60)
        greedy.close()
        # its server may have forgotten it meanwhile: then what it asks first is an error
        until("its own share", lambda: guest.tells(f"echo x >{TARGET}/file && cat {TARGET}/file") == (0, "x\n"))
        other.stop()
        guest.stop()


def answers(address, timeout_s):
    """Does an NFS server answer us there?"""
    try:
        with nfs.Client(nfs.connect(*address, timeout_s)):
            return True
    except (OSError, nfs.NfsError):
        return False


@test()
@long()
def only_its_own_guest(context):
    """Neither this host, nor another guest, nor one that takes the guest's address, nor another network behind the host."""
    with serving(context) as server:
        owner = Guest(context, server, "a", f"path={folder(context)}")
        address = owner.address()
        neighbour = Guest(context, server, "b", f"path={folder(context, 'others')}")
        theirs = neighbour.address()
        check(address[0] != theirs[0], "two VMs have one network")
        check(not answers(address, 5), "the host itself is answered")
        reach = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address[0]}/{address[1]}'"
        owner.ask(reach)
        check(neighbour.tells(reach)[0], "another guest is answered")
        # with the address of the one that may
        inside = owner.ask("hostname -I || ip -o -4 addr show scope global").split()[0]
        device = neighbour.ask("ls /sys/class/net | grep -v lo").split()[0]
        neighbour.tells(f"ip addr add {inside}/32 dev {device}; ip route add {address[0]} dev {device} src {inside}")
        check(neighbour.tells(reach)[0], "another guest with the guest's address is answered")
        # nor by forwarding
        said = run_tool("sysctl", "-n", "net.ipv4.ip_forward").strip()
        run_tool("sysctl", "-qw", "net.ipv4.ip_forward=1")
        check(neighbour.tells(reach)[0], "another guest is answered through a host that forwards")
        run_tool("sysctl", "-qw", f"net.ipv4.ip_forward={said}")
        owner.stop()
        neighbour.stop()


@test()
@long()
def handles_of_another_vm(context):
    """A handle that one VM's server gave out is worth nothing at another's, also where both share the same directory."""
    path = folder(context)
    put(os.path.join(path, "file"), "the share's", mode=0o666)
    with serving(context) as server:
        a, b = Guest(context, server, "a", f"path={path}"), Guest(context, server, "b", f"path={path}")
        with a.raw(a.address()) as first, b.raw(b.address()) as second:
            handle = first.handle("file")
            is_refused(second, handle, "of another VM")
            equal(first.run(nfs.putfh(handle), nfs.read(0, 100)).last, b"the share's", "its own")
        a.stop()
        with b.raw(b.address()) as second:
            is_refused(second, handle, "of a VM that is gone")
        b.stop()


@test()
@long()
def after_its_vm(context):
    """Nobody serves what a VM had; a VM that comes in its place, with its address, has its own share alone."""
    place = shares.Place(context)
    path = folder(context)
    put(os.path.join(path, "file"), SECRET, mode=0o666)
    with serving(context) as server:
        guest = Guest(context, server, "a", f"path={path}", arguments=place.words)
        address = guest.address()
        with guest.raw(address) as client:
            handle, session = client.handle("file"), client.session
        parts = Parts(address)
        guest.stop()
        parts.are_gone()
        check(not answers(address, 5), "somebody answers where the VM was")
        after = Guest(context, server, "b", f"path={folder(context, 'others')}", arguments=place.words)
        equal(after.address()[0], address[0], "the address of the next")
        with after.raw(after.address()) as client:
            is_refused(client, handle, "of the VM that was here before")
            client.session = session
            check(not client.run(nfs.putrootfh(), nfs.getattr_(nfs.FILEID)).ok, "the session of the VM before is still there")
        after.stop()


@test()
@long()
def read_only_share(context):
    """Whatever the guest's own mount says."""
    with attacked(context, "ro=on") as (_, client, path, _):
        root, file = client.handle(), client.handle("file")
        for what, operations in (("WRITE", (nfs.putfh(file), nfs.write(0, b"x"))), ("REMOVE", (nfs.putfh(root), nfs.remove("file"))),
                                 ("CREATE", (nfs.putfh(root), nfs.create(nfs.NF4DIR, "new"))),
                                 ("OPEN", (nfs.putfh(root), nfs.open_(client.clientid, "new"))),
                                 ("OPEN", (nfs.putfh(root), nfs.open_(client.clientid, "file", make=False))),
                                 ("SETATTR", (nfs.putfh(file), nfs.setattr_({nfs.SIZE: nfs.hyper(0)}))),
                                 ("SETATTR", (nfs.putfh(file), nfs.setattr_({nfs.MODE: nfs.uint(0o777)}))),
                                 ("RENAME", (nfs.putfh(root), nfs.savefh(), nfs.rename("file", "new"))),
                                 ("LINK", (nfs.putfh(file), nfs.savefh(), nfs.putfh(root), nfs.link("new")))):
            answer = client.run(*operations)
            check(not answer.ok, f"{what}: {answer}")
        equal(sorted(os.listdir(path)), ["dir", "file"], "what is in the share")
