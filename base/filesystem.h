/*
 * Which file system is on a disk: by the magic number of its superblock, as Linux has them
 * (include/uapi/linux/magic.h and the headers of each). For messages, and for images that no guest
 * writes: what a guest can write may claim anything.
 *
 * Threads: any.
 */
#ifndef BASE_FILESYSTEM_H
#define BASE_FILESYSTEM_H

#include <stdbool.h>

/*
 * The name as mount(2) takes it ("ext4" for ext2 to ext4, "btrfs", ...), from the file's start on;
 * what holds none itself is named as it is ("a partition table", "a LUKS volume", "swap space", "a
 * qcow2 image", ...), with *ret_mountable false. NULL: nothing that is known, or it cannot be read.
 */
const char *filesystem_find(int fd, bool *ret_mountable);

#endif
