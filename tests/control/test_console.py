"""The console of a VM: kept, followed, typed on, by several clients. A lot of it: tests/unit/test_vm_console.c."""

import socket
import time

from rig import expect_rpc_error, need_kvm, until

KINDS = ["vmm", "serve"]
LINE = 64


class Reader:
    """What a stream of the console has said, taken in as it is waited for."""

    def __init__(self, messages):
        self.messages, self.data, self.dropped, self.taken = iter(messages), b"", 0, 0

    def more(self):
        m = next(self.messages, None)
        if m is None:
            return False
        self.data += m.data
        self.dropped += m.dropped_bytes
        self.taken = m.input_taken_bytes
        return True

    def until(self, text, count=1):
        while self.data.count(text) < count:
            assert self.more(), f"the stream has ended after {self.data[-200:]}"
        return self

    def rest(self):
        while self.more():
            pass
        return self.data


def attached(client, **fields):
    duplex = client.open("AttachConsole")
    duplex.send(open=dict(name="a", **fields))
    return duplex, Reader(duplex)


def test_output_is_kept_and_followed(server):
    need_kvm()
    with server.client() as c, server.client() as d, server.client() as e:
        server.start(c, "a", "echo")
        first = Reader(d.stream("ReadConsole", name="a")).until(b"echo\n")
        duplex, typed = attached(c)
        typed.until(b"echo\n")
        duplex.send(data=b"one\n")
        first.until(b"one\n")
        typed.until(b"one\n")
        # who comes later sees it all, or as much as it wants
        assert Reader(e.stream("ReadConsole", name="a", no_follow=True)).rest() == b"echo\none\n"
        assert Reader(e.stream("ReadConsole", name="a", no_follow=True, replay_bytes_max=3)).rest() == b"ne\n"
        assert Reader(e.stream("ReadConsole", name="a", no_follow=True, no_replay=True)).rest() == b""
        late = Reader(e.stream("ReadConsole", name="a", no_replay=True))
        e.begin("GetVmInfo", name="a")  # answered after the stream has begun
        until("the call is answered", lambda: e._pump() or e._replies)
        duplex.send(data=b"two\noff\n")
        assert late.rest() == b"two\noff\n"
        assert first.rest() == typed.rest() == b"echo\none\ntwo\noff\n"


def test_first_message_names_the_vm(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "echo")
        for messages in ([dict(data=b"x")], [dict(open=dict(name="a")), dict(open=dict(name="a"))]):
            duplex = c.open("AttachConsole")
            for m in messages:
                duplex.send(**m)
            expect_rpc_error("INVALID_ARGUMENT", Reader(duplex).rest)
        duplex = c.open("AttachConsole")
        duplex.end()
        expect_rpc_error("INVALID_ARGUMENT", Reader(duplex).rest)
        duplex = c.open("AttachConsole")
        duplex.send(open=dict(name="b"))
        expect_rpc_error("NOT_FOUND", Reader(duplex).rest)
        expect_rpc_error("NOT_FOUND", lambda: list(c.stream("ReadConsole", name="b")))


def test_input_of_several_is_not_lost(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "echo")
        (one, a), (two, b) = attached(c), attached(d)
        for _ in range(50):
            one.send(data=b"A" * 100)
            two.send(data=b"B" * 100)
        a.until(b"A", 5000).until(b"B", 5000)
        b.until(b"A", 5000).until(b"B", 5000)


def test_a_client_that_types_no_more_still_reads(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "echo")
        one, a = attached(c)
        one.send(data=b"last\n")
        one.end()
        a.until(b"last\n")
        two, b = attached(d)
        two.send(data=b"off\n")
        assert a.rest().endswith(b"last\noff\n")


def test_break(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "echo")
        duplex, a = attached(c)
        a.until(b"echo\n")
        duplex.send(data=b"x", line_break=True)
        duplex.send(data=b"y")
        a.until(b"x<break>y")


def test_input_waits_for_a_guest_that_does_not_read(server):
    """The guest's port takes 4 KiB; what the client may send beyond waits, and arrives in order."""
    need_kvm()
    text = b"".join(b"%07d\n" % i for i in range(8800))
    with server.client() as c:
        server.start(c, "a", "echo")
        duplex, a = attached(c)
        duplex.send(data=b"hold\n")
        a.until(b"hold\n")
        sent = 0
        while sent < len(text):
            # as the protocol says: 64 KiB on the way at most
            while sent + 5 + 4000 > a.taken + (64 << 10):
                assert a.more()
            duplex.send(data=text[sent:sent + 4000])
            sent += 4000
        a.until(b"held\n").until(text[-8:])
        seen = a.data.split(b"held\n", 1)[1]
        assert seen == text, (len(seen), len(text))


def test_too_much_input(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        server.start(c, "a", "spin")
        duplex, a = attached(c)
        a.until(b"spinning")
        duplex.send(data=b"x" * 100000)
        expect_rpc_error("RESOURCE_EXHAUSTED", a.rest)
        duplex, a = attached(c)
        for _ in range(20):
            duplex.send(data=b"x" * 4096)
        expect_rpc_error("RESOURCE_EXHAUSTED", a.rest)
        assert d.GetVmInfo(name="a").success


def flood(duplex, a, lines):
    duplex.send(data=b"\nflood %d\n" % lines)
    a.until(b"flooded\n")


def test_a_slow_reader_holds_up_nobody(server):
    need_kvm()
    with server.client() as c, server.client() as slow:
        server.start(c, "a", "echo")
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy = Reader(slow.stream("ReadConsole", name="a"))
        duplex, a = attached(c)
        flood(duplex, a, 400)
        duplex.send(data=b"off\n")
        assert lazy.rest() == a.rest()
        body = a.data.split(b"flood 400\n", 1)[1]
        assert [int(body[i * LINE:i * LINE + 8]) for i in range(400)] == list(range(400))


def test_streams_of_a_client_that_goes(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "echo")
        for _ in range(4):
            with server.client() as d:
                duplex, a = attached(d)
                Reader(d.stream("ReadConsole", name="a")).until(b"echo")
                duplex.send(data=b"x" * 5000)
        duplex, a = attached(c)
        flood(duplex, a, 10)
        began = time.monotonic()
        duplex.send(data=b"off\n")
        a.rest()
        assert time.monotonic() - began < 5


def test_last_words(server):
    """All that a guest says before it ends arrives, however late one asks."""
    need_kvm()
    with server.client() as c, server.client() as d:
        a = None
        server.start(c, "a", "button")
        a = Reader(d.stream("ReadConsole", name="a")).until(b"waiting\n")
        c.begin("StopVm", name="a")
        assert a.rest() == b"waiting\npressed\n"


def test_many_attach(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "echo")
        streams = [attached(c) for _ in range(64)]
        for _, b in streams:  # through `lodge serve` they come in any order
            b.until(b"echo\n")
        duplex, a = attached(c)
        expect_rpc_error("RESOURCE_EXHAUSTED", a.rest)
        streams[0][0].send(data=b"all\n")
        for _, b in streams:
            b.until(b"all\n")
