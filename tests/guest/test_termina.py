"""start_termina with a component made of Debian's packages, down to a container that the host reaches."""
import functools
import hashlib
import http.server
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import time

from harness import DEADLINE_S, LODGE, check, environment, equal, run_tool, test

from test_serve import serving, until

MIB, GIB = 1 << 20, 1 << 30
START_S = 60 + 2 * DEADLINE_S  # emulated, and on shared processors
BUSYBOX = "/bin/busybox"

INIT = """#!/bin/busybox sh
B=/bin/busybox
$B ip link set lo up
$B ip link set eth0 up
echo "started $(( $($B cat /starts 2>/dev/null || echo 0) + 1 ))"
echo $(( $($B cat /starts 2>/dev/null || echo 0) + 1 )) >/starts
$B httpd -p 80 -h /www
exec $B udhcpc -f -i eth0 -s /dhcp -t 100 -T 1
"""
DHCP = """#!/bin/busybox sh
B=/bin/busybox
case $1 in bound | renew) ;; *) exit 0 ;; esac
$B ip addr flush dev eth0
$B ip addr add "$ip/$mask" dev eth0
$B ip route add default via "$router"
"""
METADATA = f'architecture: {os.uname().machine}\ncreation_date: 1\nproperties: {{os: busybox, description: "made by a test"}}\n'


def container_image(path):
    """An image as `lxc image import` takes it, with a busybox for all."""
    with tarfile.open(path, "w") as tar:
        def folder(name):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)

        def file(name, data, mode=0o755):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))

        file("metadata.yaml", METADATA.encode(), 0o644)
        for name in ("", "/bin", "/sbin", "/dev", "/proc", "/sys", "/run", "/tmp", "/etc", "/www"):
            folder("rootfs" + name)
        with open(BUSYBOX, "rb") as busybox:
            file("rootfs/bin/busybox", busybox.read())
        file("rootfs/sbin/init", INIT.encode())
        file("rootfs/dhcp", DHCP.encode())
        file("rootfs/www/index.html", b"of the container\n", 0o644)


def component(context, root=None):
    folder = context.path("components")
    if not os.path.isdir(folder):
        run_tool(LODGE, "component", "install", "--kernel", environment("LODGE_GUEST_KERNEL"),
                 "--modules", environment("LODGE_GUEST_MODULES"), "--root", root or environment("LODGE_GUEST_TERMINA"),
                 "--component-root", folder)
    return folder


def termina(server, name, disk, *arguments, fails=False):
    """Starts one; returns its info, or what was said."""
    words = ("start", name, "--termina", "--disk", f"path={disk},format=raw", "--memory", "1536M", "--cpus", "2",
             "--start-timeout", int(START_S), *arguments)
    done = subprocess.run([LODGE, words[0], "--socket", server.socket, *map(str, words[1:])], capture_output=True, text=True,
                          timeout=START_S + DEADLINE_S, check=False)
    equal(done.returncode, 1 if fails else 0, f"lodge start --termina: {done.stdout}{done.stderr}: exit status")
    return done.stderr if fails else json.loads(server.run("info", name, "--json"))


def lxc(server, name, *words):
    return server.run("exec", "--env", "LXD_DIR=/mnt/stateful/lxd", "--env", "LXD_CONF=/run/lodge-lxc", name, "--", "lxc", *words)


def address_in(subnet, server, name, container):
    """Of the container, once it has one of this network."""
    prefix, first = subnet.rsplit("/", 1)[0].rsplit(".", 1)

    def look():
        state = json.loads(lxc(server, name, "query", f"/1.0/instances/{container}/state"))
        for address in (state["network"] or {}).get("eth0", {}).get("addresses", []):
            if address["family"] == "inet" and address["scope"] == "global":
                start, last = address["address"].rsplit(".", 1)
                if start == prefix and int(first) < int(last) < int(first) + 15:
                    return address["address"]
        return None

    try:
        return until("the container's address", look, 2 * DEADLINE_S)
    except Exception:
        print(lxc(server, name, "list"), lxc(server, name, "info", "--show-log", container), flush=True)
        raise


def fetched(address):
    """What the container's web server says."""
    def ask():
        try:
            with socket.create_connection((address, 80), 10) as s:
                s.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                return b"".join(iter(functools.partial(s.recv, 4096), b""))
        except OSError:
            return None
    return until(f"{address} answers", ask)


def seen_from(server, name, container, address):
    """The address from which the container reaches the host at `address`."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.client_address[0])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer((address, 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        lxc(server, name, "exec", container, "--", "/bin/busybox", "wget", "-q", "-O", "/dev/null",
            f"http://{address}:{web.server_port}/")
        web.shutdown()
    return seen


def reached(server, name, subnet, starts):
    address = address_in(subnet, server, name, "c")
    run_tool("ping", "-c", "2", "-W", "20", address)
    check(b"of the container" in fetched(address), "the container's page")
    host = ".".join(str(int(n)) for n in host_of(name, server).split("."))
    equal(seen_from(server, name, "c", host), [address], "whom the host sees")
    equal(lxc(server, name, "exec", "c", "--", "/bin/busybox", "cat", "/starts").split(), [str(starts)], "starts of the container")
    return address


def host_of(name, server):
    """The host's end of the VM's network."""
    raw = json.loads(server.run("info", name, "--json"))["ipv4_address"]
    return socket.inet_ntoa((int.from_bytes(raw.to_bytes(4, "little"), "big") - 1).to_bytes(4, "big"))


def routes():
    return run_tool("ip", "route").splitlines()


@test()
def containers(context):
    """Made once, found again: LXD, a container that is reached, and another network at the next start."""
    disk = context.disk("stateful", 6 * GIB)
    image = context.path("busybox.tar")
    container_image(image)
    with serving(context, "--component-root", component(context)) as server:
        began = time.monotonic()
        info = termina(server, "t", disk)
        first_s = time.monotonic() - began
        subnet = info["container_subnet"]
        check(any(line.startswith(f"{subnet} via 100.115.92.") for line in routes()), f"{subnet} is not routed: {routes()}")
        server.run("cp", image, "t:/mnt/stateful/busybox.tar")
        lxc(server, "t", "image", "import", "/mnt/stateful/busybox.tar", "--alias", "busybox")
        lxc(server, "t", "launch", "busybox", "c")
        reached(server, "t", subnet, 1)
        lxc(server, "t", "profile", "set", "default", "user.mine", "kept")
        server.run("stop", "t", "--timeout", 120)
        check(not any(subnet in line for line in routes()), f"{subnet} is still routed")

        run_tool("ip", "route", "add", "blackhole", subnet)  # another has it meanwhile
        try:
            began = time.monotonic()
            again = termina(server, "t", disk)["container_subnet"]
            print(f"     | start {first_s:.1f} s, again {time.monotonic() - began:.1f} s", flush=True)
        finally:
            run_tool("ip", "route", "del", "blackhole", subnet)
        check(again != subnet, "it is the network that another has")
        equal(lxc(server, "t", "profile", "get", "default", "user.mine").strip(), "kept", "a profile that was changed")
        first = again.split("/", 1)[0].rsplit(".", 1)
        equal(lxc(server, "t", "network", "get", "lxdbr0", "ipv4.address").strip(), f"{first[0]}.{int(first[1]) + 1}/28", "of lxdbr0")
        lxc(server, "t", "restart", "--force", "c")
        reached(server, "t", again, 3)
        server.run("stop", "t", "--timeout", 120)


@test()
def another_file_system(context):
    """A stateful disk that holds something else is left as it is, and named."""
    disk = context.disk("stateful", 64 * MIB)
    run_tool("mke2fs", "-q", "-t", "ext4", disk)
    with open(disk, "rb") as file:
        before = hashlib.sha256(file.read()).hexdigest()
    with serving(context, "--component-root", component(context)) as server:
        said = termina(server, "t", disk, fails=True)
        check("/mnt/stateful as btrfs" in said and "it holds ext4" in said, said)
        equal(server.names(), [], "VMs")
    with open(disk, "rb") as file:
        equal(hashlib.sha256(file.read()).hexdigest(), before, "the disk")


@test()
def lxd_that_does_not_start(context):
    """The step is named, in time, and the VM is gone."""
    disk, tree = context.disk("stateful", 512 * MIB), context.path("tree")
    os.makedirs(os.path.join(tree, "lxd"))
    with open(os.path.join(tree, "lxd", "database"), "w", encoding="utf-8") as file:
        file.write("no folder")
    run_tool("mkfs.btrfs", "-q", "--rootdir", tree, disk)
    with serving(context, "--component-root", component(context)) as server:
        said = termina(server, "t", disk, fails=True)
        check("termina: waiting for LXD, in the guest: it has ended" in said, said)
        equal(server.names(), [], "VMs")


@test()
def a_root_without_lxd(context):
    with serving(context, "--component-root", component(context, environment("LODGE_GUEST_ROOT"))) as server:
        said = termina(server, "t", context.disk("stateful", 512 * MIB), fails=True)
        check("/mnt/stateful" in said, said)
        equal(server.names(), [], "VMs")
