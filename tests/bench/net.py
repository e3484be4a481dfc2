"""Packets between a guest and its host: iperf3 both ways, one stream and four, and ping."""
import json
import os
import re
import subprocess
import sys
import threading

HOST, GUEST = "10.99.0.1", "10.99.0.2"
PROGRAM = "/bench-net"

# process 1 of a Debian root that nothing else was started in
INIT = f"""#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmp /tmp
ip address add {GUEST}/24 dev eth0
ip link set lo up
ip link set eth0 up
iperf3 -s -D
echo bench-init: net
while :; do sleep 1000; done
"""


def make_root(folder, debian):
    """Debian's root with that program in it."""
    root, program = os.path.join(folder, "root"), os.path.join(folder, "init")
    subprocess.run(["cp", "--sparse=always", debian, root], check=True)
    with open(program, "w", encoding="ascii") as file:
        file.write(INIT)
    subprocess.run(["debugfs", "-w", "-R", f"write {program} {PROGRAM}", root], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["debugfs", "-w", "-R", f"sif {PROGRAM} mode 0100755", root], check=True, stderr=subprocess.DEVNULL)
    return root


def host_up(tap):
    """The tap is there from here on, for whichever opens it."""
    for words in (["tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"], ["address", "add", f"{HOST}/24", "dev", tap],
                  ["link", "set", tap, "up"]):
        subprocess.run(["ip", *words], check=True)


def host_down(tap):
    subprocess.run(["ip", "link", "del", tap], check=True)


def rate(seconds, *options):
    """Bytes a second that arrived."""
    out = subprocess.run(["iperf3", "-c", GUEST, "-J", "-t", str(seconds), *options], stdout=subprocess.PIPE, check=False)
    end = json.loads(out.stdout).get("end", {})
    if "sum_received" not in end:
        raise SystemExit(f"net: iperf3 {options}: {out.stdout.decode(errors='replace')}")
    return end["sum_received"]["bits_per_second"] / 8


def round_trip_us():
    out = subprocess.run(["ping", "-q", "-c", "300", "-i", "0.005", GUEST], stdout=subprocess.PIPE, check=True)
    return float(re.search(rb"= [\d.]+/([\d.]+)/", out.stdout)[1]) * 1000


def measure(seconds):
    figures = {"ping_us": round_trip_us()}
    for streams in (1, 4):
        figures[f"to_guest_{streams}"] = rate(seconds, "-P", str(streams))
        figures[f"to_host_{streams}"] = rate(seconds, "-R", "-P", str(streams))
    return figures


def once(name, command, seconds):
    output = b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        guard = threading.Timer(300, process.kill)
        guard.start()
        for line in process.stdout:
            output += line
            if b"bench-init: net" in line:
                break
        else:
            sys.exit(f"{name}: the guest does not come up:\n{output.decode(errors='replace')}")
        for pattern, figure in measure(seconds).items():
            print(f"net_{name}_{pattern}", figure, flush=True)
        process.kill()
        guard.cancel()
