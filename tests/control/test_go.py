"""The example in Go, over containerd/ttrpc: the client that most of this protocol's users have."""

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess

from rig import TOP, DEADLINE_S, Skip, alive, need_kvm, payload_file, until

KINDS = ["serve"]
BUILD_S = 500


def program():
    """Built once, by what Debian has."""
    for tool in ("go", "protoc-gen-go"):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed; `make deps` installs it")
    if not pathlib.Path("/usr/share/gocode/src/github.com/containerd/ttrpc").exists():
        raise Skip("golang-github-containerd-ttrpc-dev is not installed; `make deps` installs it")
    out = TOP / "build/go-vm"
    sources = [*(TOP / "clients/go").iterdir(), *(TOP / "proto").glob("*.proto")]
    with open(TOP / "build/go-lock", "w") as lock:  # by one test at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists() or any(s.stat().st_mtime > out.stat().st_mtime for s in sources):
            subprocess.run([TOP / "clients/go/build", out], check=True, timeout=BUILD_S,
                           env={**os.environ, "GOCACHE": str(TOP / "build/go-cache")})
    return out


def begin(server, name, *options, payload="button"):
    pipe = subprocess.PIPE
    return subprocess.Popen([program(), "-socket", server.socket, "-no-initramfs", *options, name,
                             payload_file(payload), server.rootfs], stdout=pipe, stderr=pipe, text=True)


def test_start_and_stop(server):
    need_kvm()
    process = begin(server, "a")
    line = process.stdout.readline()
    assert line.startswith("a: VM_STATE_RUNNING, process "), line + process.stderr.read()
    pid = int(line.split()[-1])
    with server.client() as c:
        assert c.GetVmInfo(name="a").vm_info.pid == pid
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0 and out.startswith("a: VM_END_STOPPED: ") and not said, (out, said)
        assert not c.GetVmInfo(name="a").success
    until("its process is gone", lambda: not alive(pid))


def test_stop_after_a_time(server):
    need_kvm()
    out, said = begin(server, "a", "-for", "200ms").communicate(timeout=DEADLINE_S)
    assert "VM_END_STOPPED" in out and not said, (out, said)


def test_end_by_itself(server):
    need_kvm()
    process = begin(server, "a")
    assert "RUNNING" in process.stdout.readline()
    with server.client() as c:
        assert c.StopVm(name="a").success
    out, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0 and out.startswith("a: VM_END_"), (out, said)


def test_start_that_fails(server):
    process = begin(server, "a", payload="absent")
    out, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1 and "absent.elf does not exist" in said and not out, (out, said)
