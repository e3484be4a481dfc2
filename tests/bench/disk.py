"""The host's side of a disk without a guest: our qcow2 beside our raw and beside `qemu-img bench`.

Every subject makes the same requests at the same offsets through io_uring: on tmpfs, where nothing
but the driver costs time, and, with O_DIRECT, on the disk under TMPDIR (/var/tmp). The runs take
turns; a figure is the median.
"""
import os
import re
import statistics
import subprocess
import tempfile

MIB = 1 << 20
DISK_MIB = 256
STEP = 65536 + 4096  # another cluster with every request, and all parts of clusters in the end


def run(*command):
    out = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if out.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, command))}:\n{out.stdout.decode(errors='replace')}")
    return out.stdout.decode()


def lodge(path, image_format, load, direct):
    options = [f"{key}={value}" for key, value in load.items()]
    nanoseconds = int(run("build/bench/disk_bench", f"format={image_format}", f"direct={'on' if direct else 'off'}",
                          *options, path))
    return load["count"] * 1e9 / nanoseconds


def qemu(path, image_format, load, direct):
    command = ["qemu-img", "bench", "-f", image_format, "-i", "io_uring", "-t", "none" if direct else "writeback",
               "-c", load["count"], "-d", load["depth"], "-s", load["size"], "-S", load["step"]]
    if load["op"] == "write":
        command += ["-w"] + ([f"--flush-interval={load['flush']}"] if "flush" in load else [])
    seconds = re.search(r"Run completed in ([0-9.]+) seconds", run(*command, path)).group(1)
    return load["count"] / max(float(seconds), 1e-3)


def fill_random(path):
    with open(path, "wb") as flat:
        for _ in range(DISK_MIB):
            flat.write(os.urandom(MIB))


def fill_files(path):
    """What disks hold: the programs and libraries of this machine, from the start again if need be."""
    left = DISK_MIB * MIB
    with open(path, "wb") as flat:
        while left:
            for folder, _, names in sorted(os.walk("/usr")):
                for name in sorted(names):
                    file = os.path.join(folder, name)
                    if left and os.path.isfile(file) and os.access(file, os.R_OK):
                        with open(file, "rb") as source:
                            data = source.read(left)
                        left -= flat.write(data)


def images(folder):
    """Everything is made by qemu-img, so that both read what neither favours."""
    at = {name: os.path.join(folder, name) for name in ("raw", "qcow2", "zlib", "zstd", "empty", "strewn")}
    flat = os.path.join(folder, "flat")
    fill_random(at["raw"])
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", at["raw"], at["qcow2"])
    fill_files(flat)
    for kind in ("zlib", "zstd"):
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}", flat, at[kind])
    os.unlink(flat)
    # clusters in another order than the disk's, so that a large request meets many extents
    run("qemu-img", "create", "-q", "-f", "qcow2", at["strewn"], f"{DISK_MIB}M")
    lodge(at["strewn"], "qcow2", load_of("write", DISK_MIB * MIB // 65536, 65536, 9 * 65536, 1), False)
    return at


def first_write(tool):
    """Into a new image each time."""
    def measure(path, image_format, load, direct):
        if os.path.exists(path):
            os.unlink(path)
        run("qemu-img", "create", "-q", "-f", "qcow2", path, f"{DISK_MIB}M")
        return tool(path, image_format, load, direct)
    return measure


def rounds(subjects, load, direct, count):
    """subjects: name -> (tool, path, format); each in turn, `count` times."""
    figures = {name: [] for name in subjects}
    for _ in range(count):
        for name, (tool, path, image_format) in subjects.items():
            figures[name].append(tool(path, image_format, load, direct))
    return {name: statistics.median(values) for name, values in figures.items()}


def load_of(operation, count, size=4096, step=STEP, depth=16, **more):
    return {"op": operation, "count": count, "size": size, "step": step, "depth": depth, **more}


def transfers(folder, direct, quick):
    at, where = images(folder), "O_DIRECT" if direct else "tmpfs"
    scale, count = (1 if direct else 8) / (4 if quick else 1), 3 if quick else 7
    ours, theirs = (lodge, at["qcow2"], "qcow2"), (qemu, at["qcow2"], "qcow2")
    both = {"lodge": ours, "lodge raw": (lodge, at["raw"], "raw"), "qemu": theirs}
    new = {"lodge": (first_write(lodge), at["empty"], "qcow2"), "qemu": (first_write(qemu), at["empty"], "qcow2")}
    clusters = DISK_MIB * MIB // 65536
    plan = [(f"read 4k, depth {depth}", both, load_of("read", int(20000 * scale), depth=depth)) for depth in (1, 16)]
    strewn = {"lodge": (lodge, at["strewn"], "qcow2"), "qemu": (qemu, at["strewn"], "qcow2")}
    plan += [("read 1M, depth 4", both, load_of("read", int(1000 * scale), MIB, MIB, 4)),
             ("read 1M of strewn clusters, depth 1", strewn, load_of("read", int(500 * scale), MIB, MIB, 1)),
             ("overwrite 1M of strewn clusters", strewn, load_of("write", int(500 * scale), MIB, MIB, 1)),
             ("overwrite 4k, depth 16", both, load_of("write", int(20000 * scale))),
             ("overwrite 1M, depth 4", both, load_of("write", int(1000 * scale), MIB, MIB, 4)),
             ("first write 4k, depth 16", new, load_of("write", clusters)),
             ("first write 4k, flush every 32", new, load_of("write", clusters, flush=32)),
             ("first write 64k, depth 8", new, load_of("write", clusters, 65536, 65536, 8)),
             ("first write 1M, depth 4", new, load_of("write", DISK_MIB, MIB, MIB, 4))]
    for kind in ("zlib", "zstd"):
        pair = {"lodge": (lodge, at[kind], "qcow2"), "qemu": (qemu, at[kind], "qcow2")}
        plan += [(f"read {kind} 64k, depth {depth}", pair, load_of("read", clusters, 65536, 65536, depth))
                 for depth in (1, 16)]
        plan += [(f"read {kind} 1M, depth 1", pair, load_of("read", DISK_MIB, MIB, MIB, 1))]
    return [(f"{where}: {name} (operations/s)", rounds(subjects, load, direct, count), True)
            for name, subjects, load in plan]


def opening(folder):
    path = os.path.join(folder, "large.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1T")
    load = {"op": "open", "count": 20}
    values = [1e6 / lodge(path, "qcow2", load, False) for _ in range(7)]
    return [("open 1 TiB, sparse (us)", {"lodge": statistics.median(values)}, False)]


def section(quick):
    rows = []
    for base, direct in (("/dev/shm", False), (os.environ.get("TMPDIR") or "/var/tmp", True)):
        with tempfile.TemporaryDirectory(dir=base, prefix="lodge-bench-") as folder:
            rows += transfers(folder, direct, quick)
            if not direct:
                rows += opening(folder)
    return rows
