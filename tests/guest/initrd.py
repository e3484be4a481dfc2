"""Initramfs archives for test guests: our /init and the kernel's modules (cpio, newc)."""
import os
import stat

CONSOLE = os.makedev(5, 1)


def _entry(number, name, mode, data=b"", rdev=0):
    name = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, os.major(rdev), os.minor(rdev), len(name), 0)
    out = b"070701" + b"".join(b"%08X" % f for f in fields) + name
    out += bytes(-len(out) % 4)
    return out + data + bytes(-len(data) % 4)


def archive(files):
    """An archive of {name: bytes}; every file is executable."""
    entries = [_entry(1, "dev", stat.S_IFDIR | 0o755), _entry(2, "modules", stat.S_IFDIR | 0o755),
               _entry(3, "dev/console", stat.S_IFCHR | 0o600, rdev=CONSOLE)]
    for number, (name, data) in enumerate(files.items(), len(entries) + 1):
        entries.append(_entry(number, name, stat.S_IFREG | 0o755, data))
    return b"".join(entries) + _entry(0, "TRAILER!!!", 0)


def module_files(folder, names):
    """The files of these modules and of what they need, in load order; built-in ones are left out."""
    needs, by_name = {}, {}
    with open(os.path.join(folder, "modules.dep"), encoding="ascii") as file:
        for line in file:
            path, _, rest = line.partition(":")
            needs[path] = rest.split()
            by_name[os.path.basename(path).split(".")[0].replace("-", "_")] = path
    order = []
    for name in names:
        path = by_name.get(name.replace("-", "_"))
        if path is None:
            continue
        # modules.dep lists the farthest dependency last
        for file in [*reversed(needs[path]), path]:
            if file not in order:
                order.append(file)
    return [os.path.join(folder, path) for path in order]


def build(init, folder, names):
    """An initramfs with the program `init` and modules of a kernel; `folder` None: no modules."""
    with open(init, "rb") as file:
        files = {"init": file.read()}
    order = []
    for path in module_files(folder, names) if folder else []:
        name = os.path.basename(path)
        with open(path, "rb") as file:
            files["modules/" + name] = file.read()
        order.append(name)
    files["modules/order"] = "".join(name + "\n" for name in order).encode()
    return archive(files)
