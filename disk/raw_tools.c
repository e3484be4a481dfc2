/* The size and the space of raw images. See disk/raw_tools.h. */
#include "disk/raw_tools.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "disk/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Between two looks at the progress. */
#define FALLOC_BYTES (1 * GIB)
#define WRITE_BYTES  (4 * MIB)

static int open_path(const char *path, int flags, struct stat *ret_st, struct err *err)
{
	autofd int fd = -1;
	struct stat st;

	if (stat(path, &st)) {
		if (errno == ENOENT)
			return err_set(err, ENOENT, "%s does not exist", path);
		return err_sys(err, errno, "%s cannot be examined", path);
	}
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "%s is a directory; name a file or a block device",
			       path);
	/* to open a pipe or a device of another kind can have effects of its own */
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, EINVAL, "%s is neither a file nor a block device", path);
	fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(err, errno, "%s cannot be opened", path);
	*ret_st = st;
	return steal_fd(&fd);
}

int raw_facts(const char *path, struct raw_facts *ret_facts, struct err *err)
{
	struct raw_facts facts = {0};
	struct stat st = {0};
	autofd int fd = open_path(path, O_RDONLY, &st, err);

	if (fd < 0)
		return fd;
	facts.is_device = S_ISBLK(st.st_mode);
	if (facts.is_device) {
		if (ioctl(fd, BLKGETSIZE64, &facts.size_bytes))
			return err_sys(err, errno, "the size of %s cannot be read", path);
		facts.allocated_bytes = facts.size_bytes;
	} else {
		facts.size_bytes = (uint64_t)st.st_size;
		facts.allocated_bytes = (uint64_t)st.st_blocks * 512; /* always, stat(2) */
	}
	*ret_facts = facts;
	return 0;
}

static int allocate_host(int fd, uint64_t from, uint64_t to, const struct tool_progress *progress,
			 struct err *err)
{
	for (uint64_t at = from; at < to;) {
		uint64_t len = MIN(to - at, FALLOC_BYTES);

		if (fallocate(fd, 0, (off_t)at, (off_t)len)) {
			if (errno == EINTR)
				continue;
			if (errno == EOPNOTSUPP)
				return err_set(err, EOPNOTSUPP,
					       "its file system cannot allocate space ahead; say "
					       "preallocation=full to write zeroes, or off");
			return err_sys(err, errno, "allocating its space");
		}
		at += len;
		if (!tool_progress_at(progress, at - from, to - from))
			return err_set(err, ECANCELED, "interrupted");
	}
	return 0;
}

static int allocate_written(int fd, uint64_t from, uint64_t to,
			    const struct tool_progress *progress, struct err *err)
{
	void *zeroes = mmap(NULL, WRITE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r = 0;

	if (zeroes == MAP_FAILED)
		return err_set(err, ENOMEM, "no memory");
	for (uint64_t at = from; at < to && !r;) {
		ssize_t n = pwrite(fd, zeroes, (size_t)MIN(to - at, WRITE_BYTES), (off_t)at);

		if (n < 0 && errno != EINTR)
			r = err_sys(err, errno, "writing zeroes");
		at += n > 0 ? (uint64_t)n : 0;
		if (!r && !tool_progress_at(progress, at - from, to - from))
			r = err_set(err, ECANCELED, "interrupted");
	}
	munmap(zeroes, WRITE_BYTES);
	return r;
}

int raw_allocate(int fd, uint64_t from_bytes, uint64_t to_bytes, enum raw_prealloc prealloc,
		 const struct tool_progress *progress, struct err *err)
{
	switch (prealloc) {
	case RAW_PREALLOC_FALLOC:
		return allocate_host(fd, from_bytes, to_bytes, progress, err);
	case RAW_PREALLOC_FULL:
		return allocate_written(fd, from_bytes, to_bytes, progress, err);
	case RAW_PREALLOC_OFF:
		break;
	}
	return 0;
}

int raw_set_size(int fd, uint64_t from_bytes, uint64_t to_bytes, enum raw_prealloc prealloc,
		 const struct tool_progress *progress, struct err *err)
{
	int r = 0;

	if (ftruncate(fd, (off_t)to_bytes))
		return err_sys(err, errno, "setting its size");
	if (to_bytes > from_bytes)
		r = raw_allocate(fd, from_bytes, to_bytes, prealloc, progress, err);
	if (!r && fsync(fd))
		r = err_sys(err, errno, "writing it");
	if (r && to_bytes > from_bytes && ftruncate(fd, (off_t)from_bytes))
		return r; /* the first error is the one to tell */
	return r;
}

int raw_resize(const char *path, uint64_t size_bytes, bool shrink, enum raw_prealloc prealloc,
	       const struct tool_progress *progress, struct err *err)
{
	struct stat st = {0};
	autofd int fd = open_path(path, O_RDWR, &st, err);
	int r;

	if (fd < 0)
		return fd;
	if (S_ISBLK(st.st_mode))
		return err_set(err, EINVAL, "%s is a block device; resize what it stands for",
			       path);
	r = image_lock(fd, false, err);
	if (!r && fstat(fd, &st))
		r = err_sys(err, errno, "examining it");
	if (!r && size_bytes < (uint64_t)st.st_size && !shrink)
		r = err_set(err, EINVAL,
			    "would become smaller (it has %lld bytes) and lose what lies beyond; "
			    "say --shrink if that is meant",
			    (long long)st.st_size);
	if (!r)
		r = raw_set_size(fd, (uint64_t)st.st_size, size_bytes, prealloc, progress, err);
	err_prefix(err, "%s", path);
	return r;
}
