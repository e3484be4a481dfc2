/*
 * Single requests to a disk, their outcome said as an errno.
 *
 *   pread:vda,OFFSET,LENGTH   pwrite:vda,OFFSET,LENGTH,BYTE   fsync:vda
 *   discard:vda,OFFSET,LENGTH   zeroout:vda,OFFSET,LENGTH
 *
 * Each says "@ NAME vda OFFSET LENGTH errno=N"; reads bypass the guest's cache.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/fs.h>

static int disk_open(const struct args *args, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/%s", args->n ? args->v[0] : "");
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	return fd;
}

static int outcome(const char *name, const struct args *args, int error)
{
	say("%s %s %llu %llu errno=%d", name, args->v[0],
	    (unsigned long long)arg_number(args, 1, 0), (unsigned long long)arg_number(args, 2, 0),
	    error);
	return 0;
}

static void *buffer(size_t len, int byte)
{
	void *buf = NULL;

	if (posix_memalign(&buf, 4096, len))
		return NULL;
	memset(buf, byte, len);
	return buf;
}

int cmd_pread(const struct args *args)
{
	size_t len = arg_number(args, 2, 4096);
	unsigned char *buf = buffer(len, 0xee);
	int fd = disk_open(args, O_RDONLY | O_DIRECT);
	ssize_t n;

	if (fd < 0 || !buf)
		return -1;
	n = pread(fd, buf, len, (off_t)arg_number(args, 1, 0));
	outcome("pread", args, n == (ssize_t)len ? 0 : n < 0 ? errno : EIO);
	if (n > 0)
		say("first %02x last %02x", buf[0], buf[n - 1]);
	close(fd);
	free(buf);
	return 0;
}

int cmd_pwrite(const struct args *args)
{
	size_t len = arg_number(args, 2, 4096);
	void *buf = buffer(len, (int)arg_number(args, 3, 0xaa));
	int fd = disk_open(args, O_RDWR | O_DIRECT);
	ssize_t n;

	if (fd < 0 || !buf)
		return -1;
	n = pwrite(fd, buf, len, (off_t)arg_number(args, 1, 0));
	outcome("pwrite", args, n == (ssize_t)len ? 0 : n < 0 ? errno : EIO);
	close(fd);
	free(buf);
	return 0;
}

int cmd_fsync(const struct args *args)
{
	int fd = disk_open(args, O_RDWR);

	if (fd < 0)
		return -1;
	outcome("fsync", args, fsync(fd) ? errno : 0);
	close(fd);
	return 0;
}

static int range(const char *name, const struct args *args, unsigned long request)
{
	uint64_t r[2] = {arg_number(args, 1, 0), arg_number(args, 2, 0)};
	int fd = disk_open(args, O_RDWR);

	if (fd < 0)
		return -1;
	outcome(name, args, ioctl(fd, request, r) ? errno : 0);
	close(fd);
	return 0;
}

int cmd_discard(const struct args *args)
{
	return range("discard", args, BLKDISCARD);
}

int cmd_zeroout(const struct args *args)
{
	return range("zeroout", args, BLKZEROOUT);
}

/* unbind:vda[,TIMES]: takes the driver off the disk's device and puts it back. */
int cmd_unbind(const struct args *args)
{
	static const char driver[] = "/sys/bus/virtio/drivers/virtio_blk";
	uint64_t times = arg_number(args, 1, 1);
	char path[128], target[256], *name;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/block/%s/device", args->n ? args->v[0] : "");
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return fail("%s: %s", path, strerror(errno));
	target[n] = 0;
	name = strrchr(target, '/') ? strrchr(target, '/') + 1 : target;
	for (uint64_t i = 0; i < times; i++) {
		snprintf(path, sizeof(path), "%s/unbind", driver);
		if (write_file(path, name))
			return fail("unbind %s: %s", name, strerror(errno));
		snprintf(path, sizeof(path), "%s/bind", driver);
		if (write_file(path, name))
			return fail("bind %s: %s", name, strerror(errno));
	}
	say("unbound %s %s", args->v[0], name);
	return 0;
}
