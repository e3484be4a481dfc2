"""What a client does wrong on the wire costs it that call, and nobody else anything."""

import os
import random
import socket
import struct
import subprocess

from rig import B, expect_rpc_error, lodge, until

KINDS = ["vmm", "serve"]
SERVICE = "vm_tools.concierge.VmConcierge"


def still_serves(server):
    with server.client() as c:
        assert not c.GetVmInfo(name="nobody").success


def test_socket_is_the_owners_alone(server):
    assert os.stat(server.socket).st_mode & 0o777 == 0o600


def test_bytes_that_do_not_parse(server):
    with server.client() as c:
        for method in ("StartVm", "StopVm", "GetVmInfo", "CreateDiskImage", "DestroyDiskImage"):
            stream = c.start(SERVICE, method, b"\x0a\xff")
            expect_rpc_error("INVALID_ARGUMENT", c.wait, stream)
        expect_rpc_error("INVALID_ARGUMENT", c.wait, c.start(SERVICE, "GetVmInfo", b"\x0a\x03a\0b"))
        expect_rpc_error("INVALID_ARGUMENT", c.wait, c.start(SERVICE, "GetVmInfo", b"\x0a\x01\xff"))


def test_unknown_service_and_method(server):
    with server.client() as c:
        expect_rpc_error("UNIMPLEMENTED", c.wait, c.start("other", "StartVm", b""))
        expect_rpc_error("UNIMPLEMENTED", c.wait, c.start(SERVICE, "StartVn", b""))


def test_stream_ids(server):
    with server.client() as c:
        c.GetVmInfo(name="x")
        for stream in (0, 2, 1):
            c.send_frame(stream, lodge.REQUEST, 0, b"")
            expect_rpc_error("INVALID_ARGUMENT", c.wait, stream)
        c.send_frame(99, lodge.DATA, 0, b"")
        expect_rpc_error("INVALID_ARGUMENT", c.wait, 99)
        c.GetVmInfo(name="x")


def test_four_mib_and_one_byte_more(server):
    with server.client() as c:
        c.send_frame(1, lodge.REQUEST, 0, b"\0" * (lodge.DATA_MAX + 1))
        expect_rpc_error("RESOURCE_EXHAUSTED", c.wait, 1)
        c.send_frame(3, lodge.REQUEST, 0, b"\0" * lodge.DATA_MAX)
        expect_rpc_error("INVALID_ARGUMENT", c.wait, 3)
        c._stream = 3
        c.GetVmInfo(name="x")


def test_partial_frames_and_disconnects(server):
    request = lodge.message("ttrpc.Request")(service=SERVICE, method="GetVmInfo").SerializeToString()
    frame = struct.pack(">IIBB", len(request), 1, lodge.REQUEST, 0) + request
    for cut in range(len(frame)):
        with server.client() as c:
            c.sock.sendall(frame[:cut])
    with server.client() as c:
        for i in range(len(frame)):
            c.sock.sendall(frame[i:i + 1])
        c.wait(1)
    still_serves(server)


def test_disconnect_in_every_call(server):
    for method in ("StartVm", "StopVm", "GetVmInfo", "CreateDiskImage", "DestroyDiskImage"):
        for _ in range(5):
            with server.client() as c:
                c.begin(method)
    still_serves(server)


def test_noise(server):
    rng = random.Random(4)
    for _ in range(200):
        with server.client() as c:
            try:
                c.sock.sendall(bytes(rng.choice((0, 0, 0, 1, 2, 3, rng.randrange(256))) for _ in range(rng.randrange(200))))
            except OSError:
                pass
    still_serves(server)


def test_who_does_not_read_blocks_nobody(server):
    with server.client() as c:
        c.sock.setblocking(False)
        request = lodge.message("ttrpc.Request")(service=SERVICE, method="x" * 60000).SerializeToString()
        try:
            for stream in range(1, 20001, 2):
                c.sock.sendall(struct.pack(">IIBB", len(request), stream, lodge.REQUEST, 0) + request)
        except (BlockingIOError, ConnectionError):
            pass
        else:
            raise AssertionError("600 MB are taken though nobody reads the answers")
        still_serves(server)


def test_a_thousand_connections(server):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    clients = []
    for _ in range(1000):
        s = socket.socket(socket.AF_UNIX)
        s.connect(server.socket)
        s.settimeout(30)
        clients.append(lodge.Lodge(sock=s))
    for c in clients:
        assert not c.GetVmInfo(name="x").success
    for c in clients:
        c.close()
    still_serves(server)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_deadline(server):
    with server.client() as c:
        c.call("GetVmInfo", timeout_ns=10**10, name="x")


def test_second_server_on_the_socket(server):
    run = subprocess.run([B / "lodge", "vmm", "--socket", server.socket], capture_output=True, text=True)
    assert run.returncode == 1 and "another process serves it" in run.stderr, run
    still_serves(server)


def test_dead_socket_is_replaced(server):
    server.process.kill()
    server.process.wait()
    assert os.path.exists(server.socket)
    server.begin()
    still_serves(server)
    until("it runs", lambda: server.process.poll() is None)
