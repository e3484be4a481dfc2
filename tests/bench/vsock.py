"""Throughput and round trips of vsock, from the host's end; the guest's is in init.c."""
import socket
import time

PORT, BLOCK = 9000, bytes(65536)


def connect_vhost(cid):
    stream = socket.socket(socket.AF_VSOCK)
    stream.settimeout(60)
    stream.connect((cid, PORT))
    return stream


def connect_builtin(path):
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(60)
    stream.connect(path)
    stream.sendall(f"CONNECT {PORT}\n".encode())
    line = b""
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte:
            raise SystemExit("vsock: the guest refuses")
        line += byte
    return stream


def to_guest(stream, seconds):
    """Bytes a second, until the guest has read the last."""
    stream.sendall(b"i")
    start, total = time.monotonic(), 0
    while time.monotonic() < start + seconds:
        total += stream.send(BLOCK)
    stream.shutdown(socket.SHUT_WR)
    if stream.recv(1) != b"\0":
        raise SystemExit("vsock: the guest has not read it all")
    return total / (time.monotonic() - start)


def to_host(stream, seconds):
    buffer = bytearray(1 << 18)
    stream.sendall(b"o")
    stream.recv_into(buffer)
    start, total = time.monotonic(), 0
    while time.monotonic() < start + seconds:
        total += stream.recv_into(buffer)
    return total / (time.monotonic() - start)


def round_trips(stream, seconds):
    """Of one byte, a second."""
    stream.sendall(b"p")
    start, count = time.monotonic(), 0
    while time.monotonic() < start + seconds:
        stream.sendall(b"x")
        stream.recv(1)
        count += 1
    return count / (time.monotonic() - start)


PATTERNS = {"to_guest": to_guest, "to_host": to_host, "round_trips": round_trips}


def measure(connect, seconds):
    """{pattern: figure}"""
    figures = {}
    for name, function in PATTERNS.items():
        with connect() as stream:
            figures[name] = function(stream, seconds)
    return figures
