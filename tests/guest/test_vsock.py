"""AF_VSOCK in a guest, with both backends: the guest's kernel is to see the same device."""
import ctypes
import os
import signal
import socket
import struct
import threading

from harness import Skip, check, equal, test

MIB = 1 << 20
CID = 1000 + os.getpid() % 100000
BACKENDS = ["builtin", "vhost"]
SO_VM_SOCKETS_CONNECT_TIMEOUT = 6
LIBC = ctypes.CDLL(None)


class Host:
    """The host's side, by Unix sockets or by AF_VSOCK."""

    def __init__(self, context, backend):
        if backend == "vhost" and not os.access("/dev/vhost-vsock", os.R_OK | os.W_OK):
            raise Skip("no /dev/vhost-vsock")
        self.vhost, self.path = backend == "vhost", context.path("v")
        Host.cid = getattr(Host, "cid", CID) + 1
        self.cid = Host.cid
        self.option = f"cid={self.cid},backend=vhost" if self.vhost else f"cid={self.cid},socket={self.path}"

    def listen(self, port):
        if self.vhost:
            listener = socket.socket(socket.AF_VSOCK)
            listener.bind((socket.VMADDR_CID_ANY, port))
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{self.path}_{port}")
        listener.listen(128)
        listener.settimeout(90)
        return listener

    def connect(self, port):
        """None: refused."""
        if self.vhost:
            dialled = socket.socket(socket.AF_VSOCK)
            # by default it is 2 s, which a guest of a busy host may take to answer; Python's own sets numbers only
            check(LIBC.setsockopt(dialled.fileno(), socket.AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT,
                                  struct.pack("ll", 60, 0), 16) == 0, "the time to connect cannot be set")
            dialled.settimeout(90)
            try:
                dialled.connect((self.cid, port))
            except ConnectionResetError:
                return None
            return dialled
        dialled = socket.socket(socket.AF_UNIX)
        dialled.settimeout(90)
        dialled.connect(self.path)
        dialled.sendall(f"CONNECT {port}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            byte = dialled.recv(1)
            if not byte:
                return None
            line += byte
        check(line.startswith(b"OK "), f"answer {line!r}")
        return dialled


def read_all(connection):
    parts = []
    while True:
        part = connection.recv(1 << 18)
        if not part:
            return b"".join(parts)
        parts.append(part)


def echo_there_and_back(connection, data):
    def send():
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    back = read_all(connection)
    sender.join()
    connection.close()
    check(back == data, f"{len(back)} bytes came back of {len(data)}, or other ones")


def serve_echo(listener, count):
    def one(connection):
        while True:
            part = connection.recv(1 << 18)
            if not part:
                break
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        connection.close()

    def accept():
        for _ in range(count):
            connection, _ = listener.accept()
            connection.settimeout(90)
            threading.Thread(target=one, args=(connection,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


def start(context, host, commands, transport):
    return context.guest(commands, "--vsock", host.option, "--transport", transport, cpus=2)


@test(backend=BACKENDS, transport=["pci", "mmio"])
def host_calls(context, backend, transport):
    """Many bytes there and back, with a half close in between."""
    host = Host(context, backend)
    vm = start(context, host, "vsockecho:7,3", transport)
    vm.wait_for("@ vsock listening")
    echo_there_and_back(host.connect(7), b"short")
    echo_there_and_back(host.connect(7), os.urandom(8 * MIB))
    echo_there_and_back(host.connect(7), b"")
    vm.ends(0)
    equal(vm.report("vsock echoed"), "3", "connections")


@test(backend=BACKENDS)
def many_at_once(context, backend):
    """A hundred connections at a time."""
    host = Host(context, backend)
    vm = start(context, host, "vsockecho:7,100", "pci")
    vm.wait_for("@ vsock listening")
    connections = [host.connect(7) for _ in range(100)]
    for number, connection in enumerate(connections):
        echo_there_and_back(connection, bytes([number]) * 20000)
    vm.ends(0)


@test(backend=BACKENDS, transport=["pci", "mmio"])
def guest_calls(context, backend, transport):
    """The guest connects to the host, and sees its own bytes again."""
    host = Host(context, backend)
    port = 20000 + host.cid % 10000
    listener = host.listen(port)
    serve_echo(listener, 21)
    vm = start(context, host, f"vsockcall:{port},32K,20 vsockcall:{port},8M,1", transport).ends(0)
    equal(vm.reports("vsock called"), ["20", "1"], "calls")
    listener.close()


@test(backend=BACKENDS)
def closed_ports(context, backend):
    """Nobody listens: neither side waits for a deadline."""
    host = Host(context, backend)
    vm = start(context, host, "vsockrefused:4 vsockecho:7,1", "pci")
    vm.wait_for("@ vsock listening")
    check(host.connect(8) is None, "port 8 of the guest answers")
    echo_there_and_back(host.connect(7), b"the end")
    vm.ends(0)
    check("vsock refused" in vm.console.text(), "no refusal")


@test(backend=BACKENDS)
def host_program_killed(context, backend):
    """Its connections end in the guest as well."""
    host = Host(context, backend)
    port = 30000 + host.cid % 10000
    listener = host.listen(port)
    child = os.fork()
    if not child:
        streams = [listener.accept()[0] for _ in range(20)]
        while streams:
            signal.pause()
    listener.close()
    vm = start(context, host, f"vsockhold:{port},20", "pci")
    try:
        vm.wait_for("@ vsock held")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    vm.ends(0)
    equal(vm.report("vsock lost"), "20", "connections")


@test(backend=BACKENDS, transport=["pci", "mmio"])
def driver_leaves(context, backend, transport):
    """The guest resets the device under open connections; the next driver finds a new one."""
    host = Host(context, backend)
    port = 40000 + host.cid % 10000
    listener, connections = host.listen(port), []

    def accept():
        for _ in range(5):
            connections.append(listener.accept()[0])
            connections[-1].settimeout(90)
    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    vm = start(context, host, f"vsockrebind:{port},5 vsockecho:7,1", transport)
    vm.wait_for("@ vsock listening")
    acceptor.join(90)
    equal(len(connections), 5, "connections")
    for connection in connections:
        try:
            if host.vhost:  # the kernel keeps them until something is sent
                connection.sendall(b"x")
            equal(connection.recv(1), b"", "end on the host")
        except ConnectionResetError:
            check(host.vhost, "reset")
        connection.close()
    echo_there_and_back(host.connect(7), os.urandom(100000))
    vm.ends(0)
    listener.close()


@test(backend=BACKENDS)
def thousand(context, backend):
    """A thousand connections, opened and closed."""
    host = Host(context, backend)
    vm = start(context, host, "vsockecho:7,1000", "pci")
    vm.wait_for("@ vsock listening")
    for number in range(1000):
        echo_there_and_back(host.connect(7), b"%d" % number)
    vm.ends(0)
