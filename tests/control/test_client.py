"""The commands of lodge that ask a server, against `lodge serve`: what they print, and their exit status."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time

from rig import B, ID, DEADLINE_S, TOP, Skip, alive, lodge, need_kvm, payload_file, until
from terminal import Terminal

KINDS = ["serve"]

FAILED, USAGE, NO_VM, NO_SERVER, NOT_ALLOWED = 1, 2, 3, 4, 5


def popen(socket, *args, **more):
    """A command that does not outlive the deadlines of everything that may wait for its output."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([B / "lodge", *map(str, args)], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True,
                               env={**os.environ, "LODGE_SOCKET": str(socket)}, **more)
    guard = threading.Timer(4 * DEADLINE_S, process.kill)
    guard.daemon = True
    guard.start()
    return process


def cli(socket, *args, status=0, **more):
    """What a command printed, on standard output or, where it fails, on standard error."""
    process = popen(socket, *args, **more)
    out, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status, f"{args}: exit status {process.returncode}: {out}{said}"
    if status and (args[0] != "wait" or status == USAGE or status > 100):
        assert not out and said.count("\n") == 1 and said.startswith("lodge "), (out, said)
        return said
    return out


def start(server, name, payload="button", *more, **kwargs):
    cli(server.socket, "start", name, "--kernel", payload_file(payload), "--root",
        f"path={server.rootfs},format=raw,ro=on", "--initramfs", "none", "--memory", "64M", *more, **kwargs)
    with server.client() as c:
        info = c.GetVmInfo(name=name).vm_info
    server.vms.add(info.pid)
    return info


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_start_list_info_stop(server):
    need_kvm()
    a = start(server, "a")
    b = start(server, "b", "spin", "--cpus", "1", "--transport", "mmio")
    table = cli(server.socket, "list")
    assert rows(table) == [["NAME", "STATE", "PID", "CPUS", "MEMORY", "DISKS", "ADDRESS"],
                           ["a", "running", str(a.pid), "1", "64M", "1", "-"], ["b", "running", str(b.pid), "1", "64M", "1", "-"]]
    assert len({len(line) for line in table.splitlines()}) == 1, "columns are not aligned"
    assert cli(server.socket, "list", "--names") == "a\nb\n"
    vms = json.loads(cli(server.socket, "list", "--json"))["vms"]
    assert [(vm["name"], vm["pid"], vm["state"]) for vm in vms] == [("a", a.pid, "running"), ("b", b.pid, "running")]
    text = cli(server.socket, "info", "a")
    assert f"pid:     {a.pid}\n" in text and f"vda:     {server.rootfs}\n" in text
    info = json.loads(cli(server.socket, "info", "a", "--json"))
    assert info["memory_bytes"] == 64 << 20 and info["disk_paths"] == [server.rootfs]
    assert "vms:     2\n" in cli(server.socket, "info")
    assert json.loads(cli(server.socket, "info", "--json"))["pid"] == server.process.pid
    began = time.monotonic()
    assert cli(server.socket, "stop", "b", "a", "--timeout", "1") == ""
    assert time.monotonic() - began < 8 and not alive(a.pid) and not alive(b.pid)
    assert rows(cli(server.socket, "list")) == [["NAME", "STATE", "PID", "CPUS", "MEMORY", "DISKS", "ADDRESS"]]


def test_started_twice_is_one(server):
    need_kvm()
    a = start(server, "a")
    assert start(server, "a").pid == a.pid


def test_relative_paths_and_all_options_reach_the_server(server):
    need_kvm()
    server.disk("data.img")
    cli(server.socket, "start", "a b", "--kernel", os.path.relpath(payload_file("button"), server.dir), "--root",
        "path=root.img,format=raw", "--disk", "path=data.img,format=raw,ro=on,serial=S1", "--initramfs", "none",
        "--memory=64M", "--cpus=2", cwd=server.dir)
    info = json.loads(cli(server.socket, "info", "a b", "--json"))
    server.vms.add(info["pid"])
    assert info["disk_paths"] == [str(server.dir / "root.img"), str(server.dir / "data.img")] and info["cpus"] == 2
    assert cli(server.socket, "stop", "--all", "--force") == "" and not alive(info["pid"])


def test_stop_json(server):
    need_kvm()
    start(server, "a", "spin")
    process = popen(server.socket, "stop", "--json", "--force", "a", "nobody")
    out, said = process.communicate(timeout=DEADLINE_S)
    replies = {r["name"]: r["success"] for r in map(json.loads, out.splitlines())}
    assert replies == {"a": True, "nobody": False} and process.returncode == NO_VM and "nobody" in said


def test_exit_no_vm(server):
    for args in (["info", "x"], ["stop", "x"], ["image", "destroy", "--id", ID, "x"],
                 ["image", "info", "--id", ID, "--format", "raw", "x"]):
        assert "x" in cli(server.socket, *args, status=NO_VM)
    cli(server.socket, "wait", "x", status=100 + NO_VM)


def test_exit_no_server(server):
    absent = server.dir / "absent"
    for args in (["list"], ["info", "a"], ["stop", "a"], ["events"], ["console", "a"], ["top"], ["metrics"],
                 ["pause", "a"], ["resume", "a"], ["resize", "a", "vda", "1G"], ["image", "destroy", "--id", ID, "x"]):
        said = cli(absent, *args, status=NO_SERVER)
        assert f"lodge serve is not running at {absent}" in said, said
    cli(absent, "wait", "a", status=100 + NO_SERVER)
    cli("/ignored", "list", "--socket", server.socket)  # the option prevails


def test_exit_not_allowed(server):
    if os.getuid():
        raise Skip("needs root, to be someone else")
    os.chmod(server.dir, 0o755)
    assert "you may not connect" in cli(server.socket, "list", status=NOT_ALLOWED, user=65534, group=65534)


def test_exit_not_allowed_to_change(server):
    if os.getuid():
        raise Skip("needs root, to be someone else")
    server.end()
    server.args = ["--socket-mode", "0666", "--read-only-uid", "65534"]
    server.begin()
    os.chmod(server.dir, 0o755)
    cli(server.socket, "list", user=65534, group=65534)
    cli(server.socket, "stop", "--all", status=NOT_ALLOWED, user=65534, group=65534)
    assert "you may only look" in cli(server.socket, "info", user=65534, group=65534)


def test_exit_usage(server):
    root = f"path={server.rootfs},format=raw"
    for words, text in (
            ("start", "the VM's name is missing"), ("start a", "no kernel"), ("start a b", "unexpected argument"),
            (f"start a --kernel k --root {root} --console none", "lodge console"),
            (f"start a --kernel k --root {root} --prealloc", "--prealloc is not for a server's VMs"),
            (f"start a --kernel k --root {root},queues=2", "the key queues"),
            (f"start a --kernel k --root {root},direct=on", "the key direct"),
            (f"start a --kernel k --root {root} --disk path=/x,format=raw,cache=writethrough", "the key cache"),
            ("start a --kernel k --initramfs none", "no root disk"), ("stop", "or --all"),
            ("stop --all a", "the one or the other"), ("stop a --timeout 0", "--force"), ("list x", "unexpected"),
            ("info --jsn", "did you mean --json?"), ("wait", "name is missing"), ("resize a vda", "NAME DISK SIZE"),
            ("resize a sda 1G", "is no disk"), ("resize a vda big", "is no size"), ("top --interval 0", "'0' is not"),
            ("image", "say what to do"), ("image creat", "did you mean create?"), ("image create d 1M", "--format"),
            ("image create --format raw d 1M", "--id"), ("image create --format raw --id 1 d", "size is missing"),
            ("list --socket", "lacks its value"), ("list --timeout soon", "number of seconds")):
        said = cli("/absent", *words.split(), status=USAGE)
        assert text in said, (words, said)


def test_start_that_fails_says_why(server):
    assert "/absent" in cli(server.socket, "start", "a", "--kernel", "/absent", "--root",
                            f"path={server.rootfs},format=raw", status=FAILED)


def test_help_of_each_command(server):
    listed = re.findall(r"^  ([a-z]+) ", cli("", "help"), re.M)
    assert {"start", "stop", "list", "info", "wait", "events", "console", "pause", "resume", "resize", "top", "metrics",
            "image"} <= set(listed)
    for name in listed:
        assert cli("", "help", name).startswith("usage: lodge")
    for name in ("create", "destroy", "info", "resize", "check"):
        assert cli("", "help", "image", name) == cli("", "image", name, "--help")


def test_wait_ends_as_the_guest_did(server):
    need_kvm()
    start(server, "a")
    waits = popen(server.socket, "wait", "a"), popen(server.socket, "wait", "a", "--json")
    assert "not within 1 s" in popen(server.socket, "wait", "a", "--timeout", "1").communicate(timeout=DEADLINE_S)[1]
    cli(server.socket, "stop", "a")
    text, reply = (w.communicate(timeout=DEADLINE_S)[0] for w in waits)
    assert [w.returncode for w in waits] == [0, 0] and "powered off" in text
    reply = json.loads(reply)
    assert (reply["name"], reply["end"], reply["exit_status"]) == ("a", "stopped", 0)
    assert reply["reason"] == text.strip()


def test_events(server):
    need_kvm()
    start(server, "before")
    watch, texts = popen(server.socket, "events", "--json"), []
    try:
        first = json.loads(watch.stdout.readline())
        assert (first["name"], first["state"], first["initial"]) == ("before", "running", True)
        start(server, "a")
        texts.append(popen(server.socket, "events", "a"))
        lines = [texts[0].stdout.readline()]
        cli(server.socket, "stop", "a")
        seen = [json.loads(watch.stdout.readline()) for _ in range(4)]
        assert [e["state"] for e in seen] == ["starting", "running", "stopping", "ended"], seen
        assert seen[3]["end"] == "stopped" and seen[3]["exit_status"] == 0 and "powered off" in seen[3]["reason"]
        lines += [texts[0].stdout.readline() for _ in range(2)]
        assert [line.split()[2] for line in lines] == ["running", "stopping", "ended"], lines
        assert all(line.split()[3] == "a" for line in lines)
    finally:
        for process in (watch, *texts):
            process.send_signal(signal.SIGINT)
            process.communicate()
    assert cli(server.socket, "events", "nobody", "--timeout", "1") == ""


def test_console(server):
    """What is typed reaches the guest, and its last output comes first; Ctrl-A x leaves it running."""
    need_kvm()
    info = start(server, "a", "echo")
    with Terminal(server.socket, "console", "a") as t:
        t.until("raw mode", t.is_raw)
        t.type(b"hello")
        t.shows(b"hello")
        t.type(b"\x01b")
        t.shows(b"<break>")
        t.type(b"\x01x")
        t.ends(0)
    assert alive(info.pid)
    assert "hello" in cli(server.socket, "console", "a", "--log")
    follow = popen(server.socket, "console", "a", "--follow")
    with Terminal(server.socket, "console", "a") as t:
        t.shows(b"<break>")
        t.type(b"\noff\n")
        t.shows(b"VM a: ")
        t.shows(b"powered off")
        t.ends(0)
    out, said = follow.communicate(timeout=DEADLINE_S)
    assert follow.returncode == 0 and not said and "hello" in out and "off" in out


def test_console_power_button(server):
    need_kvm()
    start(server, "a")
    with Terminal(server.socket, "console", "a") as t:
        t.shows(b"waiting")
        t.until("raw mode", t.is_raw)
        t.type(b"\x01p")
        t.shows(b"pressed")
        t.ends(0)
    assert cli(server.socket, "list", "--names") == ""


def test_pause_and_resume(server):
    need_kvm()
    start(server, "a")
    watch = popen(server.socket, "events", "a", "--json")
    seen = [json.loads(watch.stdout.readline())["state"]]
    assert cli(server.socket, "pause", "a") == "" and rows(cli(server.socket, "list"))[1][1] == "paused"
    assert cli(server.socket, "resume", "a") == "" and rows(cli(server.socket, "list"))[1][1] == "running"
    seen += [json.loads(watch.stdout.readline())["state"] for _ in range(2)]
    watch.terminate()
    watch.communicate()
    assert seen == ["running", "paused", "running"]
    for command in ("pause", "resume"):
        cli(server.socket, command, "nobody", status=NO_VM)


def test_metrics_and_top(server):
    need_kvm()
    info = start(server, "busy", "spin")
    start(server, "b")
    vms = {vm["name"]: vm for vm in json.loads(cli(server.socket, "metrics", "--json"))["vms"]}
    assert set(vms) == {"busy", "b"} and vms["busy"]["pid"] == info.pid and vms["b"]["memory_bytes"] == 64 << 20
    assert [vm["name"] for vm in json.loads(cli(server.socket, "metrics", "b", "--json"))["vms"]] == ["b"]
    assert vms["b"]["disks"][0]["path"] == server.rootfs
    top = {vm["name"]: vm for vm in json.loads(cli(server.socket, "top", "--once", "--json", "--interval", "1"))["vms"]}
    assert 50 < top["busy"]["cpu_permille"] <= 2000 and top["b"]["exits_per_second"] > 0
    table = rows(cli(server.socket, "top", "--once", "--interval", "1"))
    assert len(table) == 3 and {row[0] for row in table[1:]} == {"busy", "b"}
    cli(server.socket, "metrics", "nobody", "--json", status=NO_VM)


def test_images(server):
    place = ["--id", ID, "--format", "qcow2"]
    path = cli(server.socket, "image", "create", *place, "d", "8M").strip()
    assert path == str(server.storage / "home/root" / ID / "crosvm/d") and os.path.exists(path)
    assert "left as it was" in cli(server.socket, "image", "create", *place, "d", "8M", status=FAILED)
    info = json.loads(cli(server.socket, "image", "info", *place, "d", "--json"))
    assert (info["path"], info["size_bytes"], info["in_use"]) == (path, 8 << 20, False)
    assert f"path:       {path}\n" in cli(server.socket, "image", "info", *place, "d")
    assert cli(server.socket, "image", "resize", *place, "d", "16M") == ""
    assert json.loads(cli(server.socket, "image", "info", *place, "d", "--json"))["size_bytes"] == 16 << 20
    cli(server.socket, "image", "resize", *place, "d", "8M", status=FAILED)
    reply = json.loads(cli(server.socket, "image", "resize", *place, "--shrink", "d", "8M", "--json"))
    assert reply == {"old_size_bytes": 16 << 20}
    assert json.loads(cli(server.socket, "image", "check", *place, "d", "--json"))["corruptions"] == 0
    cli(server.socket, "image", "create", *place, "--location", "downloads", "d", "1M")
    assert (server.storage / "home/user" / ID / "Downloads/d").exists()
    assert cli(server.socket, "image", "destroy", "--id", ID, "d") == "" and not os.path.exists(path)


def test_server_goes_while_one_waits(server):
    need_kvm()
    start(server, "a")
    waits, watch = popen(server.socket, "wait", "a"), popen(server.socket, "events")
    assert "running" in watch.stdout.readline()
    with server.client() as c:
        until("wait is there", lambda: waits.poll() is None and c.GetServerInfo().vms == 1)
    server.end(signal.SIGKILL)
    said = watch.communicate(timeout=DEADLINE_S)[1]
    assert watch.returncode == NO_SERVER and "closed the connection" in said
    assert waits.wait(DEADLINE_S) == 100 + NO_SERVER
    waits.communicate()
    server.begin()
    cli(server.socket, "stop", "--all")


def test_output_that_nobody_reads(server):
    full = os.open("/dev/full", os.O_WRONLY)
    process = subprocess.run([B / "lodge", "list", "--socket", server.socket], stdout=full, stderr=subprocess.PIPE)
    os.close(full)
    assert process.returncode == FAILED and b"standard output cannot be written" in process.stderr


def complete(server, *words):
    """What bash would offer for the last word."""
    script = """. control/completion/lodge.bash
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _lodge; printf '%s\\n' "${COMPREPLY[@]}" """
    out = subprocess.run(["bash", "-c", script, "bash", B / "lodge", *words], cwd=TOP, capture_output=True, text=True,
                         env={**os.environ, "LODGE_SOCKET": server.socket})
    assert not out.stderr, out.stderr
    return out.stdout.split("\n")[:-1]


def test_completion_of_names(server):
    need_kvm()
    start(server, "web")
    start(server, "my vm")
    assert complete(server, "info", "") == ["my\\ vm", "web"]
    for words in (["stop", "we"], ["stop", "x", "we"], ["console", "--log", "we"], ["wait", "--timeout", "5", "we"],
                  ["resize", "we"]):
        assert complete(server, *words) == ["web"], words
    assert complete(server, "info", "--socket", "/absent", "w") == [""]
    assert "vdb" in complete(server, "resize", "web", "v")
    assert str(payload_file("button")) in complete(server, "start", "a", "--kernel", str(B / "payload/but"))


def test_every_option_is_completed_and_explained(server):
    """Of each command, and in lodge-client(1)."""
    page = (TOP / "man/lodge-client.1").read_text()
    for words in (["start"], ["stop"], ["list"], ["info"], ["wait"], ["events"], ["console"], ["pause"], ["resume"],
                  ["resize"], ["top"], ["metrics"], ["image", "create"], ["image", "destroy"], ["image", "info"],
                  ["image", "resize"], ["image", "check"]):
        options = re.findall(r"^  (--[a-z]+) ", cli("", "help", *words), re.M)
        offered = complete(server, *words, "--")
        assert len(options) >= 3 and set(options) <= set(offered), (words, options, offered)
        for option in options:
            assert f"Fl Fl {option[2:]}" in page, option
        assert words[0] in complete(server, words[0]) and words[-1] in complete(server, "help", *words)


def test_python_client_of_one_file(server):
    """It runs alone, from anywhere: it needs nothing of this tree."""
    text = (lodge.__file__, server.socket)
    code = f"import sys; sys.path.insert(0, {os.path.dirname(text[0])!r}); from lodge import Lodge\n" \
           f"with Lodge() as l: print(l.GetServerInfo().pid)"
    out = subprocess.run([sys.executable, "-c", code], cwd="/", env={**os.environ, "LODGE_SOCKET": server.socket},
                         capture_output=True, text=True)
    assert out.stdout == f"{server.process.pid}\n", out.stderr
    assert stat.S_ISSOCK(os.stat(server.socket).st_mode)
