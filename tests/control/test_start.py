"""StartVm, GetVmInfo, StopVm: every success and every failure that the reference lists."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from rig import Skip, alive, need_kvm, until  # noqa: F401

KINDS = ["vmm", "serve"]


def refused(server, text, **fields):
    """A StartVm that fails with `text` in its reason, and leaves nothing."""
    with server.client() as c:
        reply = c.StartVm(**fields)
        assert not reply.success and not reply.HasField("vm_info"), reply
        assert text in reply.failure_reason, reply.failure_reason
        assert not c.GetVmInfo(name=fields.get("name", "")).success


def test_name_is_checked(server):
    refused(server, "name is empty", **server.spec())
    refused(server, "name has 65 bytes", name="n" * 65, **server.spec())
    refused(server, "control character", name="a\nb", **server.spec())


def test_too_many_disks(server):
    disks = [dict(path=server.rootfs)] * 24
    refused(server, "24 disks, at most 23", name="a", **server.spec("absent", disks=disks))


def test_kernel_must_exist(server):
    refused(server, "kernel: no path", name="a")
    refused(server, "kernel /absent does not exist", name="a", vm=dict(kernel="/absent", rootfs="/absent2"))
    refused(server, "not absolute", name="a", vm=dict(kernel="vmlinuz"))


def test_kernel_must_be_one(server):
    refused(server, server.rootfs, name="a", vm=dict(kernel=server.rootfs, rootfs=server.rootfs))


def test_rootfs_must_exist(server):
    refused(server, "rootfs /absent does not exist", name="a", **server.spec(vm=dict(rootfs="/absent")))
    refused(server, "rootfs: no path", name="a", **server.spec(vm=dict(rootfs="")))


def test_disks_are_checked_in_order(server):
    absent, odd = dict(path="/absent"), dict(path=server.rootfs, image_type=7)
    refused(server, "disk 0 /absent does not exist", name="a", **server.spec(disks=[absent, odd]))
    refused(server, f"disk 0 {server.rootfs}: unknown image type 7", name="a", **server.spec(disks=[odd, absent]))


def test_mounts_are_checked(server):
    def disk(**fields):
        return dict(path=str(server.disk("d")), do_mount=True, mount_point="/mnt", fstype="ext4") | fields

    refused(server, "mount_point: 'mnt'", name="a", **server.spec(disks=[disk(mount_point="mnt")]))
    refused(server, "mount_point: '/'", name="a", **server.spec(disks=[disk(mount_point="/")]))
    refused(server, "fstype: ''", name="a", **server.spec(disks=[disk(fstype="")]))
    refused(server, "fstype: '../x'", name="a", **server.spec(disks=[disk(fstype="../x")]))
    refused(server, "needs the agent", name="a", **server.spec(vm=dict(no_agent=True), disks=[disk()]))


def never_ready(server, name, **fields):
    """Fields of a StartVm whose guest never says that it is ready: the payload is no Linux."""
    return server.spec(vm=dict(no_initramfs=False), **fields)


def test_guest_that_is_never_ready(server):
    need_kvm()
    with server.client() as c:
        began = time.monotonic()
        reply = c.StartVm(name="a", **never_ready(server, "a", start_timeout_ms=700))
        assert not reply.success and "no agent was ready in the guest within 0.7 s" in reply.failure_reason, reply
        assert 0.7 <= time.monotonic() - began
        assert not c.GetVmInfo(name="a").success


def test_mount_needs_an_agent_that_is_ready(server):
    need_kvm()
    disk = dict(path=str(server.disk("d")), do_mount=True, mount_point="/mnt", fstype="ext4")
    refused(server, "must start lodge-agent", name="a", **server.spec(disks=[disk], start_timeout_ms=300))


def test_guest_ends_before_it_is_ready(server):
    need_kvm()
    refused(server, "the guest ended before it was ready: ", name="a",
            **server.spec("reset", vm=dict(no_initramfs=False)))


def test_stopped_while_it_boots(server):
    need_kvm()
    with server.client() as c, server.client() as other, ThreadPoolExecutor(1) as pool:
        start = pool.submit(lambda: c.StartVm(name="a", **never_ready(server, "a")))
        until("it boots", lambda: other.GetVmInfo(name="a").success)
        info = other.GetVmInfo(name="a").vm_info
        assert info.state == 1 and not info.agent_ready, info
        assert other.StopVm(name="a").success
        assert "stopped while it was starting" in start.result().failure_reason


def test_no_agent_no_vsock(server):
    need_kvm()
    with server.client() as c:
        assert server.start(c, "a", vm=dict(no_agent=True)).cid == 0
        assert c.StopVm(name="a").success


def test_cids_are_not_used_again(server):
    need_kvm()
    if "vmm" in server.kind:
        raise Skip("one VM only")
    with server.client() as c:
        cids = []
        for name in "ab":
            cids.append(server.start(c, name).cid)
            assert c.StopVm(name=name).success
        assert 3 <= cids[0] < cids[1], cids


def test_one_file_as_two_disks(server):
    disk = dict(path=str(server.disk("d")), writable=True)
    refused(server, "two disks", name="a", **server.spec(disks=[disk, disk]))


def test_machine_is_checked(server):
    refused(server, "cpus 65", name="a", **server.spec(cpus=65))
    refused(server, "memory_bytes", name="a", **{**server.spec(), "memory_bytes": 4096})
    refused(server, "transport 9", name="a", **server.spec(transport=9))
    refused(server, "rootfs_partition", name="a", **server.spec(vm=dict(rootfs_partition=129)))
    refused(server, "rootfs_fstype", name="a", **server.spec(vm=dict(rootfs_fstype="../x")))
    refused(server, "command_line", name="a", **server.spec(vm=dict(command_line="x" * 3000)))
    refused(server, "init", name="a", **server.spec(vm=dict(init="sh")))
    refused(server, "serial", name="a", **server.spec(disks=[dict(path=str(server.disk("d")), serial="x" * 21)]))


def test_disk_of_another_is_refused(server):
    need_kvm()
    import fcntl

    path = server.disk("d")
    with open(path, "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        refused(server, str(path), name="a", **server.spec(disks=[dict(path=str(path), writable=True)]))


def test_starts_and_stops(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", cpus=2)
        assert (info.name, info.cpus, info.memory_bytes) == ("a", 2, 64 << 20)
        got = c.GetVmInfo(name="a")
        assert got.success and got.vm_info == info, (got, info)
        assert c.StopVm(name="a").success
        until("the process is gone", lambda: not alive(info.pid))


def test_unknown_names(server):
    with server.client() as c:
        got = c.GetVmInfo(name="nobody")
        assert not got.success and not got.HasField("vm_info")
        stopped = c.StopVm(name="nobody")
        assert not stopped.success and "nobody" in stopped.failure_reason


def test_second_start_of_a_name_is_success(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a")
        assert server.start(c, "a") == info


def test_two_starts_at_once_are_one_vm(server):
    need_kvm()
    with server.client() as c, server.client() as d:
        calls = [(x, x.begin("StartVm", name="a", **server.spec())) for x in (c, d)]
        replies = [x.finish("StartVm", stream) for x, stream in calls]
        assert all(r.success for r in replies), replies
        assert len({r.vm_info.pid for r in replies}) == 1
        server.vms.add(replies[0].vm_info.pid)


def test_guest_that_does_not_heed_the_button(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "spin")
        began = time.monotonic()
        assert c.StopVm(name="a", timeout_ms=300).success
        assert 0.25 < time.monotonic() - began < 5


def test_force_does_not_wait(server):
    need_kvm()
    with server.client() as c:
        server.start(c, "a", "spin")
        began = time.monotonic()
        assert c.StopVm(name="a", force=True).success
        assert time.monotonic() - began < 2


def test_guest_that_ends_by_itself(server):
    need_kvm()
    with server.client() as c:
        reply = c.StartVm(name="a", **server.spec("hello"))
        assert reply.success
        server.vms.add(reply.vm_info.pid)
        until("the process is gone", lambda: not alive(reply.vm_info.pid))


def test_read_only_disk_is_so_in_the_device(server):
    need_kvm()
    disk = server.disk("d")
    with server.client() as c:
        info = server.start(c, "a", disks=[dict(path=str(disk))])
        modes = [open(f"/proc/{info.pid}/fdinfo/{fd}").read() for fd in os.listdir(f"/proc/{info.pid}/fd")
                 if os.readlink(f"/proc/{info.pid}/fd/{fd}") == str(disk)]
        assert modes and all(int(m.split("flags:")[1].split()[0], 8) & os.O_ACCMODE == os.O_RDONLY for m in modes)


def test_a_raw_file_is_no_qcow2(server):
    disk = dict(path=str(server.disk("d")), image_type=1)
    refused(server, str(disk["path"]), name="a", **server.spec(disks=[disk]))


def test_vm_that_is_killed(server):
    need_kvm()
    with server.client() as c:
        info = server.start(c, "a", "spin")
        os.kill(info.pid, 9)
        if server.kind == "serve":
            until("it has left the table", lambda: not c.GetVmInfo(name="a").success)
