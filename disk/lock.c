/* The advisory lock of an image file. See disk/lock.h. */
#include "disk/lock.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

enum {
	PERM_CONSISTENT_READ = 1 << 0,
	PERM_WRITE = 1 << 1,
	PERM_RESIZE = 1 << 3,
};

#define PERM_COUNT    4
#define NEED_BASE     100
#define UNSHARED_BASE 200

/* A killed process holds its files for some milliseconds more, until the kernel has ended its I/O.
 */
#define TRIES	     11
#define TRY_AGAIN_NS 20000000

/* F_OFD_SETLK of one byte. 0 or -errno. */
static int set_byte(int fd, int byte)
{
	struct flock fl = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	return fcntl(fd, F_OFD_SETLK, &fl) ? -errno : 0;
}

static int set_bytes(int fd, int base, unsigned perms)
{
	int r = 0;

	for (int n = 0; n < PERM_COUNT && !r; n++) {
		if (perms & 1u << n)
			r = set_byte(fd, base + n);
	}
	return r;
}

/* Has anyone else locked one of these bytes? 1, 0 or -errno. */
static int any_locked(int fd, int base, unsigned perms)
{
	for (int n = 0; n < PERM_COUNT; n++) {
		struct flock fl = {
		    .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = base + n, .l_len = 1};

		if (!(perms & 1u << n))
			continue;
		if (fcntl(fd, F_OFD_GETLK, &fl))
			return -errno;
		if (fl.l_type != F_UNLCK)
			return 1;
	}
	return 0;
}

void image_unlock(int fd)
{
	struct flock fl = {.l_type = F_UNLCK,
			   .l_whence = SEEK_SET,
			   .l_start = NEED_BASE,
			   .l_len = UNSHARED_BASE + PERM_COUNT - NEED_BASE};

	(void)fcntl(fd, F_OFD_SETLK, &fl);
}

static int try_lock(int fd, bool read_only, struct err *err)
{
	unsigned need = PERM_CONSISTENT_READ | (read_only ? 0 : PERM_WRITE);
	unsigned unshared = PERM_WRITE | PERM_RESIZE;
	int r, writer, other;

	r = set_bytes(fd, NEED_BASE, need);
	if (!r)
		r = set_bytes(fd, UNSHARED_BASE, unshared);
	if (r == -EAGAIN || r == -EACCES) /* a writer's lock of some other kind of program */
		return err_set(err, EAGAIN, "locked by another process; end that one first");
	if (r)
		goto fail;

	writer = any_locked(fd, NEED_BASE, unshared);
	other = any_locked(fd, UNSHARED_BASE, need);
	r = MIN(writer, other);
	if (r < 0)
		goto fail;
	if (writer)
		return err_set(err, EAGAIN,
			       "another process is writing to it (a running VM?); end that one "
			       "first");
	if (other)
		return err_set(err, EAGAIN,
			       "another process has it open and lets nobody write (a running VM?); "
			       "end that one first or open it read-only");
	return 0;

fail:
	return err_set(err, ENOLCK,
		       "cannot be locked against other processes (error %d); use a file system "
		       "with locks",
		       -r);
}

int image_lock(int fd, bool read_only, struct err *err)
{
	for (int n = 1;; n++) {
		struct err why = {0};
		int r = try_lock(fd, read_only, &why);

		if (!r)
			return 0;
		if (r != -EAGAIN || n == TRIES)
			return err_set(err, -r, "%s", why.msg);
		/* Who waits must not be in the way of others who wait. */
		image_unlock(fd);
		nanosleep(&(struct timespec){.tv_nsec = TRY_AGAIN_NS}, NULL);
	}
}
