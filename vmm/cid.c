/* Context ids of guests. See cid.h. */
#include "vmm/cid.h"

#include "base/cleanup.h"
#include "devices/virtio/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CID_TRIES  4096 /* cids of others in a row; each costs a few system calls */
#define CID_DIGITS 16

/* Locks or unlocks one byte. */
static int lock(int fd, uint32_t byte, short type, bool wait)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	while (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l)) {
		if (errno == EAGAIN || errno == EACCES)
			return -EADDRINUSE;
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0660);

	return fd < 0 ? -errno : fd;
}

static int open_counter(const char *path, char name[PATH_MAX], struct err *err)
{
	const char *own = getenv("XDG_RUNTIME_DIR");
	int fd, first;

	snprintf(name, PATH_MAX, "%s", path ? path : CID_FILE);
	if (!path)
		mkdir("/run/lodge", 0755); /* or it is there, or the next line says why not */
	fd = first = open_file(name);
	if (fd < 0 && !path && own && *own == '/') {
		snprintf(name, PATH_MAX, "%s/lodge-cid", own);
		fd = open_file(name);
	}
	if (fd >= 0)
		return fd;
	return err_sys(err, -fd,
		       "cannot keep the vsock cids of this host in %s (%s: %s); set "
		       "XDG_RUNTIME_DIR to a folder of yours, or make /run/lodge",
		       name, path ? path : CID_FILE, strerror(-first));
}

static int read_next(int fd, const char *name, uint64_t *ret_next, struct err *err)
{
	char text[CID_DIGITS + 1];
	const ssize_t n = pread(fd, text, CID_DIGITS, 0);
	unsigned long long next;
	char *end;

	if (n < 0)
		return err_sys(err, errno, "%s", name);
	if (n == 0) {
		*ret_next = VSOCK_CID_FIRST;
		return 0;
	}
	text[n] = '\0';
	next = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\n' || next < VSOCK_CID_FIRST ||
	    next > (unsigned long long)VSOCK_CID_MAX + 1)
		return err_set(err, EPROTO,
			       "%s holds no cid; remove it when no machine runs, and it is made "
			       "anew",
			       name);
	*ret_next = next;
	return 0;
}

static int write_next(int fd, const char *name, uint64_t next, struct err *err)
{
	char text[CID_DIGITS + 1];
	const int n = snprintf(text, sizeof(text), "%llu\n", (unsigned long long)next);

	/* numbers only grow, so that no old digits stay behind */
	if (pwrite(fd, text, (size_t)n, 0) != n)
		return err_sys(err, errno, "%s", name);
	return 0;
}

static int try_cid(int fd, uint32_t cid, int (*claim)(void *ctx, uint32_t cid), void *ctx)
{
	int r = lock(fd, cid, F_WRLCK, false);

	if (r)
		return r;
	r = claim ? claim(ctx, cid) : 0;
	if (r)
		lock(fd, cid, F_UNLCK, false);
	return r;
}

/* Byte 0 is locked. */
static int take_locked(int fd, const char *name, uint32_t wanted,
		       int (*claim)(void *ctx, uint32_t cid), void *ctx, uint32_t *ret_cid,
		       struct err *err)
{
	uint64_t next = 0, cid;
	unsigned tries = 0;
	int r = read_next(fd, name, &next, err);

	if (r)
		return r;
	for (cid = wanted ? wanted : next;; cid++) {
		if (cid > VSOCK_CID_MAX)
			return err_set(err, ENOSPC, "no vsock cid is left on this host; give one");
		r = try_cid(fd, (uint32_t)cid, claim, ctx);
		if (r != -EADDRINUSE || wanted || ++tries == CID_TRIES)
			break;
	}
	if (r == -EADDRINUSE)
		return err_set(err, EADDRINUSE,
			       "vsock cid %llu is in use on this host; leave it out to get a free "
			       "one",
			       (unsigned long long)cid);
	if (r)
		return err_sys(err, -r, "vsock cid %llu", (unsigned long long)cid);
	if (cid >= next)
		r = write_next(fd, name, cid + 1, err);
	*ret_cid = (uint32_t)cid;
	return r;
}

int cid_take(const char *path, uint32_t wanted, int (*claim)(void *ctx, uint32_t cid), void *ctx,
	     struct cid *ret_cid, struct err *err)
{
	char name[PATH_MAX];
	autofd int fd = -1;
	uint32_t cid = 0;
	int r;

	if (wanted && (wanted < VSOCK_CID_FIRST || wanted > VSOCK_CID_MAX))
		return err_set(err, EINVAL, "vsock cid %u: use a number from %d to %u", wanted,
			       VSOCK_CID_FIRST, VSOCK_CID_MAX);
	fd = open_counter(path, name, err);
	if (fd < 0)
		return fd;
	r = lock(fd, 0, F_WRLCK, true);
	if (r)
		return err_sys(err, -r, "%s", name);
	r = take_locked(fd, name, wanted, claim, ctx, &cid, err);
	lock(fd, 0, F_UNLCK, false);
	if (r)
		return r;
	*ret_cid = (struct cid){.cid = cid, .fd = steal_fd(&fd)};
	return 0;
}

void cid_drop(struct cid *cid)
{
	cleanup_fd(&cid->fd);
	*cid = (struct cid)CID_INIT;
}
