"""What test disks contain, as init/pattern.h describes it."""
import struct

SECTOR = 512
_SHIFT = 40
_MASK = (1 << _SHIFT) - 1


def _make_table():
    x, table = 1, bytearray()
    for _ in range(1024):
        x = (x * 1103515245 + 12345) & 0xFFFFFFFF
        table.append(x >> 16 & 0xFF)
    return bytes(table)


_TABLE = _make_table()
_ZEROES = bytes(SECTOR)


def tag_of(sector, generation):
    return generation << _SHIFT | sector


def sector_of(tag):
    if not tag:
        return _ZEROES
    start = ((tag & _MASK) * 7 + (tag >> _SHIFT) * 3) % 512
    return struct.pack("<Q", tag) + _TABLE[start:start + SECTOR - 8]


def make(first, count, generation=1):
    """The content of `count` sectors from sector `first` on."""
    return b"".join(sector_of(tag_of(s, generation)) for s in range(first, first + count))


def digest_of_file(path, start, length):
    """Checks every sector of a range of a file; returns (digest, errors)."""
    digest, errors = 0, []
    first = start // SECTOR
    with open(path, "rb") as file:
        file.seek(start)
        for index in range(length // SECTOR):
            data = file.read(SECTOR)
            if len(data) != SECTOR:
                errors.append(f"the file ends at sector {first + index}")
                break
            if data == _ZEROES:
                continue
            tag = struct.unpack_from("<Q", data)[0]
            if tag & _MASK != first + index or data != sector_of(tag):
                errors.append(f"sector {first + index} holds no pattern of its own (tag {tag:#x})")
                if len(errors) > 10:
                    break
            digest = (digest + tag * (index + 1)) & 0xFFFFFFFFFFFFFFFF
    return digest, errors
