/* See base/filesystem.h. */
#include "base/filesystem.h"

#include "base/checked.h"

#include <string.h>
#include <unistd.h>

#define MAGIC_MAX 16

static const struct magic {
	const char *name;
	unsigned offset; /* bytes */
	const char *bytes;
	unsigned len;
	bool mountable;
} magics[] = {
    {"btrfs", 0x10040, "_BHRfS_M", 8, true},
    {"ext4", 0x438, "\x53\xef", 2, true},
    {"squashfs", 0, "hsqs", 4, true},
    {"erofs", 0x400, "\xe2\xe1\xf5\xe0", 4, true},
    {"xfs", 0, "XFSB", 4, true},
    {"f2fs", 0x400, "\x10\x20\xf5\xf2", 4, true},
    {"bcachefs", 0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca", 8, true},
    {"iso9660", 0x8001, "CD001", 5, true},
    {"vfat", 0x52, "FAT32   ", 8, true},
    {"vfat", 0x36, "FAT1", 4, true},
    {"ntfs", 3, "NTFS    ", 8, true},
    {"exfat", 3, "EXFAT   ", 8, true},
    {"an unfinished btrfs", 0x10040, "!BHRfS_M", 8, false}, /* of a mkfs that was cut */
    {"a qcow2 image", 0, "QFI\xfb", 4, false},
    {"a LUKS volume", 0, "LUKS\xba\xbe", 6, false},
    {"a volume of LVM", 0x218, "LVM2 001", 8, false},
    {"swap space", 0xff6, "SWAPSPACE2", 10, false},
    {"a GPT partition table", 0x200, "EFI PART", 8, false},
    {"a GPT partition table", 0x1000, "EFI PART", 8, false}, /* sectors of 4 KiB */
    {"a partition table", 0x1fe, "\x55\xaa", 2, false},	     /* last: boot sectors end so too */
};

const char *filesystem_find(int fd, bool *ret_mountable)
{
	for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
		const struct magic *m = &magics[i];
		char bytes[MAGIC_MAX];

		if (pread(fd, bytes, m->len, m->offset) != (ssize_t)m->len ||
		    memcmp(bytes, m->bytes, m->len) != 0)
			continue;
		*ret_mountable = m->mountable;
		return m->name;
	}
	return NULL;
}
