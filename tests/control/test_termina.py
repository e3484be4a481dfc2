"""start_termina as far as it goes without a guest, and networks of containers. Each server in a network namespace of its own."""
import os
import shutil
import signal
import threading

from rig import payload_file, until

from test_network import Alone
from test_start import refused

KINDS = ["serve", "vmm"]
NETWORKS = [f"100.115.92.{n}/28" for n in (192, 208, 224, 240)]


class Termina(Alone):
    """With a component that halts for ever."""

    def __init__(self, kind, *args):
        super().__init__(kind, *args)
        self.components = self.dir / "components"
        self.args += ["--component-root", str(self.components)]

    def component(self, version, kernel=True, rootfs=b"\x53\xef"):
        folder = self.components / "cros-termina" / version
        folder.mkdir(parents=True)
        if kernel:
            shutil.copy(payload_file("spin"), folder / "vm_kernel")
        if rootfs is not None:
            (folder / "vm_rootfs.img").write_bytes(bytes(1080) + rootfs + bytes(131072 - 1080 - len(rootfs)))
        return folder

    def stateful(self):
        return dict(path=str(self.disk("stateful.img")), writable=True)

    def routes(self):
        return [line.split()[0] for line in self.host("ip", "route").splitlines() if "/28" in line]


SERVER = Termina


def test_without_a_component(server):
    ask = dict(name="a", start_termina=True)
    refused(server, f"no component is installed in {server.components}/cros-termina; install one: `lodge component install", **ask)
    folder = server.component("3.0", kernel=False)
    refused(server, f"{folder} is incomplete: it has no vm_kernel; remove it, or install one: `lodge component", **ask)
    shutil.copy(payload_file("spin"), folder / "vm_kernel")
    (folder / "vm_rootfs.img").write_bytes(bytes(4096))
    refused(server, f"{folder}/vm_rootfs.img has no file system", **ask)
    server.component("12")
    (server.components / "cros-termina" / "latest").mkdir()
    refused(server, "the first of `disks` is the stateful one", **ask)
    folder = server.component("12.0.1", rootfs=None)
    refused(server, f"{folder} is incomplete: it has no vm_rootfs.img", **ask)


def test_disks_and_networks_are_checked(server):
    server.component("1")
    disk = server.stateful()
    ask = dict(name="a", start_termina=True)
    refused(server, "must be there and writable", disks=[dict(disk, writable=False)], **ask)
    refused(server, "mounts it on /mnt/stateful as btrfs; leave do_mount out", **ask,
            disks=[dict(disk, do_mount=True, mount_point="/data", fstype="btrfs")])
    refused(server, "mounts it on /mnt/stateful as btrfs", **ask,
            disks=[dict(disk, do_mount=True, mount_point="/mnt/stateful", fstype="ext4")])
    refused(server, "disk 0 /absent does not exist", disks=[dict(path="/absent", writable=True)], **ask)
    for word in ("none", "passt", "tap=t0"):
        refused(server, "containers need an interface of the pool", disks=[disk], networks=[word], **ask)
    assert not server.taps() and not server.routes()


def test_vm_is_ignored_and_nothing_stays_of_a_start_that_fails(server):
    folder = server.component("1")
    with server.client() as c:
        replies = []
        ask = dict(name="a", start_termina=True, vm=dict(kernel="/absent", rootfs="/absent", no_agent=True),
                   disks=[server.stateful()], start_timeout_ms=2500, memory_bytes=128 << 20)
        thread = threading.Thread(target=lambda: replies.append(c.StartVm(**ask)))
        thread.start()
        with server.client() as other:
            until("it boots", server.routes)
            if server.kind == "vmm":  # a server knows it when it has started
                until("it runs", lambda: other.GetVmInfo(name="a").vm_info.cid)
                info = other.GetVmInfo(name="a").vm_info
                assert info.container_subnet == NETWORKS[0]
                assert list(info.disk_paths) == [str(folder / "vm_rootfs.img"), str(server.dir / "stateful.img")]
            assert server.routes() == NETWORKS[:1]
            route = server.host("ip", "route", "get", "100.115.92.200")
            assert "via 100.115.92.6 dev lodge-64735c05" in route, route
        thread.join()
        assert not replies[0].success and "no agent was ready in the guest within 2.5 s" in replies[0].failure_reason
    until("nothing is left", lambda: not server.taps() and not server.routes())


def test_networks_are_used_up_and_given_back(server):
    words = ["pool,containers=on"]
    with server.client() as c:
        vms = [server.start(c, f"vm{n}", "spin", networks=words) for n in range(4)]
        assert [vm.container_subnet for vm in vms] == NETWORKS
        assert server.routes() == NETWORKS
        late = c.StartVm(name="late", **server.spec("spin", networks=words))
        assert not late.success and "all 4 networks for containers (/28, from 100.115.92.192 on) are in use; stop a VM" \
            in late.failure_reason, late
        assert len(server.taps()) == 4
        assert not server.start(c, "plain", "spin", networks=["pool"]).container_subnet
        assert c.StopVm(name="vm1", force=True).success
        os.kill(vms[3].pid, signal.SIGKILL)
        until("its end", lambda: not c.GetVmInfo(name="vm3").success and len(server.routes()) == 2)
        assert {server.start(c, name, "spin", networks=words).container_subnet for name in "xy"} == {NETWORKS[1], NETWORKS[3]}


test_networks_are_used_up_and_given_back.kinds = ["serve"]


def test_networks_of_vms_that_outlive_their_server(server):
    words = ["pool,containers=on"]
    with server.client() as c:
        a = server.start(c, "a", "spin", networks=words)
    path = f"/proc/{a.pid}/ns/net"
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.before = ["nsenter", f"--net={path}"]
    server.begin()
    with server.client() as c:
        assert c.GetVmInfo(name="a").vm_info.container_subnet == NETWORKS[0]
        assert server.start(c, "b", "spin", networks=words).container_subnet == NETWORKS[1]
        assert c.StopVm(name="a", force=True).success
        assert server.routes() == NETWORKS[1:2]


test_networks_of_vms_that_outlive_their_server.kinds = ["serve"]


def test_what_the_host_has_is_passed_over(server):
    server.host("ip", "link", "add", "other", "type", "bridge")
    server.host("ip", "address", "add", "100.115.92.201/32", "dev", "other")
    server.host("ip", "link", "set", "other", "up")
    server.host("ip", "route", "add", NETWORKS[1], "dev", "other")
    with server.client() as c:
        assert server.start(c, "a", "spin", networks=["pool,containers=on"]).container_subnet == NETWORKS[2]


test_what_the_host_has_is_passed_over.kinds = ["vmm"]


def test_containers_belong_to_the_pool(server):
    with server.client() as c:
        for word, text in (("tap=t0,containers=on", "containers=on belongs to pool"), ("pool,containers=2", "neither on nor off")):
            reply = c.StartVm(name="a", **server.spec("spin", networks=[word]))
            assert not reply.success and text in reply.failure_reason, reply


test_containers_belong_to_the_pool.kinds = ["vmm"]
