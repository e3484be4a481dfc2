"""Interfaces of Linux guests: packets both ways, addresses, and what is left behind."""
import hashlib
import os
import socket
import subprocess
import threading

from harness import DEADLINE_S, check, environment, equal, run_tool, test

from test_agent import shell, start
from test_serve import serving

MIB = 1 << 20


class Net:
    """Names and addresses that no other test uses at the time."""

    def __init__(self, context):
        number = int(os.path.basename(context.folder).lstrip("t"))
        self.tap, self.host, self.guest = f"tap{number}", f"10.77.{number}.1", f"10.77.{number}.2"
        self.words = f"tap={self.tap},address={self.guest}/24,gateway={self.host},dns={self.host}"

    def host_up(self):
        """The host's end of a tap that is not the pool's."""
        run_tool("ip", "address", "add", f"{self.host}/24", "dev", self.tap)
        run_tool("ip", "link", "set", self.tap, "up")


def debian(context):
    image = context.path("debian.img")
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    return image


def interfaces():
    return set(os.listdir("/sys/class/net"))


def bash(server, name, command):
    """Which knows /dev/tcp."""
    return server.run("exec", name, "--", "bash", "-c", command)


def served(address, handle):
    """One connection to port 5000 of the host, handled by a thread; join() gives what it made."""
    listener = socket.create_server((address, 5000))
    result = []

    def run():
        with listener, listener.accept()[0] as stream:
            result.append(handle(stream))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(DEADLINE_S)
        check(result, "nobody came to port 5000")
        return result[0]

    return join


def received(stream):
    digest = hashlib.sha256()
    while block := stream.recv(1 << 16):
        digest.update(block)
    return digest.hexdigest()


def same_bytes_both_ways(server, name, address, size=16 * MIB):
    data = os.urandom(size)
    wanted = hashlib.sha256(data).hexdigest()
    sent = served(address, lambda stream: stream.sendall(data))
    equal(bash(server, name, f"sha256sum </dev/tcp/{address}/5000").split()[0], wanted, "what the guest got")
    sent()
    got = served(address, received)
    bash(server, name, f"head -c {size} /dev/urandom >/root/f; cat /root/f >/dev/tcp/{address}/5000")
    equal(got(), shell(server, name, "sha256sum /root/f").split()[0], "what the host got")


@test(transport=["pci", "mmio"])
def tap(context, transport):
    """An address by the agent, packets of TCP both ways, and a tap that goes with the VM."""
    net = Net(context)
    with serving(context) as server:
        start(server, "a", debian(context), "--net", net.words, "--transport", transport)
        net.host_up()
        check(net.guest in server.run("info", "a"), "its address is not in its information")
        run_tool("ping", "-c", "3", "-W", "20", net.guest)
        same_bytes_both_ways(server, "a", net.host)
        server.run("stop", "a", "--timeout", 200)
    check(net.tap not in interfaces(), "the tap has stayed")
