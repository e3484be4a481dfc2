"""A newc cpio archive with one program as /init and a console for it."""
import sys


def entry(name, mode, data=b"", device=(0, 0), ino=[0]):
    ino[0] += 1
    name = name.encode() + b"\0"
    fields = [ino[0], mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0]
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def initramfs(program):
    return (entry("dev", 0o040755) + entry("dev/console", 0o020600, device=(5, 1)) +
            entry("init", 0o100755, program) + entry("TRAILER!!!", 0))


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as program, open(sys.argv[2], "wb") as archive:
        archive.write(initramfs(program.read()))
