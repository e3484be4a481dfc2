"""A disk of the host that fails when told to: a device-mapper device whose table is changed.

Linux include/uapi/linux/dm-ioctl.h, version 4.0.0; no dmsetup is needed. And a loop device to stand on.
"""
import fcntl
import os
import struct
import subprocess

from harness import Skip, need_root, run_tool

_HEADER = "=IIIIIIiIIIQ128s129s7x"  # struct dm_ioctl, 312 bytes
_HEADER_BYTES = struct.calcsize(_HEADER)
_VERSION, _CREATE, _REMOVE, _SUSPEND, _LOAD = 0, 3, 4, 6, 9
_SUSPEND_FLAG, _NOFLUSH_FLAG, _SKIP_LOCKFS_FLAG = 1 << 1, 1 << 11, 1 << 10


def _request(number):
    return 3 << 30 | _HEADER_BYTES << 16 | 0xFD << 8 | number


class Device:
    """/dev/mapper-like device over a file, linear until `fail()`."""

    def __init__(self, name, path):
        need_root()
        subprocess.run(["modprobe", "-a", "loop", "dm_mod"], check=False, capture_output=True)
        if not os.path.exists("/dev/mapper/control"):
            raise Skip("the host has no device mapper")
        self.name, self.created = name, False
        self.loop = run_tool("losetup", "--find", "--show", path).strip()
        self.sectors = os.path.getsize(path) // 512
        self.control = os.open("/dev/mapper/control", os.O_RDWR)
        number = struct.unpack_from(_HEADER, self._ioctl(_CREATE))[10]
        self.created = True
        self.path = f"/dev/{name}"
        major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
        if os.path.exists(self.path):
            os.unlink(self.path)
        os.mknod(self.path, 0o060600, os.makedev(major, minor))
        self.heal()

    def _ioctl(self, number, flags=0, targets=b"", count=0):
        header = struct.pack(_HEADER, 4, 0, 0, _HEADER_BYTES + len(targets), _HEADER_BYTES, count, 0, flags, 0, 0, 0,
                             self.name.encode(), b"")
        buffer = bytearray(header + targets)
        fcntl.ioctl(self.control, _request(number), buffer, True)
        return buffer

    def _table(self, *targets):
        """Replaces the table: (start, length, type, parameters) each."""
        data = b""
        for start, length, kind, parameters in targets:
            text = parameters.encode() + b"\0"
            text += bytes(-len(text) % 8)
            data += struct.pack("=QQiI16s", start, length, 0, 40 + len(text), kind.encode()) + text
        self._ioctl(_LOAD, targets=data, count=len(targets))
        # with NOFLUSH, requests that wait are not an obstacle
        self._ioctl(_SUSPEND, _SUSPEND_FLAG | _NOFLUSH_FLAG | _SKIP_LOCKFS_FLAG)
        self._ioctl(_SUSPEND)

    def heal(self):
        self._table((0, self.sectors, "linear", f"{self.loop} 0"))

    def fail(self, start=0, count=None):
        """Requests that touch these sectors give EIO from now on."""
        end = self.sectors if count is None else start + count
        parts = [(0, start, "linear", f"{self.loop} 0"), (start, end - start, "error", ""),
                 (end, self.sectors - end, "linear", f"{self.loop} {end}")]
        self._table(*(p for p in parts if p[1]))

    def close(self):
        if self.created:
            self._ioctl(_REMOVE)
            os.unlink(self.path)
        os.close(self.control)
        subprocess.run(["losetup", "--detach", self.loop], check=False)
