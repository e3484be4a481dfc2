"""A guest started until its agent has mounted a disk, by lodge and by QEMU with the same kernel, init and agent; and what
the agent takes. No protobuf here: the host that runs this has none."""
import os
import re
import socket
import statistics
import struct
import subprocess
import time

import cpio
import vmms

AGENT_PORT, READY_PORT = 8888, 7777
BUSYBOX = "/bin/busybox"
EXECS = 30


def field(number, value):
    """A string or a number of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def mount(cid):
    """One Mount, as proto/agent.proto and ttrpc have it; returns when it is answered."""
    message = field(1, "/dev/vdb") + field(2, "/srv") + field(3, "ext4") + field(7, 10000)
    request = field(1, "lodge.agent.v1.Agent") + field(2, "Mount") + field(3, message)
    with socket.socket(socket.AF_VSOCK) as agent:
        agent.settimeout(60)
        agent.connect((cid, AGENT_PORT))
        agent.sendall(struct.pack(">IIBB", len(request), 1, 1, 0) + request)
        answer = agent.recv(4096)
    if field(1, field(1, 0))[:1] == answer[10:11] and len(answer) > 12:
        raise SystemExit(f"start: the mount failed: {answer!r}")


def images(folder):
    """A root without programs, and a disk."""
    tree, root, data = (os.path.join(folder, name) for name in ("tree", "root", "data"))
    for name in ("dev", "proc", "sys", "run", "tmp", "srv"):
        os.makedirs(os.path.join(tree, name))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, root, "16M"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", data, "16M"], check=True, stdout=subprocess.DEVNULL)
    return root, data


def initramfs(folder):
    """What lodge makes for such a kernel."""
    path = os.path.join(folder, "start.cpio")
    files = {"init": open("build/guest/init/init", "rb").read(), "lodge-agent": open("build/lodge-agent", "rb").read()}
    conf = f"root=/dev/vda\nrootfstype=ext4\nrootflags=ro\nready=vsock:{READY_PORT}\n"
    with open(path, "wb") as archive:
        for name in ("dev", "proc", "sys", "newroot"):
            archive.write(cpio.entry(name, 0o040755))
        archive.write(cpio.entry("dev/console", 0o020600, device=(5, 1)))
        for name, data in files.items():
            archive.write(cpio.entry(name, 0o100755, data))
        archive.write(cpio.entry("lodge.conf", 0o100644, conf.encode()) + cpio.entry("TRAILER!!!", 0))
    return path


def qemu(kernel, initrd, root, data, cid):
    with socket.socket(socket.AF_VSOCK) as ready:
        ready.bind((socket.VMADDR_CID_ANY, READY_PORT))
        ready.listen()
        ready.settimeout(60)
        command = vmms.qemu_microvm(kernel, initrd, "", 128) + [
            "-global", "virtio-mmio.force-legacy=false", "-device", f"vhost-vsock-device,guest-cid={cid}"]
        for name, path, mode in (("a", root, "on"), ("b", data, "off")):
            command += ["-drive", f"id={name},file={path},format=raw,if=none,readonly={mode}", "-device",
                        f"virtio-blk-device,drive={name}"]
        began = time.monotonic()
        with open(data + ".console", "wb+") as console, \
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console) as process:
            try:
                ready.accept()[0].close()
                mount(cid)
                return time.monotonic() - began
            except OSError as error:
                console.seek(0)
                raise SystemExit(f"start: QEMU's guest: {error}:\n{console.read().decode(errors='replace')}") from error
            finally:
                process.kill()


def lodge(socket_path, kernel, root, data):
    run = ["build/lodge", "start", "--socket", socket_path, "a", "--kernel", kernel, "--memory", "128M", "--root",
           f"path={root},format=raw,ro=on", "--disk", f"path={data},format=raw,mount=/srv", "--start-timeout", "120"]
    began = time.monotonic()
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def agent_figures(ask):
    """Of the agent of the VM that runs: a program's start and end in seconds, memory of its own in bytes."""
    ask("cp", BUSYBOX, "a:/run/true")
    ask("cp", BUSYBOX, "a:/run/busybox")
    spent = []
    for _ in range(EXECS):
        began = time.monotonic()
        ask("exec", "a", "--", "/run/true")
        spent.append(time.monotonic() - began)
    pid = re.search(r"^\s*(\d+) .*lodge-agent", ask("exec", "a", "--", "/run/busybox", "ps", "-o", "pid,args"), re.M)[1]
    status = ask("cp", f"a:/proc/{pid}/status", "-")
    anonymous, all_of_it = (int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) << 10 for name in ("RssAnon", "VmRSS"))
    return statistics.median(spent), anonymous, all_of_it


def measure(folder, rounds, kernel):
    """Prints start_lodge and start_qemu in ns, exec_ns, agent_anonymous_bytes and agent_rss_bytes."""
    root, data = images(folder)
    initrd, server = initramfs(folder), os.path.join(folder, "socket")
    os.makedirs(os.path.join(folder, "vms"))
    os.makedirs(os.path.join(folder, "storage"))

    def ask(command, *words):
        return subprocess.run(["build/lodge", command, "--socket", server, *words] if command != "exec" else
                              ["build/lodge", "exec", "--socket", server, *words], check=True, capture_output=True,
                              text=True).stdout

    with subprocess.Popen(["build/lodge", "serve", "--socket", server, "--runtime-dir", os.path.join(folder, "vms"),
                           "--storage-root", os.path.join(folder, "storage")]) as daemon:
        try:
            while not os.path.exists(server):
                time.sleep(0.01)
            for n in range(rounds):
                print("start_qemu", qemu(kernel, initrd, root, data, 4000 + n) * 1e9, flush=True)
                print("start_lodge", lodge(server, kernel, root, data) * 1e9, flush=True)
                if n == rounds - 1:
                    exec_s, anonymous, all_of_it = agent_figures(ask)
                    print("exec", exec_s * 1e9)
                    print("agent_anonymous", anonymous)
                    print("agent_rss", all_of_it)
                ask("stop", "a", "--force")
        finally:
            daemon.terminate()
