/*
 * GrowFilesystem: mounted file systems take what their disk has become larger by. The kernel does
 * it, by an ioctl of each file system; no program of the guest is needed.
 */
#include "guest/agent/calls.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "guest/agent/mounts.h"
#include "proto/agent.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SECTOR_BYTES 512

/* Of the kernel's fs/ext4/ext4.h and fs/xfs/libxfs/xfs_fs.h: no header for programs has these. */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, __u64)

struct xfs_fsop_geom_v1 {
	__u32 blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
	__u64 datablocks, rtblocks, rtextents, logstart;
	unsigned char uuid[16];
	__u32 sunit, swidth;
	__s32 version;
	__u32 flags, logsectsize, rtsectsize, dirblocksize;
};
_Static_assert(sizeof(struct xfs_fsop_geom_v1) == 112, "size of XFS's geometry");

struct xfs_growfs_data {
	__u64 newblocks;
	__u32 imaxpct;
};

#define XFS_IOC_FSGEOMETRY_V1 _IOR('X', 100, struct xfs_fsop_geom_v1)
#define XFS_IOC_FSGROWFSDATA  _IOW('X', 110, struct xfs_growfs_data)

/* linux/btrfs.h */
struct btrfs_vol_args {
	__s64 fd;
	char name[4088];
};

#define BTRFS_IOC_RESIZE_FS _IOW(0x94, 3, struct btrfs_vol_args)

static int device_bytes(const struct mount_entry *m, uint64_t *ret_bytes, struct err *err)
{
	char path[64], text[32] = "";
	autofd int fd = -1;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/size", m->major, m->minor);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return err_sys(err, errno, "%s", path);
	*ret_bytes = strtoull(text, NULL, 10) * SECTOR_BYTES;
	return 0;
}

static int grow_ext4(int fd, const struct mount_entry *m, const struct statvfs *st, struct err *err)
{
	uint64_t bytes = 0;
	__u64 blocks;
	int res = device_bytes(m, &bytes, err);

	if (res)
		return res;
	blocks = bytes / st->f_bsize;
	return ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0 ? -errno : 0;
}

static int grow_xfs(int fd, const struct mount_entry *m, struct err *err)
{
	struct xfs_fsop_geom_v1 geometry;
	struct xfs_growfs_data data = {0};
	uint64_t bytes = 0;
	int res = device_bytes(m, &bytes, err);

	if (res)
		return res;
	if (ioctl(fd, XFS_IOC_FSGEOMETRY_V1, &geometry) < 0)
		return -errno;
	data.newblocks = bytes / geometry.blocksize;
	data.imaxpct = geometry.imaxpct;
	if (data.newblocks <= geometry.datablocks) /* has all of it */
		return 0;
	return ioctl(fd, XFS_IOC_FSGROWFSDATA, &data) < 0 ? -errno : 0;
}

static int grow_btrfs(int fd)
{
	static const struct btrfs_vol_args all = {.name = "max"}; /* of its first device */

	return ioctl(fd, BTRFS_IOC_RESIZE_FS, &all) < 0 ? -errno : 0;
}

static int grow(int fd, const struct mount_entry *m, const struct statvfs *st, struct err *err)
{
	if (strcmp(m->root, "/") != 0 && strcmp(m->fstype, "btrfs") != 0)
		return err_set(err, EINVAL,
			       "is a part of the file system on %s; say where all of it is "
			       "mounted",
			       m->source);
	if (m->read_only)
		return err_set(err, EROFS, "is mounted read-only");
	if (!strncmp(m->fstype, "ext", 3))
		return grow_ext4(fd, m, st, err);
	if (!strcmp(m->fstype, "xfs"))
		return grow_xfs(fd, m, err);
	if (!strcmp(m->fstype, "btrfs"))
		return grow_btrfs(fd);
	return err_set(err, EOPNOTSUPP,
		       "a file system of type %s cannot grow while it is mounted "
		       "(ext4, xfs and btrfs can)",
		       m->fstype);
}

static uint64_t size_of(const struct statvfs *st)
{
	return (uint64_t)st->f_blocks * st->f_frsize;
}

int call_grow_filesystem(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	const Lodge__Agent__V1__GrowFilesystemRequest *r =
	    (const Lodge__Agent__V1__GrowFilesystemRequest *)message;
	Lodge__Agent__V1__GrowFilesystemResponse *ret =
	    (Lodge__Agent__V1__GrowFilesystemResponse *)reply;
	autofd int fd = open(r->target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct mount_entry *m;
	struct mounts mounts;
	struct statvfs st;
	int res;

	if (fd < 0)
		return err_sys(err, errno, "%s", r->target);
	res = mounts_read(&mounts, err);
	if (res)
		return res;
	m = mounts_find(&mounts, r->target);
	if (!m)
		return err_set(err, EINVAL, "nothing is mounted on %s", r->target);
	if (fstatvfs(fd, &st) < 0)
		return err_sys(err, errno, "%s", r->target);
	ret->old_size_bytes = size_of(&st);
	res = grow(fd, m, &st, err);
	if (res) {
		err_sys(err, -res, "the file system on %s", m->source);
		err_prefix(err, "growing %s", r->target);
		return res;
	}
	if (fstatvfs(fd, &st) < 0)
		return err_sys(err, errno, "%s", r->target);
	ret->size_bytes = size_of(&st);
	return 0;
}
