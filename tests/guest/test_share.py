"""Directories of the host in Linux guests: what each side sees of the other, names, locks, rights."""
import fcntl
import os
import subprocess
import time

from harness import DEADLINE_S, LODGE, check, environment, equal, long, run_tool, test

import shares
from shares import NOBODY, TARGET, Guest, Parts, Place, content, folder, put, shared
from test_serve import serving, until

MIB = 1 << 20
FILES = int(os.environ.get("LODGE_TEST_SHARE_FILES", "100000"))


@test()
def run_one_command(context):
    """`lodge run`: there when the command starts, gone with it."""
    path = folder(context)
    put(os.path.join(path, "question"), "from the host\n")
    done = subprocess.run([LODGE, "run", *shares.root_words(context), *shares.QUICK, "--share", f"path={path}",
                           "--stop-timeout", "200", "--console", f"file:{context.path('console.log')}", "--exec",
                           f"cat {TARGET}/question && echo from the guest >{TARGET}/answer && cat /proc/mounts"],
                          capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)
    equal(done.returncode, 0, f"exit status ({done.stderr})")
    check(done.stdout.startswith("from the host\n"), f"the guest saw {done.stdout!r}")
    equal(content(os.path.join(path, "answer")), b"from the guest\n", "what the host sees")
    address = shares.server_of(done.stdout)
    equal(shares.listener(address), None, "who listens after the end")


def seen_within_a_second(look, what):
    """No look that begins more than a second after this call still sees the old."""
    began = time.monotonic()
    while True:
        at = time.monotonic()
        if look():
            return
        check(at - began <= 1.0, f"{what}: not seen within a second")


@test()
def seen_at_once(context):
    """Content, new files, directories, renaming and removal, by the host and by the guest, also of what was looked at."""
    with shared(context) as (guest, path):
        def here(name):
            return os.path.join(path, name)

        def guest_sees(name, text, what):
            wanted = (0, text) if text is not None else (1, "")
            seen_within_a_second(lambda: guest.tells(f"cat {TARGET}/{name} 2>/dev/null") == wanted, f"by the guest: {what}")

        def host_sees(name, text, what):
            seen_within_a_second(lambda: (content(here(name)).decode() if os.path.exists(here(name)) else None) == text,
                                 f"by the host: {what}")

        guest.tells(f"cat {TARGET}/file; ls {TARGET}")  # it knows that there is none
        put(here("file"), "one")
        guest_sees("file", "one", "a new file")
        with open(here("file"), "r+", encoding="ascii") as file:
            file.write("two")  # of the same size, and the same file
        guest_sees("file", "two", "another content")
        put(here("file"), "three")
        guest_sees("file", "three", "another file of that name")
        with open(here("file"), "a", encoding="ascii") as file:
            file.write(" and more")
        guest_sees("file", "three and more", "what was appended")
        os.rename(here("file"), here("moved"))
        guest_sees("file", None, "the old name")
        guest_sees("moved", "three and more", "the new name")
        os.unlink(here("moved"))
        guest_sees("moved", None, "a removed file")
        os.mkdir(here("dir"))
        os.chown(here("dir"), NOBODY, NOBODY)
        put(here("dir/file"), "inside")
        guest_sees("dir/file", "inside", "a new directory")
        seen_within_a_second(lambda: guest.ask(f"ls {TARGET}") == "dir\n", "by the guest: a listing")

        guest.ask(f"echo one >{TARGET}/made")
        host_sees("made", "one\n", "a new file")
        guest.ask(f"echo two >>{TARGET}/made")
        host_sees("made", "one\ntwo\n", "what was appended")
        guest.ask(f"mv {TARGET}/made {TARGET}/dir/made")
        host_sees("made", None, "the old name")
        host_sees("dir/made", "one\ntwo\n", "the new name")
        guest.ask(f"rm -r {TARGET}/dir")
        seen_within_a_second(lambda: not os.path.exists(here("dir")), "by the host: a removed directory")
        # the tree of the agent's own file calls
        guest.server.run("cp", LODGE, f"a:{TARGET}/copied")
        equal(content(here("copied")), content(LODGE), "what was copied into the share")


@test()
@long()
def several(context):
    """Each in its place, read-only where it is to be, as its own user; and the servers of all go."""
    paths = [folder(context, name) for name in ("first", "second", "third")]
    os.chown(paths[2], 1234, 1234)
    for number, path in enumerate(paths):
        put(os.path.join(path, "number"), str(number))
    with serving(context) as server:
        guest = Guest(context, server, "a", f"path={paths[0]}", f"path={paths[1]},mount=/srv/deep/er,ro=on",
                      f"path={paths[2]},mount=/home,user=1234:4321")
        targets = [TARGET, "/srv/deep/er", "/home"]
        parts = [Parts(guest.address(target)) for target in targets]
        equal([guest.ask(f"cat {target}/number") for target in targets], ["0", "1", "2"], "what is in them")
        status, said = guest.tells("touch /srv/deep/er/new")
        check(status and "Read-only" in said, f"a write to the read-only one: {said}")
        # and not only because the guest has mounted it so
        said = guest.tells("mount -i -o remount,rw /srv/deep/er; touch /srv/deep/er/new")[1]
        check("Read-only" in said or "denied" in said, f"a write past the mount's flag: {said}")
        equal(os.listdir(paths[1]), ["number"], "what is in the read-only one")
        guest.ask("echo >/home/new; mkdir /home/newdir")
        for name in ("new", "newdir"):
            found = os.stat(os.path.join(paths[2], name))
            equal((found.st_uid, found.st_gid), (1234, 4321), f"owner of {name}")
        guest.stop()
        for part in parts:
            part.are_gone()


@test()
def squashed(context):
    """Whoever one is in the guest, on the host one is the share's user, without groups."""
    path = folder(context)
    for name, owner, mode in (("secret", 0, 0o600), ("of-group-0", 0, 0o640), ("own", NOBODY, 0o600)):
        put(os.path.join(path, name), "text", owner, mode)
    os.mkdir(os.path.join(path, "closed"), 0o700)
    with shared(context, path=path) as (guest, _):
        for name in ("secret", "of-group-0", "closed/x"):
            check(guest.tells(f"cat {TARGET}/{name}")[0], f"the guest reads {name}")
            check(guest.tells(f"echo >>{TARGET}/{name}")[0], f"the guest writes {name}")
        for user in ("root", "daemon"):
            guest.ask(f"setpriv --reuid {user} cat {TARGET}/own && setpriv --reuid {user} touch {TARGET}/by-{user}")
            found = os.stat(os.path.join(path, f"by-{user}"))
            equal((found.st_uid, found.st_gid), (NOBODY, NOBODY), f"owner of what {user} made")
        guest.tells(f"chown 0:0 {TARGET}/own; chown 1000:1000 {TARGET}/by-root; chown 0:0 {TARGET}/secret; chmod 666 {TARGET}/secret")
        found = [(os.stat(os.path.join(path, name)).st_uid, os.stat(os.path.join(path, name)).st_mode & 0o7777)
                 for name in ("own", "by-root", "secret")]
        equal([owner for owner, _ in found], [NOBODY, NOBODY, 0], "owners after chown")
        equal(found[2][1], 0o600, "mode of root's file")
        check(guest.tells(f"mknod {TARGET}/null c 1 3")[0], "the guest has made a device")
        check(guest.tells(f"mknod {TARGET}/disk b 254 0")[0], "the guest has made a block device")


FLOCK = "flock -n {how} {file} true"


@test()
def locks(context):
    """Of two programs in the guest, and of one there and one here: flock(1), fcntl(2); one that waits gets it."""
    with shared(context) as (guest, path):
        file = put(os.path.join(path, "lock"), "x" * 100, mode=0o666)
        second = guest.another_shell()
        there = f"{TARGET}/lock"

        def free(how="-x", asked=guest):
            return asked.tells(FLOCK.format(how=how, file=there))[0] == 0

        check(free(), "flock(1) of a file that nobody has locked")
        second.ask(f"exec 9<>{there}; flock -x 9")
        check(not free() and not free("-s"), "a lock of another program in the guest does not count")
        with open(file, "r+b") as mine:
            check(not locked_here(mine, fcntl.LOCK_EX), "a lock of the guest's does not count here")
            second.ask("flock -u 9")
            until("the lock here", lambda: locked_here(mine, fcntl.LOCK_EX))
            check(not free() and not free("-s"), "a lock of the host's does not count in the guest")
            second.begin(f"flock -x {there} echo got it")
            fcntl.lockf(mine, fcntl.LOCK_UN)
            equal(second.line(), "got it", "who waited in the guest")
            # ranges, by fcntl(2)
            second.begin(PERL_LOCK.format(start=10, length=10, file=there))
            equal(second.line(), "locked", "a range in the guest")
            check(locked_here(mine, fcntl.LOCK_EX, 10, 0) and locked_here(mine, fcntl.LOCK_EX, 80, 20), "beside a locked range")
            check(not locked_here(mine, fcntl.LOCK_SH, 5, 15), "a locked range")
        second.close()


# struct flock
PERL_LOCK = ("perl -e 'use Fcntl; $| = 1; open(F, \"+<{file}\") || die; $l = pack(\"ssx4qqlx4\", F_WRLCK, 0, {start}, {length}, 0); "
             "fcntl(F, F_SETLK, $l) || die; print \"locked\\n\"; sleep 1000'")


def locked_here(file, how, length=0, start=0):
    try:
        fcntl.lockf(file, how | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        return False
    fcntl.lockf(file, fcntl.LOCK_UN, length, start)
    fcntl.lockf(file, how | fcntl.LOCK_NB, length, start)
    return True


# every byte that a name can have, none that would be a path
BYTES = [bytes([value]) for value in range(1, 256) if value not in b"/."]


@test()
@long()
def names(context):
    """Every byte but / and NUL, and 255 of them, made on either side."""
    path = folder(context)
    here = os.path.join(os.fsencode(path), b"here")
    os.mkdir(here)
    os.chown(here, NOBODY, NOBODY)
    wanted = {b"a" + byte for byte in BYTES} | {b"".join(BYTES[n:n + 200]) + b"z" * 55 for n in (0, 53)} | {b"x" * 255, b"...", b" "}
    with shared(context, path=path) as (guest, _):
        for name in wanted:
            os.close(os.open(os.path.join(here, name), os.O_CREAT | os.O_WRONLY))
        guest.ask(f"cd {TARGET} && mkdir there")
        # each is looked up by its name there, and made anew beside
        guest.ask("perl -e 'opendir(D, \"here\") || die; for (readdir D) { next if /^\\.\\.?$/; -f \"here/$_\" || die \"no $_\"; "
                  "open(F, \">\", \"there/$_\") || die \"$_: $!\"; print F $_; close(F) || die \"$!\"; }'")
        there = os.path.join(os.fsencode(path), b"there")
        found = {name: content(os.path.join(there, name)) for name in os.listdir(there)}
        equal(sorted(found), sorted(wanted), "the names")
        check(all(name == text for name, text in found.items()), "a file has another's content")
        status, said = guest.tells(f"touch {TARGET}/{'x' * 256}")
        check(status and "too long" in said, f"a name of 256 bytes: {said}")
        guest.ask(f"rm -r {TARGET}/here {TARGET}/there", 4 * DEADLINE_S)
        equal(os.listdir(path), [], "what is left")


@test()
@long()
def many_files(context):
    """A directory with more files than the server keeps in mind: listed whole, each one once, and found by name."""
    path = folder(context)
    many = os.path.join(path, "many")
    os.mkdir(many)
    first = os.path.join(many, "n0")
    os.close(os.open(first, os.O_CREAT | os.O_WRONLY))
    handle = os.open(many, os.O_DIRECTORY)
    with shared(context, path=path) as (guest, _):
        names = ["n0"]
        for number in range(1, FILES):  # mknod(2) and link(2) cost the same; a link needs no inode
            name = f"n{number}"
            if number % 60000 == 0:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=handle))
                names.append(name)
            else:
                os.link(names[-1], name, src_dir_fd=handle, dst_dir_fd=handle)
        began = time.monotonic()
        out = guest.ask(f"cd {TARGET}/many && ls -U | sort -u | wc -l && ls -U | wc -l && ls -l n7 n{FILES - 1} | wc -l", 10 * DEADLINE_S)
        print(f"     | two listings of {FILES} files: {time.monotonic() - began:.1f} s", flush=True)
        equal(out.split(), [str(FILES), str(FILES), "2"], "names, lines, files")
    os.close(handle)


@test()
@long()
def full_disk(context):
    """ENOSPC in the guest when the host has no room, the rest unharmed, and room again after a removal."""
    image, mounted = context.disk("image", 24 * MIB), context.path("mounted")
    run_tool("mke2fs", "-q", "-t", "ext4", "-m", "0", image)
    os.mkdir(mounted)
    run_tool("mount", "-o", "loop", image, mounted)
    try:
        os.chown(mounted, NOBODY, NOBODY)
        with shared(context, path=mounted) as (guest, _):
            guest.ask(f"echo kept >{TARGET}/kept && sync {TARGET}/kept")
            status, said = guest.tells(f"dd if=/dev/zero of={TARGET}/large bs=1M count=40 conv=fsync")
            check(status and "No space left" in said, f"a write past the end: {said}")
            status, said = guest.tells(f"echo more >{TARGET}/more && sync {TARGET}/more")
            check(status and "No space left" in said, f"a small write: {said}")
            guest.ask(f"rm {TARGET}/large {TARGET}/more; echo again >{TARGET}/again && sync {TARGET}/again")
            equal(guest.ask(f"cat {TARGET}/kept {TARGET}/again"), "kept\nagain\n", "what is there")
            found = int(guest.ask(f"df --output=size -B1M {TARGET} | tail -n 1"))  # counted in blocks of the transfer's size
            check(abs(found - os.statvfs(mounted).f_blocks * os.statvfs(mounted).f_frsize / MIB) <= 1, f"the size that the guest sees: {found} MiB")
        run_tool("umount", mounted)
        run_tool("e2fsck", "-fn", image)
    finally:
        subprocess.run(["umount", mounted], check=False, capture_output=True)


@test()
def symbolic_links(context):
    """Are the guest's to follow: to its own files, never to the host's."""
    path = folder(context)
    outside = put(context.path("outside"), "the host's")
    for name, target in (("absolute", outside), ("shadow", "/etc/shadow"), ("hostname", "/etc/hostname"), ("up", "../outside"),
                         ("far-up", "../" * 20 + outside), ("dir", os.path.dirname(outside)), ("inside", "file")):
        os.symlink(target, os.path.join(path, name))
    put(os.path.join(path, "file"), "the share's")
    with shared(context, path=path) as (guest, _):
        equal(guest.ask(f"cat {TARGET}/inside"), "the share's", "a link within the share")
        equal(guest.ask(f"cat {TARGET}/hostname"), "guest\n", "a link to /etc/hostname")
        equal(guest.ask(f"cat {TARGET}/shadow"), guest.ask("cat /etc/shadow"), "a link to /etc/shadow")
        for name in ("absolute", "up", "far-up", "dir/outside"):
            status, said = guest.tells(f"cat {TARGET}/{name}")
            check(status and "the host's" not in said, f"{name} leads to the host: {said}")
        # and one that the guest makes is the host's to beware of: it stays a link
        guest.ask(f"ln -s /etc/passwd {TARGET}/made; ln -s /etc {TARGET}/etc")
        equal(os.readlink(os.path.join(path, "made")), "/etc/passwd", "a link of the guest's")
        check(guest.tells(f"ls {TARGET}/etc/passwd")[0] == 0, "the guest does not follow its own link")


@test()
@long()
def mounted_below(context):
    """What the host has mounted below a shared directory is not shared, mounted before or after."""
    path = folder(context)
    for name in ("before", "after"):
        os.mkdir(os.path.join(path, name))
        put(os.path.join(path, name, "under"), "under the mount")

    def mount(name):
        target = os.path.join(path, name)
        run_tool("mount", "-t", "tmpfs", "tmpfs", target)
        put(os.path.join(target, "over"), "in the mount")

    try:
        mount("before")
        with shared(context, path=path) as (guest, _):
            mount("after")
            for name in ("before", "after"):
                said = guest.tells(f"ls {TARGET}/{name}; cat {TARGET}/{name}/over")[1]
                check("in the mount" not in said, f"the guest sees what is mounted at {name}: {said}")
            guest.ask(f"ls -l {TARGET}; echo >{TARGET}/still-works")
    finally:
        for name in ("before", "after"):
            subprocess.run(["umount", os.path.join(path, name)], check=False, capture_output=True)


@test()
@long()
def debian(context):
    """With systemd: the share stays where it is until the end, and the shutdown is clean and does not wait for it."""
    path, image = folder(context), context.path("debian.img")
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    with serving(context) as server:
        server.run("start", "deb", "--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                   "--root", f"path={image},format=raw", "--memory", "512M", "--share", f"path={path}", "--start-timeout", int(DEADLINE_S))
        server.shows("deb", "login: ")
        server.run("exec", "deb", "--", "sh", "-c", f"echo written >{TARGET}/file")
        equal(content(os.path.join(path, "file")), b"written\n", "what the host sees")
        server.run("exec", "-d", "deb", "--", "sh", "-c", f"exec 3>>{TARGET}/held; while :; do echo line >&3; sleep 1; done")
        until("a file that is held open", lambda: os.path.exists(os.path.join(path, "held")))
        server.run("stop", "deb", "--timeout", 200)
    equal(subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode, 0, "file system check")


USER = 64999  # nobody's


@test()
@long()
def another_user(context):
    """Who is not root shares what they may open, with their own rights."""
    os.chmod(os.path.dirname(context.folder), 0o755)
    path, closed = folder(context, owner=USER), folder(context, "closed", owner=0)
    os.chmod(closed, 0o700)
    os.mkdir(os.path.join(closed, "below"))
    put(os.path.join(path, "own"), "x", owner=USER, mode=0o600)
    with serving(context, "--socket-mode", "666", "--allow-uid", str(USER)) as server:
        def start(*share):
            return subprocess.run(["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--", LODGE, "start", "--socket",
                                   server.socket, "a", *shares.root_words(context), *shares.QUICK, "--share", ",".join(share)],
                                  capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)

        for share, text in (((f"path={closed}/below",), "Permission denied"), ((f"path={path}", "user=1234"), "only root"),
                            ((f"path={path}", "user=65534"), "only root")):
            done = start(*share)
            check(done.returncode == 1 and text in done.stderr, f"{share}: it says {done.stderr!r}")
        done = start(f"path={path}")
        equal(done.returncode, 0, f"exit status of lodge start ({done.stderr})")
        server.run("exec", "a", "--", "sh", "-c", f"cat {TARGET}/own && touch {TARGET}/new")
        found = os.stat(os.path.join(path, "new"))
        equal((found.st_uid, found.st_gid), (USER, USER), "owner of a new file")
        server.run("stop", "a", "--timeout", 200)


def refusals(context, path):
    file = put(context.path("file"), "")
    return [(f"path={path}/absent", "does not exist"), (f"path={file}", "not a directory"), (f"path={path},user=0", "root"),
            (f"path={path},user=1:0", "root"), (f"path={path},mount=relative", "mount"), ("path=", "path"), ("mount=/srv", "path"),
            ("path=/proc", "/proc")]


@test()
def refused(context):
    """Each with its reason, and nothing left: nobody is started for a VM that does not come to be."""
    path, place = folder(context), Place(context)
    with serving(context) as server:
        words = [*shares.root_words(context), *shares.QUICK, *place.words]
        twice = f"path={path}", "--share", f"path={path},mount={TARGET}"
        for keys, text in [*(((keys,), text) for keys, text in refusals(context, path)), (twice, "mount point")]:
            done = subprocess.run([LODGE, "start", "--socket", server.socket, "a", *words, "--share", *keys], capture_output=True,
                                  text=True, timeout=DEADLINE_S, check=False)
            # 2: what the client sees by itself
            check(done.returncode in (1, 2) and text in done.stderr, f"{keys}: {done.returncode}, it says {done.stderr!r}")
        said = server.fails("start", "a", *words[:-2], "--net", "none", "--share", f"path={path}")
        check("pool" in said, f"without a network: it says {said!r}")
        equal(server.names(), [], "VMs")
        equal([name for name in os.listdir(server.vms) if name != "lock"], [], "the runtime directory")
        until("no tap", lambda: not place.tap())
