"""Interfaces of Linux guests: packets both ways, addresses, and what is left behind."""
import contextlib
import grp
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from harness import DEADLINE_S, check, environment, equal, run_tool, test

from test_agent import shell, start
from test_serve import serving, until

MIB = 1 << 20


class Net:
    """Names and addresses that no other test uses at the time."""

    def __init__(self, context):
        number = int(os.path.basename(context.folder).lstrip("t"))
        self.number, self.tap, self.host, self.guest = number, f"tap{number}", f"10.77.{number}.1", f"10.77.{number}.2"
        self.words = f"tap={self.tap},address={self.guest}/24,gateway={self.host},dns={self.host}"

    def host_up(self):
        """The host's end of a tap that is not the pool's."""
        run_tool("ip", "address", "add", f"{self.host}/24", "dev", self.tap)
        run_tool("ip", "link", "set", self.tap, "up")


def debian(context, name="debian"):
    image = context.path(name + ".img")
    subprocess.run(["cp", "--sparse=always", environment("LODGE_GUEST_ROOT"), image], check=True)
    return image


def interfaces():
    return set(os.listdir("/sys/class/net"))


def bash(server, name, command):
    """Which knows /dev/tcp."""
    return server.run("exec", name, "--", "bash", "-c", command)


def served(address, handle, port=5000):
    """One connection to a port of the host, handled by a thread; join() gives what it made."""
    listener = socket.create_server((address, port))
    result = []

    def run():
        with listener, listener.accept()[0] as stream:
            result.append(handle(stream))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(DEADLINE_S)
        check(result, f"nobody came to port {port}")
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


@test(transport=["pci", "mmio"], backend=["vhost", "builtin"])
def tap(context, transport, backend):
    """An address by the agent, packets of TCP both ways, and a tap that goes with the VM."""
    net = Net(context)
    with serving(context) as server:
        start(server, "a", debian(context), "--net", f"{net.words},backend={backend}", "--transport", transport)
        net.host_up()
        check(net.guest in server.run("info", "a"), "its address is not in its information")
        # a guest that still boots on a busy host may not answer the first
        until("an answer to ping", lambda: not subprocess.run(["ping", "-q", "-c", "1", "-W", "20", net.guest], check=False,
                                                              stdout=subprocess.DEVNULL).returncode)
        same_bytes_both_ways(server, "a", net.host)
        equal(f"table netdev lodge-{net.tap}" in run_tool("nft", "list", "tables"), backend == "vhost", "the guard")
        server.run("stop", "a", "--timeout", 200)
    nothing_is_left(net.tap)


@test()
def link(context):
    """The guest sees its cable; without the rules that guard it, it has none."""
    net = Net(context)
    carrier = "cat /sys/class/net/e*/carrier"

    def sees(state):
        until(f"carrier {state}", lambda: bash(server, "a", carrier) == f"{state}\n")

    with serving(context) as server:
        start(server, "a", debian(context), "--net", f"{net.words},backend=vhost")
        net.host_up()
        for state in (0, 1):
            server.run("link", "a", "net0", "up" if state else "down")
            sees(state)
        table = run_tool("nft", "list", "table", "netdev", f"lodge-{net.tap}")
        keeper = next(pid for pid in keepers(server) if "nft" in children(pid).values())
        os.kill(keeper, signal.SIGSTOP)
        os.kill(next(iter(children(keeper))), signal.SIGKILL)
        until("no rules", lambda: f"lodge-{net.tap}" not in run_tool("nft", "list", "tables"))
        os.kill(keeper, signal.SIGCONT)
        until("the rules", lambda: f"lodge-{net.tap}" in run_tool("nft", "list", "tables"))
        equal(run_tool("nft", "list", "table", "netdev", f"lodge-{net.tap}"), table, "the rules")
        sees(1)
        until("an answer to ping", lambda: not subprocess.run(["ping", "-q", "-c", "1", "-W", "20", net.guest], check=False,
                                                              stdout=subprocess.DEVNULL).returncode)
        check('lodge_vm_network_link_up{vm="a",device="net0",tap="%s"} 1' % net.tap in server.run("metrics"), "no link in the metrics")
        packets = re.search(r'lodge_vm_network_packets_total{vm="a",device="net0",direction="receive"} (\d+)', server.run("metrics"))
        check(int(packets[1]) > 0, "the kernel's packets are not counted")
        server.run("stop", "a", "--timeout", 200)
    nothing_is_left(net.tap)


# opens a tap as another program would, and becomes the command with it as descriptor 9
WITH_TAP = """import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))  # TUNSETIFF: tap, no_pi, vnet_hdr
os.dup2(fd, 9)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@test(backend=["vhost", "builtin"])
def handed_over(context, backend):
    """fd=: a tap that its user opened, with no agent; and, built in, limits both ways."""
    net, size, per_s = Net(context), 4 * MIB, 2 * MIB
    words = f"fd=9,address={net.guest}/24,gateway={net.host},backend={backend}"
    if backend == "builtin":
        words += f",rx_bytes_per_s={per_s},tx_bytes_per_s={per_s}"
    command = (f"sha256sum </dev/tcp/{net.host}/5000; head -c {size} /dev/urandom >/run/f; sha256sum /run/f; "
               f"cat /run/f >/dev/tcp/{net.host}/5001; read; echo o >/proc/sysrq-trigger; sleep 1000")
    took = {}

    def timed(way, transfer):
        start_s = time.monotonic()
        result = transfer()
        took[way] = time.monotonic() - start_s
        return result

    data = os.urandom(size)
    vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                       "--root", f"path={debian(context)},format=raw", "--memory", "512M", "--init", "/bin/bash", "--net", words,
                       "--cmdline", f'loglevel=4 -- -c "mount -t tmpfs run /run; {command}"',
                       prefix=["python3", "-c", WITH_TAP, net.tap])
    until("the tap", lambda: net.tap in interfaces())
    net.host_up()

    def to_guest(stream):
        def transfer():
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1)  # its end: all of it has arrived

        timed("to the guest", transfer)

    sent = served(net.host, to_guest)
    got = served(net.host, lambda stream: timed("to the host", lambda: received(stream)), 5001)
    sent()
    vm.wait_for(hashlib.sha256(data).hexdigest())
    equal(got(), vm.wait_for("([0-9a-f]{64})  /run/f")[1].decode(), "what the host got")
    # not before: Linux's driver (seen in 6.1.192) never ends when it is reset with packets on their way out
    vm.send("\n")
    vm.ends(0)
    nothing_is_left(net.tap)
    if backend == "builtin":
        for way, seconds in took.items():  # a tenth of a second's worth was saved up
            check(seconds >= size / per_s - 0.2, f"{size} bytes {way} in {seconds:.2f} s, {per_s} a second allowed")


def children(pid):
    """pid -> name, of those that live."""
    out = subprocess.run(["ps", "-o", "pid=,stat=,comm=", "--ppid", str(pid)], check=False, capture_output=True, text=True).stdout
    return {int(line.split()[0]): line.split()[2] for line in out.splitlines() if not line.split()[1].startswith("Z")}


def keepers(server):
    """Those of the server's VMs, whose command line they have: other tests have keepers at the same time."""
    out = subprocess.run(["ps", "-ww", "-C", "lodge-keeper", "-o", "pid=,args="], check=False, capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in out.splitlines() if f"{server.vms}/" in line]


def nothing_is_left(tap):
    check(tap not in interfaces(), "the tap has stayed")
    until("no table of it", lambda: tap not in run_tool("nft", "list", "tables"))


# frames, in hex, out of a guest's first interface
SEND = ('socket(S, 17, 3, 768) or die $!; ($path) = glob("/sys/class/net/e*/ifindex"); open(F, $path) or die $!;'
        'for (@ARGV) { send(S, pack("H*", $_), 0, pack("SnlSCCa8", 17, 3, $index ||= <F>, 0, 0, 6, "")) or die $! }')


def arp_request(source, sender, address, target):
    """Who hears one for itself notes where its sender is."""
    mac = [text.replace(":", "") for text in (source, sender)]
    ip = [socket.inet_aton(text).hex() for text in (address, target)]
    return f"{'ff' * 6}{mac[0]}08060001080006040001{mac[1]}{ip[0]}{'00' * 6}{ip[1]}"


@test(backend=["vhost", "builtin"])
def bridge(context, backend):
    """Two guests of a bridge reach each other, and neither is another; and the bridge is told where a guest is."""
    net = Net(context)
    name, a, b, other = f"br{net.number}", net.guest, f"10.77.{net.number}.3", f"10.77.{net.number}.9"
    macs = {"a": f"02:77:00:00:{net.number:02x}:0a", "b": f"02:77:00:00:{net.number:02x}:0b"}
    stranger = f"02:77:00:00:{net.number:02x}:0c"

    def learned():
        return {line.split()[0] for line in run_tool("bridge", "fdb", "show", "br", name).splitlines() if "permanent" not in line}

    def forget(mac):
        line = next(line.split() for line in run_tool("bridge", "fdb", "show", "br", name).splitlines() if line.startswith(mac))
        run_tool("bridge", "fdb", "del", mac, "dev", line[2], "master")

    def neighbours():
        return bash(server, "b", "ip -4 neigh show")

    run_tool("ip", "link", "add", name, "up", "type", "bridge")
    try:
        with serving(context) as server:
            for vm, address in (("a", a), ("b", b)):
                start(server, vm, debian(context, vm), "--net", f"bridge={name},address={address}/24,mac={macs[vm]},backend={backend}")
            taps = set(os.listdir(f"/sys/class/net/{name}/brif"))
            server.run("exec", "b", "--", "iperf3", "-s", "-D")
            until("b's server", lambda: bash(server, "a", f"iperf3 -c {b} -n 1M >/dev/null && echo yes || true"))
            check(set(macs.values()) <= learned(), f"the bridge knows {learned()}")
            bash(server, "b", "ip neigh flush all")
            server.run("exec", "a", "--", "perl", "-e", SEND, arp_request(stranger, stranger, other, b),
                       arp_request(macs["a"], stranger, other, b), arp_request(macs["a"], macs["a"], other, b),
                       arp_request(macs["b"], macs["b"], b, b), arp_request(macs["a"], macs["a"], a, b))
            until("the last of them", lambda: f"{a} " in neighbours())
            check(f"{other} " not in neighbours(), f"a has passed for another: {neighbours()}")
            check(stranger not in learned(), "a has sent from another's address")
            for before, after in ((["link", "a", "down"], ["link", "a", "up"]), (["pause", "a"], ["resume", "a"])):
                server.run(*before)
                if macs["a"] in learned():
                    forget(macs["a"])
                server.run(*after)
                until(f"the bridge knows a after {after}", lambda: macs["a"] in learned())
            server.run("stop", "--all", "--timeout", 200)
        for tap in taps:
            nothing_is_left(tap)
    finally:
        run_tool("ip", "link", "del", name)


@contextlib.contextmanager
def world(context):
    """A network behind the host: gives the address of what is there."""
    net = Net(context)
    here, there, space = f"here{net.number}", f"there{net.number}", f"world{net.number}"
    run_tool("ip", "netns", "add", space)
    try:
        run_tool("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        run_tool("ip", "address", "add", f"10.78.{net.number}.1/24", "dev", here)
        run_tool("ip", "link", "set", here, "up")
        run_tool("ip", "route", "replace", "default", "via", f"10.78.{net.number}.2", "metric", str(net.number + 1))
        inside = ["ip", "netns", "exec", space]
        run_tool(*inside, "ip", "address", "add", f"10.78.{net.number}.2/24", "dev", there)
        run_tool(*inside, "ip", "link", "set", there, "up")
        with subprocess.Popen([*inside, "socat", "TCP-LISTEN:5000,fork,reuseaddr", "SYSTEM:echo from $SOCAT_PEERADDR"]) as echo:
            try:
                yield f"10.78.{net.number}.2", f"10.78.{net.number}.1"
            finally:
                echo.terminate()
    finally:
        run_tool("ip", "netns", "del", space)


def reaches(address, port, *where, udp=False):
    """Until the server in the guest, which has just been started, is there."""
    words = [*where, "timeout", "60", "iperf3", "-c", address, "-p", str(port), "-n", "1M", *(["-u", "-b", "20M"] if udp else [])]
    until(f"iperf3 to port {port} of {address}",
          lambda: not subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode)


@test(how=["stopped", "killed"])
def pool_and_nat(context, how):
    """The guest reaches the world as the host, the world and the host its ports; and all that goes with it."""
    net = Net(context)
    port = 7000 + net.number
    with world(context) as (there, here), serving(context) as server:
        start(server, "a", debian(context), "--net",
              f"pool,subnets=10.79.{net.number}.0/29,nat=on,forward=tcp:{port}:7777")
        check(f"10.79.{net.number}.2" in server.run("info", "a"), "its address is not in its information")
        equal(bash(server, "a", f"cat </dev/tcp/{there}/5000"), f"from {here}\n", "whom the world sees")
        server.run("exec", "a", "--", "iperf3", "-s", "-D", "-p", "7777")
        reaches("127.0.0.1", port)
        reaches(here, port)
        reaches(here, port, "ip", "netns", "exec", f"world{net.number}")
        tap = next(name for name in interfaces() if name.startswith("lodge-0a4f%02x" % net.number))
        if how == "stopped":
            server.run("stop", "a", "--timeout", 200)
        else:
            os.kill(json.loads(server.run("info", "a", "--json"))["pid"], signal.SIGKILL)
            until("its end", lambda: not server.names())
        nothing_is_left(tap)


@test()
def passt(context):
    """Without a tap: the guest's connections are the host's."""
    with world(context) as (there, here), serving(context) as server:
        start(server, "a", debian(context), "--net", "passt")
        world_says = f"timeout 5 cat </dev/tcp/{there}/5000 || true"
        equal(bash(server, "a", world_says), f"from {here}\n", "whom the world sees")
        # another takes its place
        os.kill(next(pid for keeper in keepers(server) for pid, name in children(keeper).items() if "passt" in name), signal.SIGKILL)
        until("the world again", lambda: bash(server, "a", world_says) == f"from {here}\n")
        with open(server.log.name, encoding="utf-8", errors="replace") as log:
            check("another end of the socket is there; the guest's link is up" in log.read(), "the log does not tell of it")
        server.run("stop", "a", "--timeout", 200)


USER = 64999  # nobody's


def as_user(context, image):
    """What starts a program as a user whose only right is the group of /dev/kvm."""
    group = grp.getgrnam("kvm").gr_gid
    if "LAB_OUT" in os.environ:  # whose devices are root's alone
        os.chown("/dev/kvm", 0, group)
        os.chmod("/dev/kvm", 0o660)
    for path in (context.folder, image):
        os.chown(path, USER, USER)
    os.chmod(os.path.dirname(context.folder), 0o755)
    return ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--groups", str(group), "--bounding-set=-all", "--"]


@test()
def ordinary_user(context):
    """No right, no set-up, no agent: connections out, names, and forwarded ports."""
    image = debian(context)
    with world(context) as (there, here):
        prefix = as_user(context, image)
        for words, cure in (("pool", "use passt"), ("bridge=lo", "is no bridge"), ("tap=lodge-user0", "ip tuntap add dev lodge-user0")):
            vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--initramfs", "none", "--net", words, prefix=prefix)
            equal(vm.finish(), 1, f"--net {words}: exit status")
            check(cure in vm.errors.text(), f"--net {words}: no cure in {vm.errors.text()!r}")
        command = (f"cat </dev/tcp/{there}/5000; cat /etc/resolv.conf; ip -br addr; iperf3 -s -1 -p 5201; "
                   "iperf3 -s -1 -p 5201; echo o >/proc/sysrq-trigger; sleep 1000")
        vm = context.lodge("--kernel", environment("LODGE_GUEST_KERNEL"), "--modules", environment("LODGE_GUEST_MODULES"),
                           "--root", f"path={image},format=raw", "--memory", "512M", "--init", "/bin/bash",
                           "--net", "auto,dns=192.0.2.53,forward=tcp:15201:5201,forward=udp:15201:5201",
                           "--cmdline", f'loglevel=4 -- -c "{command}"', prefix=prefix)
        vm.wait_for(f"from {here}")
        vm.wait_for("nameserver 192.0.2.53")
        vm.wait_for("Server listening on 5201")
        reaches("127.0.0.1", 15201)
        reaches(here, 15201, udp=True)
        vm.ends(0)
    until("no passt", lambda: subprocess.run(["pgrep", "-u", str(USER)], check=False, stdout=subprocess.DEVNULL).returncode)
