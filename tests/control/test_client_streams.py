"""The commands of lodge that show streams and rates, with canned answers: what they make of each."""

import json
import os
import socket
import subprocess
import threading
import time

from fake import Fake
from rig import B, DEADLINE_S, lodge, until
from terminal import Terminal
from test_client import FAILED, NO_SERVER, NO_VM, cli, popen, rows

KINDS = ["serve"]


def console(*chunks, then=lambda call: call.end()):
    """A handler of ReadConsole or AttachConsole that sends these."""
    def handler(call):
        for chunk in chunks:
            call.send(**chunk) if isinstance(chunk, dict) else call.send(data=chunk)
        then(call)
    return handler


def test_console_log_is_as_the_guest_sent_it(server):
    asked = []
    every = bytes(range(256))
    with Fake(ReadConsole=lambda call: (asked.append(call.request), console(every, b"", every * 4000)(call))) as path:
        out = subprocess.run([B / "lodge", "console", "a", "--log", "--socket", path], capture_output=True)
        assert (out.returncode, out.stderr, out.stdout) == (0, b"", every * 4001)
        subprocess.run([B / "lodge", "console", "b", "--follow", "--socket", path], stdout=subprocess.DEVNULL, check=True)
    assert [(r.name, r.no_follow) for r in asked] == [("a", True), ("b", False)]


def test_console_says_what_was_lost(server):
    with Fake(ReadConsole=console(b"x", dict(data=b"y", dropped_bytes=77))) as path:
        out = subprocess.run([B / "lodge", "console", "a", "--log", "--socket", path], capture_output=True)
        assert out.stdout == b"xy" and b"77 bytes were lost" in out.stderr


def test_console_of_no_vm(server):
    absent = lambda call: call.fail(5, "there is no VM 'a'")
    with Fake(ReadConsole=absent, AttachConsole=absent, WaitVm=absent) as path:
        cli(path, "console", "a", "--log", status=NO_VM)
        assert "there is no VM 'a'" in cli(path, "console", "a", status=NO_VM)
        with Terminal(path, "console", "a") as t:
            t.ends(NO_VM)


def attached(typed, replies=()):
    """A handler of AttachConsole that notes what is typed, and answers it."""
    def handler(call):
        call.send(data=b"login: ")
        for message in call.typed():
            typed.append(message)
            for key, answer in replies:
                if message.data == key:
                    if answer is None:
                        call.end()
                        return
                    call.send(data=answer)
    return handler


def waits(call):
    time.sleep(0.1)
    call.reply(end=1, reason="guest powered off")


def test_console_on_a_terminal(server):
    typed, stopped = [], []
    answers = ((b"root\r", b"# "), (b"\x04", None))
    with Fake(AttachConsole=attached(typed, answers), WaitVm=waits,
              StopVm=lambda call: (stopped.append(call.request.name), call.reply(success=True))) as path:
        with Terminal(path, "console", "a") as t:
            t.shows(b"login: ")
            t.until("raw mode", t.is_raw)
            t.type(b"root\r")
            t.shows(b"# ")
            t.type(b"\x01?")
            t.shows(b"Ctrl-A x leaves")
            t.type(b"x\x01by\x01a\x01z")
            t.type(b"\x01p")
            until("the VM is asked to stop", lambda: stopped == ["a"])
            t.type(b"\x04")
            t.shows(b"VM a: guest powered off")
            t.ends(0)
    assert typed[0].open.name == "a" and not typed[0].data
    assert b"".join(m.data for m in typed[1:]) == b"root\rxy\x01\x01z\x04"
    breaks = [i for i, m in enumerate(typed) if m.line_break]
    assert len(breaks) == 1 and b"".join(m.data for m in typed[:breaks[0]]).endswith(b"x")


def test_console_is_left_and_the_vm_goes_on(server):
    typed = []
    with Fake(AttachConsole=attached(typed)) as path:
        with Terminal(path, "console", "a") as t:
            t.shows(b"login: ")
            t.type(b"abc\x01xdef")
            t.shows(b"VM a goes on")
            t.ends(0)
        until("what was typed before has come", lambda: b"".join(m.data for m in typed) == b"abc")


def test_console_gives_the_terminal_back(server):
    """By a signal, when the server goes, and after the time that was given."""
    def gone(call):
        call.send(data=b"login: ")
        call.conn.receive()
        call.conn.sock.close()
    with Fake(AttachConsole=attached([])) as path:
        with Terminal(path, "console", "a") as t:
            t.shows(b"login: ")
            t.until("raw mode", t.is_raw)
            t.process.terminate()
            t.ends(0)
        with Terminal(path, "console", "a", "--timeout", "1") as t:
            t.ends(0)
    with Fake(AttachConsole=gone) as path:
        with Terminal(path, "console", "a") as t:
            t.shows(b"closed the connection")
            t.ends(NO_SERVER)


def test_console_typed_on_as_the_server_goes(server):
    """What is typed when the connection has just gone: the same line as for who only reads."""
    def half(call):  # no more is taken, but the client is not told that nothing more comes
        call.send(data=b"login: ")
        call.conn.receive()
        call.conn.sock.shutdown(socket.SHUT_RD)
        release.wait(DEADLINE_S)
    release = threading.Event()
    with Fake(AttachConsole=half) as path, Terminal(path, "console", "a") as t:
        t.shows(b"login: ")
        t.until("raw mode", t.is_raw)
        t.type(b"x")
        t.shows(b"closed the connection")
        t.ends(NO_SERVER)
        release.set()


WINDOW = 64 << 10


def test_console_from_a_pipe(server):
    """All of it is typed, Ctrl-A too, although much comes that is not read yet, and no faster than the guest takes it."""
    text = bytes(range(256)) * 2000
    typed = bytearray()
    ahead = []

    def handler(call):
        call.send(data=b"o" * (1 << 20))
        call.send(data=b"o" * (1 << 20))
        taken = 0
        for message in call.typed():
            typed.extend(message.data)
            ahead.append(len(typed) - taken)
            if ahead[-1] >= WINDOW // 2:
                taken = len(typed)
                call.send(input_taken_bytes=taken)
        call.end()
    with Fake(AttachConsole=handler) as path:
        out = subprocess.run([B / "lodge", "console", "a", "--socket", path], input=text, capture_output=True, timeout=DEADLINE_S)
    assert out.returncode == 0 and typed == text and len(out.stdout) == 2 << 20, out.stderr
    assert max(ahead) <= WINDOW


def test_console_of_a_guest_that_takes_nothing(server):
    typed = []
    with Fake(AttachConsole=attached(typed)) as path:
        with Terminal(path, "console", "a") as t:
            t.shows(b"login: ")
            t.until("raw mode", t.is_raw)
            for _ in range(80):
                t.type(b"x" * 1024)
                time.sleep(0.001)
            t.shows(b"the guest takes no input")
            t.type(b"\x01x")
            t.shows(b"VM a goes on")
            t.ends(0)
        until("as much as may be on the way has come", lambda: len(b"".join(m.data for m in typed)) >= WINDOW - 8192)
    assert len(b"".join(m.data for m in typed)) <= WINDOW


def test_pause_resume_resize(server):
    asked = []

    def handler(call):
        asked.append((call.method, call.request))
        call.reply(**({"old_size_bytes": 5} if call.method == "ResizeVmDisk" else {}))
    with Fake(PauseVm=handler, ResumeVm=handler, ResizeVmDisk=handler) as path:
        assert cli(path, "pause", "a") == cli(path, "resume", "a") == cli(path, "resize", "a", "vdc", "2G") == ""
        assert json.loads(cli(path, "resize", "a", "1", "1M", "--json")) == {"old_size_bytes": 5}
    assert [m for m, _ in asked] == ["PauseVm", "ResumeVm", "ResizeVmDisk", "ResizeVmDisk"]
    assert all(r.name == "a" for _, r in asked)
    assert [(r.disk, r.size_bytes) for _, r in asked[2:]] == [(2, 2 << 30), (1, 1 << 20)]
    with Fake() as path:
        assert "does not have PauseVm" in cli(path, "pause", "a", status=FAILED)


class Busy:
    """GetMetrics of two VMs: one that works at fixed rates, and one that comes later."""

    def __init__(self):
        self.began = time.monotonic()
        self.calls = 0

    def __call__(self, call):
        self.calls += 1
        t = time.monotonic() - self.began
        op = lambda n, size: dict(operations=int(n * t), bytes=int(n * size * t))
        vms = [dict(name="busy", pid=7, uptime_ns=int(1e9 * (t + 61)), resident_bytes=80 << 20, memory_bytes=64 << 20,
                    cpu_time_ns=int(1.5e9 * t), vcpus=[dict(exits=[dict(reason="io", count=int(3000 * t))])] * 2,
                    disks=[dict(device="vda", read=op(1000, 4096), write=op(50, 65536))])]
        if self.calls > 1:
            vms.append(dict(name="new\x1b[2J", pid=8))
        call.reply(vms=vms)


def near(value, wanted):
    assert abs(value - wanted) <= 0.25 * wanted, (value, wanted)


def test_top_once(server):
    with Fake(GetMetrics=Busy()) as path:
        new, busy = sorted(json.loads(cli(path, "top", "--once", "--interval", "1", "--json"))["vms"], key=lambda v: -v["pid"])
        assert new["cpu_permille"] is None and busy["resident_bytes"] == 80 << 20
        near(busy["cpu_permille"], 1500)
        near(busy["exits_per_second"], 6000)
        near(busy["reads_per_second"], 1000)
        near(busy["read_bytes_per_second"], 4096000)
        near(busy["write_bytes_per_second"], 50 * 65536)
    with Fake(GetMetrics=Busy()) as path:
        head, busy, new = rows(cli(path, "top", "--once", "--interval", "1"))
        assert head[:6] == ["NAME", "PID", "UP", "CPU%", "MEM", "OF"]
        assert busy[0:3] == ["busy", "7", "1m02s"] and busy[4:6] == ["80M", "64M"] and busy[6].endswith("k")
        near(float(busy[3]), 150)
        assert new[0] == "new?[2J" and new[3] == "-"


def test_top_without_a_terminal_goes_on(server):
    with Fake(GetMetrics=Busy()) as path:
        process = popen(path, "top", "--json", "--interval", "1")
        seen = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        process.communicate()
    assert [len(s["vms"]) for s in seen] == [1, 2, 2]
    near(seen[2]["vms"][0]["exits_per_second"], 6000)


def test_top_on_a_terminal(server):
    for quits in (b"q", b"\x03", None):
        with Fake(GetMetrics=Busy()) as path, Terminal(path, "top", "--interval", "1") as t:
            t.shows(b"new?[2J")
            t.until("raw mode", t.is_raw)
            assert b"\x1b[H\x1b[J" in t.shown
            t.type(quits) if quits else t.process.terminate()
            t.ends(0)


def test_metrics(server):
    asked = []
    text = "# TYPE lodge_vm_up gauge\nlodge_vm_up{vm=\"a\"} 1\n"
    with Fake(GetMetricsText=lambda call: (asked.append(call.request.name), call.reply(text=text)),
              GetMetrics=Busy()) as path:
        assert cli(path, "metrics") == cli(path, "metrics", "a") == text
        vm = json.loads(cli(path, "metrics", "--json"))["vms"][0]
    assert asked == ["", "a"] and vm["vcpus"][1]["exits"][0]["reason"] == "io" and vm["disks"][0]["flush"] is None


def test_answers_that_are_none(server):
    """What is no answer ends the command with a line, at once."""
    def huge(call):
        call.conn.sock.sendall((5 << 20).to_bytes(4, "big") + call.stream.to_bytes(4, "big") + b"\x02\x00" + bytes(5 << 20))

    def other_stream_first(call):
        call.conn.frame(call.stream + 2, 2, 0, b"")
        call.conn.frame(call.stream, 9, 0, b"unknown kind of frame")
        call.reply()
    for handler, status, text in (
            (lambda call: call.raw_reply(b"\xff\xff"), FAILED, "the answer"),
            (lambda call: call.conn.frame(call.stream, 2, 0, b"\x00"), FAILED, "the answer"),
            (lambda call: call.end(), FAILED, "ended without an answer"),
            (lambda call: call.send(), FAILED, "is a stream"),
            (huge, FAILED, "more than 4194304 bytes"),
            (lambda call: call.conn.sock.close(), NO_SERVER, "list: "),
            (lambda call: call.fail(13, "bad\x1b[2J\nlines"), FAILED, "bad?[2J?lines")):
        with Fake(ListVms=handler) as path:
            assert text in cli(path, "list", status=status)
    with Fake(ListVms=other_stream_first) as path:
        assert rows(cli(path, "list"))[0][0] == "NAME"


def test_answer_in_single_bytes(server):
    def handler(call):
        reply = lodge.METHODS["ListVms"][2](vms=[dict(name="a", state=2)]).SerializeToString()
        body = lodge.message("ttrpc.Response")(payload=reply).SerializeToString()
        for byte in len(body).to_bytes(4, "big") + call.stream.to_bytes(4, "big") + b"\x02\x00" + body:
            call.conn.sock.sendall(bytes([byte]))
    with Fake(ListVms=handler) as path:
        assert cli(path, "list", "--names") == "a\n"


def test_no_answer_within_the_time(server):
    release = threading.Event()
    with Fake(ListVms=lambda call: release.wait(DEADLINE_S)) as path:
        began = time.monotonic()
        assert "not within 1 s" in cli(path, "list", "--timeout", "1", status=FAILED)
        assert 1 <= time.monotonic() - began < 5
    release.set()


def test_python_client_leaves_a_stream(server):
    def many(call):
        for i in range(100):
            call.send(name=str(i))
        call.end()
    with Fake(WatchEvents=many, ListVms=lambda call: call.reply()) as path, lodge.Lodge(path) as client:
        for event in client.stream("WatchEvents"):
            if event.name == "3":
                break
        del event
        assert not client.ListVms().vms and not client._messages
        assert len(list(client.stream("WatchEvents"))) == 100
