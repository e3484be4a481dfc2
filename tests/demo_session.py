"""The demo on the host that has KVM: runs `lodge run` on a copy of a Debian disk and types into it."""
import os
import re
import subprocess
import sys
import tempfile
import time

# what to wait for on the console, and what to type then
SCRIPT = [
    (rb"login: $", b"root\n"),
    (rb"[#$] $", b"uname -srm; head -n 1 /etc/os-release; lsblk -o NAME,SIZE,TYPE,MOUNTPOINTS\n"),
    (rb"[#$] $", b"systemctl poweroff\n"),
]
TIMEOUT_S = 240


def main():
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        disk = os.path.join(folder, "debian.img")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", os.environ["LODGE_GUEST_ROOT"], disk], check=True)
        command = ["build/lodge", "run", "--kernel", os.environ["LODGE_GUEST_KERNEL"],
                   "--modules", os.environ["LODGE_GUEST_MODULES"],
                   "--root", f"path={disk},format=raw", "--cpus", "2", "--memory", "512M"]
        print("$ " + " ".join(command), flush=True)
        start = time.monotonic()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            steps, recent = list(SCRIPT), b""
            while True:
                data = os.read(process.stdout.fileno(), 65536)
                if not data or time.monotonic() - start > TIMEOUT_S:
                    break
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                # escape sequences of a prompt hide its end
                recent = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", recent + data)[-4096:]
                if steps and re.search(steps[0][0], recent):
                    process.stdin.write(steps.pop(0)[1])
                    process.stdin.flush()
                    recent = b""
            if process.poll() is None and time.monotonic() - start > TIMEOUT_S:
                process.kill()
        if steps or process.returncode:
            sys.exit(f"demo: ended with status {process.returncode}, {len(steps)} step(s) not reached")
        print(f"\ndemo: the guest booted, ran the command and switched itself off in "
              f"{time.monotonic() - start:.1f} s; lodge's exit status is 0")


if __name__ == "__main__":
    main()
