"""Exec: programs, their streams, their ends."""

import os
import socket
import struct
import time

import lodge
from rig import DEADLINE_S, Process, WINDOW, expect, pb, until


def test_streams_and_status(guest):
    c = guest.client()
    got = c.sh("echo out; echo err >&2; exit 7")
    assert (got.out, got.err, got.status) == (b"out\n", b"err\n", 7)
    got = c.sh("echo a; echo b >&2", merge_stderr=True)
    assert (got.out, got.err, got.status) == (b"a\nb\n", b"", 0)
    assert c.exec("cat", stdin=b"hello").out == b"hello"
    assert c.exec("cat").out == b""  # /dev/null
    got = c.sh("kill -9 $$")
    assert got.exited.signal == 9 and got.exited.status == 0


def test_much_goes_through_both_ways(guest):
    data = os.urandom(2 << 20)
    got = guest.client().exec("cat", stdin=data)
    assert got.out == data and got.status == 0


def test_environment_directory_user(guest):
    c = guest.client()
    got = c.exec("env", env=["A=1", "HOME=/x", "Z=a=b"])
    lines = got.out.decode().split("\n")
    assert {"A=1", "HOME=/x", "Z=a=b", "USER=root", "LOGNAME=root", "SHELL=/bin/sh"} <= set(lines), lines
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in lines)
    assert c.exec("pwd").out == b"/\n"
    assert c.exec("pwd", cwd="/home/user").out == b"/home/user\n"
    ids = "id -u; id -g; id -G; echo $HOME"
    assert c.sh(ids, user="user").out == b"1000\n1000\n1000 29\n/home/user\n"
    assert c.sh(ids, user="1000").out == b"1000\n1000\n1000 29\n/home/user\n"
    assert c.sh(ids, user="user:audio").out.split(b"\n")[1] == b"29"
    assert c.sh(ids, user="4000:50").out == b"4000\n50\n50\n/\n"
    assert c.sh("touch /root/x", user="user").status != 0
    assert c.sh("cat /proc/self/oom_score_adj").out == b"0\n"


def test_what_cannot_start_says_why(guest):
    c = guest.client()
    expect("NOT_FOUND", "no-such-program", c.exec, "no-such-program")
    expect("NOT_FOUND", "/no/such", c.exec, "/no/such")
    expect("PERMISSION_DENIED", "Permission denied", c.exec, "/etc/passwd")
    expect("NOT_FOUND", "working directory /nowhere: No such file", c.exec, "true", cwd="/nowhere")
    expect("NOT_FOUND", "there is no user nobody-here", c.exec, "true", user="nobody-here")
    expect("NOT_FOUND", "no group", c.exec, "true", user="root:nogroup-here")
    expect("NOT_FOUND", "say its group", c.exec, "true", user="4000")
    expect("INVALID_ARGUMENT", "argv[0]", c.exec)
    expect("INVALID_ARGUMENT", "NAME=value", c.exec, "true", env=["oops"])
    expect("INVALID_ARGUMENT", "absolute", c.exec, "true", cwd="tmp")
    expect("INVALID_ARGUMENT", "Argument list too long", c.exec, "true", "x" * 200000)
    expect("INVALID_ARGUMENT", "Argument list too long", c.exec, *["true"] + ["x" * 1000] * 3500)
    assert c.exec("true").status == 0


def test_terminal(guest):
    c = guest.client()
    p = Process(c, ["sh", "-c", "tty; stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done"],
                terminal=pb.TerminalSize(rows=33, columns=77))
    out = p.until_output(b"ready")
    assert b"/dev/pts/" in out and b"33 77" in out, out
    p.send(resize=pb.TerminalSize(rows=10, columns=20))
    got = p.outcome()
    assert b"10 20" in got.out and got.status == 3, got.out


def test_typing_at_a_terminal(guest):
    c = guest.client()
    p = Process(c, ["sh", "-c", "read line; echo got:$line"], terminal=pb.TerminalSize(rows=24, columns=80))
    p.started()
    p.send(stdin_data=b"word\r")
    assert b"got:word" in p.outcome().out
    p = Process(c, ["sleep", "1001"], terminal=pb.TerminalSize(rows=24, columns=80))
    p.started()
    p.send(stdin_data=b"\x03")
    assert p.outcome().status == -2
    p = Process(c, ["cat"], terminal=pb.TerminalSize(rows=24, columns=80))
    p.started()
    p.send(stdin_data=b"a\r")
    p.until_output(b"a\r\na\r\n")
    p.send(stdin_end=True)
    assert p.outcome().status == 0


def test_all_of_a_terminals_output_comes(guest):
    c = guest.client()
    for _ in range(20):
        got = c.sh("head -c 20000 /dev/zero; echo end", terminal=pb.TerminalSize(rows=24, columns=80))
        assert got.out == b"\0" * 20000 + b"end\r\n", len(got.out)


def test_signals_reach_the_group(guest):
    c = guest.client()
    p = Process(c, ["sh", "-c", "sleep 1000 & sleep 1000"])
    p.started()
    p.send(signal=15)
    assert p.outcome().status == -15
    until("both have ended", lambda: b"sleep 1000" not in c.exec("ps", "-o", "args").out)
    p = Process(c, ["sleep", "1000"])
    p.started()
    p.send(signal=400)
    expect("INVALID_ARGUMENT", "signal 400", p.outcome)
    until("it has ended with its call", lambda: b"sleep 1000" not in c.exec("ps", "-o", "args").out)


def running(client, word):
    return word in client.exec("ps", "-o", "args").out


def test_disconnecting_ends_what_was_started(guest):
    c, other = guest.client(), guest.client()
    Process(c, ["sh", "-c", "sleep 1111 & exec sleep 1111"]).started()
    Process(c, ["sleep", "1111"], terminal=pb.TerminalSize(rows=24, columns=80)).started()
    Process(c, ["sh", "-c", "cat /dev/zero; : 1111"]).started()  # nobody reads
    p = Process(c, ["sleep", "2222"], detach=True)
    assert p.outcome().pid > 0
    assert running(other, b"sleep 1111")
    c.close()
    until("they have ended", lambda: not running(other, b"1111"))
    assert running(other, b"sleep 2222")


def test_a_deadline_ends_it(guest):
    c = guest.client()
    stream = c.start(c.SERVICE, "Exec", pb.ExecRequest(start=pb.ExecStart(argv=["sleep", "1333"])).SerializeToString(),
                     200_000_000, flags=lodge.REMOTE_OPEN)
    expect("DEADLINE_EXCEEDED", "deadline", c.wait, stream)
    until("it has ended", lambda: not running(c, b"1333"))


def memory(guest):
    """Resident bytes of the agent."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.samefile(f"/proc/{pid}/root/share", guest.dir) and \
                    os.readlink(f"/proc/{pid}/exe") == "/sbin/lodge-agent":
                for line in open(f"/proc/{pid}/status"):
                    if line.startswith("VmRSS"):
                        return int(line.split()[1]) * 1024
        except OSError:
            pass
    raise AssertionError("no agent")


def test_who_does_not_read_is_waited_for(guest):
    c, other = guest.client(), guest.client()
    processes = [Process(c, ["cat", "/dev/zero"]) for _ in range(10)]
    before = memory(guest)
    end = time.monotonic() + 1
    while time.monotonic() < end:  # meanwhile others are served
        assert other.exec("true").status == 0
    assert memory(guest) < before + (4 << 20), "it keeps what nobody reads"
    for p in processes:
        while len(p.got.out) < 200000:
            p.step()
        assert not any(p.got.out)
    for p in processes:
        p.send(signal=9)
    for p in processes:
        assert p.outcome().status == -9


def test_input_that_is_not_taken_is_bounded(guest):
    c = guest.client()
    p = Process(c, ["sleep", "1444"], open_stdin=True)
    p.started()
    for _ in range((WINDOW + (1 << 20)) // 32768):
        p.send(stdin_data=bytes(32768))
    expect("RESOURCE_EXHAUSTED", "stdin_taken_bytes", p.outcome)
    until("it has ended", lambda: not running(c, b"1444"))
    # the window is there at once, and again when it was taken
    p = Process(c, ["sh", "-c", "sleep 0.2; exec cat"], open_stdin=True)
    data = os.urandom(WINDOW * 4)
    p.feed(data)
    assert p.outcome().out == data


def test_input_for_one_that_does_not_want_it(guest):
    c = guest.client()
    got = c.exec("true", stdin=bytes(3 * 32768))
    assert got.status == 0
    p = Process(c, ["sh", "-c", "exec <&-; sleep 0.3; exit 4"], open_stdin=True)
    for _ in range(40):
        while p.ahead + 32768 > WINDOW:
            p.step()
        p.send(stdin_data=bytes(32768))
        p.ahead += 32768
    assert p.outcome().status == 4


def test_background_processes_do_not_hold_the_call(guest):
    c = guest.client()
    start = time.monotonic()
    got = c.sh("(sleep 1555) & echo done")
    assert got.out == b"done\n" and time.monotonic() - start < DEADLINE_S / 2
    got = c.sh("(while :; do echo more; done) & sleep 0.1; echo done")
    assert b"done\n" in got.out


def test_thousands_of_short_processes(guest):
    c = guest.client()
    for _ in range(20):
        batch = [Process(c, ["true"]) for _ in range(50)]
        for p in batch:
            assert p.outcome().status == 0
    assert b"defunct" not in c.exec("ps").out
    assert b"Z" not in c.exec("ps", "-o", "stat").out


def test_orphans_are_reaped_by_the_agent_as_init(guest):
    c = guest.client()
    for _ in range(50):
        assert c.sh("(sleep 0.01 &) ; (true &)").status == 0
    until("no zombie is left", lambda: b"Z" not in c.exec("ps", "-o", "stat").out)
    assert c.exec("readlink", "/proc/1/exe").out == b"/sbin/lodge-agent\n"


test_orphans_are_reaped_by_the_agent_as_init.init = "agent"


def test_many_at_once_are_bounded(guest):
    clients = [guest.client() for _ in range(10)]
    processes = [Process(c, ["sleep", "1666"]) for c in clients for _ in range(100)]
    failed = 0
    for p in processes:
        try:
            p.started()
        except lodge.RpcError as e:
            assert lodge.CODES[e.code] == "RESOURCE_EXHAUSTED", e
            failed += 1
    assert failed < 50
    for c in clients:
        c.close()

    def all_ended():
        try:
            return not running(guest.client(), b"1666")
        except lodge.RpcError as e:  # they are many to reap
            assert lodge.CODES[e.code] == "RESOURCE_EXHAUSTED", e
            return False

    until("they have ended", all_ended)


def test_wrong_use(guest):
    c = guest.client()
    d = c.duplex("Exec")
    d.send(stdin_data=b"x")
    expect("INVALID_ARGUMENT", "start", list, d)
    d = c.duplex("Exec")
    d.end()
    expect("INVALID_ARGUMENT", "start", list, d)
    p = Process(c, ["sleep", "1777"])
    p.send(start=pb.ExecStart(argv=["true"]))
    expect("INVALID_ARGUMENT", "once", list, p)
    expect("INVALID_ARGUMENT", "rows", c.exec, "true", terminal=pb.TerminalSize(rows=70000, columns=1))
    expect("INVALID_ARGUMENT", "not for detached", c.exec, "true", terminal=pb.TerminalSize(rows=1), detach=True)


def test_malformed_frames_end_nothing_else(guest):
    keep = guest.client()
    p = Process(keep, ["cat"], open_stdin=True)
    p.started()
    for seed in range(150):
        noise = os.urandom(40)
        s = socket.socket(socket.AF_UNIX)
        s.connect(guest.socket)
        kind = (1, 3, noise[0])[seed % 3]
        s.sendall(struct.pack(">IIBB", seed % 60, 2 * seed + 1, kind, noise[1] & 7) + noise)
        s.close()
    c = guest.client()
    for method in ("Exec", "Mount", "WriteFile", "ConfigureNetwork", "GetFacts", "Shutdown", "ReadFile"):
        stream = c.start(c.SERVICE, method, b"\xff" * 20, flags=lodge.REMOTE_OPEN if method in ("Exec", "WriteFile") else 0)
        expect("INVALID_ARGUMENT", "", c.wait, stream)
    c.send_frame(c._stream + 2, 1, 0, b"")
    c.sock.sendall(struct.pack(">IIBB", 0xffffffff, c._stream + 4, 1, 0))
    p.send(stdin_data=b"still here", stdin_end=True)
    assert p.outcome().out == b"still here"
