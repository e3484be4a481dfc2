/*
 * What kind of file a raw image is: type, size, block sizes, what O_DIRECT asks for and whether
 * space can be given back.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "disk/raw_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* The largest block size that is believed: page size on every host, and all that guests know. */
#define BLOCK_BYTES_MAX 4096

/* What a device may claim as its physical block or preferred I/O size; nonsense above is ignored.
 */
#define HINT_BYTES_MAX (64 * MIB)

static int check_type(const struct stat *st, struct err *err)
{
	switch (st->st_mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK:
		return 0;
	case S_IFDIR:
		return err_set(err, EISDIR, "is a directory; name a file or a block device");
	case S_IFIFO:
		return err_set(err, EINVAL, "is a pipe; name a file or a block device");
	case S_IFSOCK:
		return err_set(err, EINVAL, "is a socket; name a file or a block device");
	case S_IFCHR:
		return err_set(err, EINVAL, "is a character device; name a file or a block device");
	default:
		return err_set(err, EINVAL, "is neither a file nor a block device");
	}
}

static int open_failed(int code, const struct stat *st, bool read_only, struct err *err)
{
	switch (code) {
	case EACCES:
	case EPERM:
		return err_set(err, EACCES, "no permission to %s it; change its mode or owner%s",
			       read_only ? "read" : "write",
			       read_only ? "" : ", or open it read-only");
	case EROFS:
		return err_set(err, EROFS, "is on a read-only file system; open it read-only");
	case ETXTBSY:
		return err_set(err, ETXTBSY, "is being executed; use a copy of it");
	case EBUSY:
		if (S_ISBLK(st->st_mode))
			return err_set(err, EBUSY,
				       "is in use by this host (mounted, or part of a RAID or "
				       "volume group); release it there or open it read-only");
		/* fall through */
	default:
		return err_sys(err, code, "cannot be opened");
	}
}

/* Looks before it opens: to open a device or a pipe can have effects of its own. */
static int open_file(const struct image_opts *opts, struct stat *ret_st, struct err *err)
{
	int flags = (opts->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	autofd int fd = -1;
	struct stat st;
	int r;

	if (stat(opts->path, &st)) {
		if (errno == ENOENT)
			return err_set(err, ENOENT, "does not exist");
		return err_sys(err, errno, "cannot be examined");
	}
	r = check_type(&st, err);
	if (r)
		return r;
	/* writing to a device that is mounted here would destroy what is on it */
	if (S_ISBLK(st.st_mode) && !opts->read_only)
		flags |= O_EXCL;
	fd = open(opts->path, flags);
	if (fd < 0)
		return open_failed(errno, &st, opts->read_only, err);
	if (fstat(fd, &st))
		return err_sys(err, errno, "cannot be examined");
	r = check_type(&st, err); /* again: it may have been replaced in between */
	if (r)
		return r;

	flags = opts->direct ? O_DIRECT : 0;
	if (fcntl(fd, F_SETFL, flags)) {
		if (errno == EINVAL && opts->direct)
			return err_set(err, EINVAL,
				       "its file system has no O_DIRECT; do without direct I/O");
		return err_sys(err, errno, "cannot be set up");
	}
	*ret_st = st;
	return steal_fd(&fd);
}

/* A number from /sys for a block device or, for a partition, its disk. 0 when there is none. */
static uint64_t sys_queue_value(dev_t dev, const char *name)
{
	static const char *const at[] = {"", "/.."};

	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		unsigned long long v;
		char path[128];
		FILE *f;
		int n;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u%s/queue/%s", major(dev),
			 minor(dev), at[i], name);
		f = fopen(path, "re");
		if (!f)
			continue;
		n = fscanf(f, "%llu", &v);
		fclose(f);
		return n == 1 ? v : 0;
	}
	return 0;
}

static uint32_t plausible(uint64_t bytes, uint32_t otherwise)
{
	return is_pow2(bytes) && bytes >= IMAGE_SECTOR_BYTES && bytes <= HINT_BYTES_MAX
		   ? (uint32_t)bytes
		   : otherwise;
}

static int probe_block(struct raw_file *f, const struct stat *st, const struct image_opts *opts,
		       struct err *err)
{
	struct image_info *info = &f->info;
	unsigned physical = 0, optimal = 0;
	int logical = 0, write_protected = 0;
	uint64_t size = 0;

	if (ioctl(f->fd, BLKGETSIZE64, &size) || ioctl(f->fd, BLKSSZGET, &logical))
		return err_sys(err, errno, "its size cannot be read");
	if (!opts->read_only && !ioctl(f->fd, BLKROGET, &write_protected) && write_protected)
		return err_set(err, EROFS, "is a write-protected device; open it read-only");
	if (logical < IMAGE_SECTOR_BYTES || logical > BLOCK_BYTES_MAX ||
	    !is_pow2((unsigned)logical))
		return err_set(err, EINVAL, "has blocks of %d bytes; at most %d are supported",
			       logical, BLOCK_BYTES_MAX);
	(void)ioctl(f->fd, BLKPBSZGET, &physical);
	(void)ioctl(f->fd, BLKIOOPT, &optimal);
	info->size_bytes = size;
	info->logical_block_bytes = (uint32_t)logical;
	info->physical_block_bytes = MAX(plausible(physical, (uint32_t)logical), (uint32_t)logical);
	info->optimal_io_bytes = plausible(optimal, 0);
	if (sys_queue_value(st->st_rdev, "discard_max_bytes")) {
		uint64_t granularity = sys_queue_value(st->st_rdev, "discard_granularity");

		f->can_punch = true;
		info->discard_granularity_bytes = plausible(granularity, (uint32_t)logical);
	}
	return 0;
}

static void probe_regular(struct raw_file *f, const struct stat *st)
{
	struct image_info *info = &f->info;
	uint32_t fs_block = plausible((uint64_t)st->st_blksize, BLOCK_BYTES_MAX);

	info->size_bytes = (uint64_t)st->st_size;
	info->logical_block_bytes = IMAGE_SECTOR_BYTES;
	info->physical_block_bytes = MIN(fs_block, (uint32_t)BLOCK_BYTES_MAX);
	/* past the end: changes nothing, and tells whether the file system can */
	if (!info->read_only &&
	    !fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, st->st_size, fs_block)) {
		f->can_punch = true;
		info->discard_granularity_bytes = info->physical_block_bytes;
	}
}

/* Without STATX_DIOALIGN (Linux 6.1): what is the least that a read accepts? 0: none is accepted,
 * as where an overlay's open() promises what the tmpfs below it cannot do. */
static uint32_t try_dio_align(int fd)
{
	void *buf =
	    mmap(NULL, BLOCK_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t align = BLOCK_BYTES_MAX;

	if (buf == MAP_FAILED)
		return align;
	if (pread(fd, buf, IMAGE_SECTOR_BYTES, IMAGE_SECTOR_BYTES) >= 0)
		align = IMAGE_SECTOR_BYTES;
	else if (pread(fd, buf, BLOCK_BYTES_MAX, 0) < 0)
		align = 0;
	munmap(buf, BLOCK_BYTES_MAX);
	return align;
}

static int probe_direct(struct raw_file *f, const struct stat *st, struct err *err)
{
	struct image_info *info = &f->info;
	struct statx sx = {0};

	if (S_ISBLK(st->st_mode)) {
		f->dio_mem_align = f->dio_offset_align = info->logical_block_bytes;
		return 0;
	}
	if (!statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && sx.stx_mask & STATX_DIOALIGN) {
		if (!sx.stx_dio_offset_align)
			return err_set(err, EINVAL,
				       "its file system has no O_DIRECT for it; do without "
				       "direct I/O");
		f->dio_mem_align = sx.stx_dio_mem_align;
		f->dio_offset_align = MAX(sx.stx_dio_offset_align, (uint32_t)IMAGE_SECTOR_BYTES);
	} else {
		f->dio_mem_align = f->dio_offset_align = try_dio_align(f->fd);
		if (!f->dio_mem_align)
			return err_set(err, EINVAL,
				       "its file system refuses reads with O_DIRECT; do without "
				       "direct I/O");
	}
	if (f->dio_offset_align > BLOCK_BYTES_MAX || !is_pow2(f->dio_offset_align) ||
	    f->dio_mem_align > BLOCK_BYTES_MAX || !is_pow2(f->dio_mem_align))
		return err_set(err, EINVAL,
			       "O_DIRECT needs blocks of %u bytes there, at most %d are "
			       "supported; do without direct I/O",
			       f->dio_offset_align, BLOCK_BYTES_MAX);
	info->logical_block_bytes = MAX(info->logical_block_bytes, f->dio_offset_align);
	info->physical_block_bytes = MAX(info->physical_block_bytes, f->dio_offset_align);
	return 0;
}

/* Whole blocks only; what does not fill one cannot be reached by a guest. */
int raw_probe_size(struct raw_file *f, const char *path, struct err *err)
{
	struct image_info *info = &f->info;
	uint64_t whole = align_down(info->size_bytes, info->logical_block_bytes);

	if (!whole)
		return err_set(err, EINVAL,
			       "is %llu bytes long, less than one block of %u bytes; is it the "
			       "right file?",
			       (unsigned long long)info->size_bytes, info->logical_block_bytes);
	if (whole != info->size_bytes)
		log_warn("disk image %s: its last %llu bytes do not fill a block of %u bytes and "
			 "are left out",
			 path, (unsigned long long)(info->size_bytes - whole),
			 info->logical_block_bytes);
	info->size_bytes = whole;
	return 0;
}

int raw_probe(const struct image_opts *opts, struct raw_file *ret_file, struct err *err)
{
	struct raw_file f = {.info = {.format = IMAGE_RAW, .read_only = opts->read_only}};
	struct stat st = {0};
	autofd int fd = -1;
	int r;

	fd = open_file(opts, &st, err);
	if (fd < 0)
		return fd;
	f.fd = fd;
	if (S_ISBLK(st.st_mode)) {
		r = probe_block(&f, &st, opts, err);
		if (r)
			return r;
	} else {
		probe_regular(&f, &st);
	}
	if (opts->direct) {
		r = probe_direct(&f, &st, err);
		if (r)
			return r;
	}
	if (opts->no_discard || opts->read_only) {
		f.can_punch = false;
		f.info.discard_granularity_bytes = 0;
	}
	f.info.can_write_zeroes = !opts->read_only;
	f.fd = steal_fd(&fd);
	*ret_file = f;
	return 0;
}
