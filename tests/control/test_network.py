"""Interfaces of VMs: pool, names, defaults, and that nothing stays. Each server in a network namespace of its own."""
import os
import shutil
import signal
import socket
import struct
import subprocess

from rig import B, Server, Skip, alive, expect_rpc_error, need_kvm, until

KINDS = ["serve"]
POOL = 31  # of the default pool


class Alone(Server):
    before = ["unshare", "--net"]

    def __enter__(self):
        need_kvm()
        if os.geteuid() or not os.path.exists("/dev/net/tun"):
            raise Skip("taps need root and /dev/net/tun")
        super().__enter__()
        self.host("ip", "link", "set", "lo", "up")
        return self

    def host(self, *words):
        """A command in the server's namespace."""
        return subprocess.run(["nsenter", "-t", str(self.process.pid), "--net", *words], check=True, capture_output=True,
                              text=True).stdout

    def taps(self):
        """name -> its addresses"""
        lines = [line.split() for line in self.host("ip", "-br", "-4", "address", "show", "type", "tun").splitlines()]
        return {words[0]: words[2:] for words in lines}


SERVER = Alone


def address_of(info):
    """As the wire has it: network byte order."""
    return socket.inet_ntoa(struct.pack("<I", info.ipv4_address))


def test_a_pool_is_used_up_and_given_back(server):
    with server.client() as c:
        vms = [server.start(c, f"vm{n}", "spin", networks=["pool"]) for n in range(POOL)]
        assert [address_of(vm) for vm in vms] == [f"100.115.92.{4 * n + 6}" for n in range(POOL)]
        assert address_of(c.GetVmInfo(name="vm3").vm_info) == "100.115.92.18"
        taps = server.taps()
        assert len(taps) == POOL and taps["lodge-64735c05"] == ["100.115.92.5/30"], taps
        late = c.StartVm(name="late", **server.spec("spin", networks=["pool"]))
        assert not late.success and "31 subnets of the pool 100.115.92.0/24 are in use" in late.failure_reason, late
        assert c.StopVm(name="vm7", force=True).success
        os.kill(vms[9].pid, signal.SIGKILL)
        until("its end", lambda: not c.GetVmInfo(name="vm9").success)
        assert len(server.taps()) == POOL - 2
        assert {address_of(server.start(c, name, "spin", networks=["pool"])) for name in ("x", "y")} == \
            {"100.115.92.34", "100.115.92.42"}
        for vm in filter(alive, server.vms):
            os.kill(vm, signal.SIGKILL)
        until("no tap is left", lambda: not server.taps())


def test_subnets_of_vms_that_outlive_their_server(server):
    with server.client() as c:
        a = server.start(c, "a", "spin", networks=["pool"])
    path = f"/proc/{a.pid}/ns/net"
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.before = ["nsenter", f"--net={path}"]
    server.begin()
    with server.client() as c:
        assert address_of(c.GetVmInfo(name="a").vm_info) == "100.115.92.6"
        assert address_of(server.start(c, "b", "spin", networks=["pool"])) == "100.115.92.10"
        assert c.StopVm(name="a", force=True).success
        assert list(server.taps()) == ["lodge-64735c09"]


def test_addresses_of_the_host_are_passed_over(server):
    with server.client() as c:
        server.host("ip", "link", "add", "other", "type", "bridge")
        server.host("ip", "address", "add", "100.115.92.9/29", "dev", "other")
        addresses = [address_of(server.start(c, name, "spin", networks=["pool"])) for name in ("a", "b")]
        assert addresses == ["100.115.92.6", "100.115.92.18"], addresses


def test_another_pool_is_used_from_end_to_end(server):
    with server.client() as c:
        words = ["pool,subnets=10.1.2.0/29"]
        assert [address_of(server.start(c, name, "spin", networks=words)) for name in ("a", "b")] == ["10.1.2.2", "10.1.2.6"]
        assert "all 2 subnets" in c.StartVm(name="c", **server.spec("spin", networks=words)).failure_reason


def test_a_default_and_none(_):
    with Alone("serve", "--net", "pool") as server, server.client() as c:
        assert address_of(server.start(c, "a", "spin")) == "100.115.92.6"
        assert server.start(c, "b", "spin", networks=["none"]).ipv4_address == 0
        assert len(server.taps()) == 1


def test_several_of_several_kinds(server):
    with server.client() as c:
        server.host("ip", "link", "add", "br0", "type", "bridge")
        server.start(c, "a", "spin", networks=["pool", "bridge=br0,mtu=9000", "tap=mine,queues=2"])
        shown = server.host("ip", "-o", "link", "show", "type", "tun")
        assert len(shown.splitlines()) == 3, shown
        port = next(line for line in shown.splitlines() if "master br0" in line)
        assert "mtu 9000" in port and "UP" in port, port
        assert any(": mine:" in line for line in shown.splitlines()), shown
        assert c.StopVm(name="a", force=True).success


test_several_of_several_kinds.kinds = ["vmm"]


def test_refusals(server):
    with server.client() as c:
        server.host("ip", "link", "add", "br0", "type", "bridge")
        for words, text in ((["fd=3"], "descriptors are not passed on"), (["bridge=lo"], "lo is no bridge"),
                            (["bridge=br7"], "no interface br7"), (["tap=br0"], "br0 is no tap"),
                            (["pool", "none"], "none goes with no other"), (["wifi"], "unknown key wifi"),
                            (["pool,mac=01:00:00:00:00:00"], "no address of one interface"), (["mtu=1500"], "no kind is said"), ([""], "a key is missing"),
                            (["pool"] * 5, "at most 4 interfaces")):
            reply = c.StartVm(name="a", **server.spec("spin", networks=words))
            assert not reply.success and text in reply.failure_reason, (words, reply)
        assert not server.taps()


test_refusals.kinds = ["vmm"]


def test_link_and_metrics(server):
    with server.client() as c:
        server.start(c, "a", "spin", networks=["pool", "pool"])
        def nets():
            return c.GetMetrics(name="a").vms[0].networks
        assert [(n.device, n.tap, n.link_up) for n in nets()] == [("net0", "lodge-64735c05", True), ("net1", "lodge-64735c09", True)]
        c.SetVmLink(name="a", network=1, up=False)
        assert [n.link_up for n in nets()] == [True, False]
        text = c.GetMetricsText().text
        assert 'lodge_vm_network_link_up{vm="a",device="net1",tap="lodge-64735c09"} 0\n' in text, text
        c.SetVmLink(name="a", network=1, up=True)
        assert all(n.link_up for n in nets())
        for code, fields in (("NOT_FOUND", dict(name="b")), ("NOT_FOUND", dict(name="a", network=2))):
            expect_rpc_error(code, c.SetVmLink, **fields)
        for words, status, said in ((["a", "down"], 0, ""), (["a", "net1", "down"], 0, ""), (["a", "net7", "up"], 2, "no interface"),
                                    (["a", "on"], 2, "up|down"), (["a", "net3", "up"], 3, "has 2 interfaces")):
            done = subprocess.run([B / "lodge", "link", "--socket", server.socket, *words], capture_output=True, text=True)
            assert done.returncode == status and said in done.stderr, (words, done)
        assert [n.link_up for n in nets()] == [False, False]


# ---- what works for a VM's network beside it

def processes(server, name):
    """Of the server's namespace, by what the kernel calls them; no zombies."""
    mine = os.readlink(f"/proc/{server.process.pid}/ns/net")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                words = stat.read()
            if words[words.index("(") + 1:words.rindex(")")].startswith(name) and " Z " not in words and \
                    os.readlink(f"/proc/{pid}/ns/net") == mine:
                found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def only(server, name, other_than=None):
    """Waits for the one process of that name, and another than one that was."""
    def found():
        pids = processes(server, name)
        return pids[0] if len(pids) == 1 and pids != [other_than] else None
    return until(f"another {name}", found)


def nothing_is_left(server):
    for name in ("passt", "nft", "lodge-keeper"):
        until(f"no {name}", lambda name=name: not processes(server, name))
    until("no tap", lambda: not server.taps())
    until("no rules", lambda: not server.host("nft", "list", "tables"))


def need(*programs):
    for program in programs:
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise Skip(f"{program} is not installed")


def test_nft_that_is_killed_comes_back_with_its_rules(server):
    need("nft")
    with server.client() as c:
        vm = server.start(c, "a", "spin", networks=["pool,nat=on,forward=tcp:8022:22"])
        rules = server.host("nft", "list", "ruleset")
        assert "masquerade" in rules and "dnat ip to 100.115.92.6:22" in rules
        nft = only(server, "nft")
        for _ in range(3):
            os.kill(nft, signal.SIGKILL)
            nft = only(server, "nft", nft)
            until("its rules", lambda: server.host("nft", "list", "ruleset") == rules)
        until("a word in the log", lambda: "rules of lodge-64735c05 are in place again" in server.said())
        assert "nft of lodge-64735c05 has ended (signal 9)" in server.said()
        os.kill(only(server, "lodge-keeper"), signal.SIGKILL)
        until("a word in the log", lambda: "nobody watches nft of lodge-64735c05" in server.said())
        assert server.host("nft", "list", "ruleset") == rules and processes(server, "nft") == [nft]
        os.kill(vm.pid, signal.SIGKILL)
        nothing_is_left(server)


def test_passt_that_is_killed_comes_back(server):
    need("passt")
    server.host("ip", "link", "add", "e0", "type", "veth", "peer", "name", "e1")
    for words in ("address add 192.0.2.2/24 dev e0", "link set e0 up", "link set e1 up", "route add default via 192.0.2.1"):
        server.host("ip", *words.split())
    with server.client() as c:
        vms = [server.start(c, name, "spin", networks=["passt"]) for name in ("a", "b")]
        assert len(processes(server, "passt")) == 2
        assert c.StopVm(name="a", force=True).success
        passt = only(server, "passt")
        os.kill(passt, signal.SIGKILL)
        passt = only(server, "passt", passt)
        until("a word in the log", lambda: "passt has ended (signal 9); it is started again" in server.said())
        os.kill(passt, signal.SIGKILL)
        only(server, "passt", passt)
        os.kill(vms[1].pid, signal.SIGKILL)
        nothing_is_left(server)


def test_of_a_server_that_is_killed_with_its_vms(server):
    need("nft")
    with server.client() as c:
        vm = server.start(c, "a", "spin", networks=["pool,nat=on"])
        server.process.send_signal(signal.SIGSTOP)
        os.kill(vm.pid, signal.SIGKILL)
        nothing_is_left(server)
        server.process.send_signal(signal.SIGCONT)
