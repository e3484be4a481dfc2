"""A directory of the host in a guest, beside the same one served by the kernel's own NFS server and a disk of the guest's:
256 MiB written and read, a tree of small files made, read and removed. All three are in one guest, one after the other."""
import os
import subprocess
import sys

MIB = 256
FILES_IN_ONE = 100
# Where the guest's network is, and where the kernel's server listens: the share's has the usual port.
SUBNET, NFSD_PORT = "10.99.1.0/29", 20490
NOBODY = 65534

SCRIPT = """
set -e
timed() {
	local start=${EPOCHREALTIME/./} key=$1
	shift
	"$@"
	echo "share_${subject}_$key $(((${EPOCHREALTIME/./} - start) * 1000))"
}
forget() { sync; echo 3 >/proc/sys/vm/drop_caches; }
make() {
	perl -e 'for $d (1 .. %(folders)d) { mkdir $d or die; for (1 .. %(in_one)d) { open(F, ">", "$d/$_") or die; print F "x" x 1024; close(F) or die } }'
	sync -f .
}
look() {
	perl -e 'for $d (1 .. %(folders)d) { for (1 .. %(in_one)d) { open(F, "<", "$d/$_") or die; read(F, $b, 4096) == 1024 or die; close F } }'
}
remove() { rm -r [0-9]*; sync -f .; }

# as the share is mounted, from the other server
read -r from _ _ options _ <<<"$(grep ' /srv/share nfs4 ' /proc/mounts)"
mkdir -p /srv/nfsd
mount -i -t nfs4 -o "$(sed 's/,port=[0-9]*//; s/,clientaddr/,port=%(port)d&/' <<<"$options")" "${from%%%%:*}:/" /srv/nfsd

for ((round = 0; round < %(rounds)d; round++)); do
	for subject in share nfsd disk; do
		cd /srv/$subject
		timed write dd if=/dev/zero of=large bs=1M count=%(mib)d conv=fsync status=none
		forget
		timed read dd if=large of=/dev/null bs=1M status=none
		rm large
		timed make make
		forget
		timed look look
		timed remove remove
		cd /
	done
done
"""


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def serve_by_kernel(path):
    run("modprobe", "nfsd")
    if not os.path.exists("/proc/fs/nfsd/threads"):
        run("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    run("exportfs", "-i", "-o", f"rw,all_squash,anonuid={NOBODY},anongid={NOBODY},no_subtree_check,fsid=0,insecure", f"{SUBNET}:{path}")
    run("rpc.nfsd", "-p", str(NFSD_PORT), "-N", "3", "8")
    run("rpc.mountd", "-N", "3")
    # nobody has anything to claim again
    with open("/proc/fs/nfsd/v4_end_grace", "w", encoding="ascii") as file:
        file.write("Y")


def stop_the_kernels():
    run("rpc.nfsd", "0")
    run("exportfs", "-ua")


def measure(folder, files, rounds, kernel, debian):
    """Prints share_SUBJECT_WHAT in ns; SUBJECT is share, nfsd or disk."""
    share, nfsd, disk, root = (os.path.join(folder, name) for name in ("share", "nfsd", "disk", "root"))
    for path in (share, nfsd):
        os.mkdir(path)
        os.chown(path, NOBODY, NOBODY)
    os.chmod(folder, 0o755)
    run("mke2fs", "-q", "-t", "ext4", disk, "1G")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", debian, "-F", "raw", root)
    serve_by_kernel(nfsd)
    script = SCRIPT % {"folders": files // FILES_IN_ONE, "in_one": FILES_IN_ONE, "port": NFSD_PORT, "rounds": rounds, "mib": MIB}
    command = ["build/lodge", "run", "--kernel", kernel, "--root", f"path={root},format=qcow2,backing=on", "--init", "/bin/sleep",
               "--cmdline", "-- infinity", "--memory", "512M", "--net", f"pool,subnets={SUBNET}", "--start-timeout", "300",
               "--share", f"path={share},mount=/srv/share", "--disk", f"path={disk},format=raw,mount=/srv/disk",
               "--console", "none", "--log", "error", "--exec", f"bash -c {quoted(script)}"]
    try:
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
            sys.exit("share: the guest has failed")
    finally:
        stop_the_kernels()


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"
