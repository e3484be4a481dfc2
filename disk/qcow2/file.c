/*
 * Synchronous I/O on an image's file, for opening, closing and tools.
 *
 * With O_DIRECT everything goes through one aligned buffer; what is written is then read first
 * where it does not fill whole blocks.
 */
#include "disk/qcow2/commit.h"
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOUNCE_BYTES (256 * 1024)

/* Reads as far as the file goes, zeroes behind. */
static int read_all(int fd, uint8_t *buf, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n) {
			memset(buf, 0, len);
			return 0;
		}
		buf += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int write_all(int fd, const uint8_t *buf, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* A direct read that stops within a block has met the end: asking again would not be aligned. */
static int read_direct(int fd, uint8_t *buf, size_t len, uint64_t offset)
{
	ssize_t n;

	do
		n = pread(fd, buf, len, (off_t)offset);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	memset(buf + n, 0, len - (size_t)n);
	return 0;
}

void *q2_buffer(const struct image_file *f, size_t len)
{
	size_t align = MAX(f->align_bytes, (uint32_t)sizeof(void *));
	void *p;

	return posix_memalign(&p, align, MAX(len, (size_t)1)) ? NULL : p;
}

void *q2_zalloc(size_t len)
{
	return calloc(1, MAX(len, (size_t)1));
}

static int direct(const struct image_file *f, uint8_t *in, const uint8_t *out, size_t len,
		  uint64_t offset)
{
	uint8_t *bounce = q2_buffer(f, BOUNCE_BYTES);
	int r = bounce ? 0 : -ENOMEM;

	while (!r && len) {
		uint64_t from = align_down(offset, f->align_bytes);
		size_t skip = (size_t)(offset - from), n = MIN(len, BOUNCE_BYTES - skip);
		size_t all = (size_t)align_up(skip + n, f->align_bytes);

		if (in || all != n)
			r = read_direct(f->fd, bounce, all, from);
		if (!r && in) {
			memcpy(in, bounce + skip, n);
			in += n;
		} else if (!r && out) {
			memcpy(bounce + skip, out, n);
			r = write_all(f->fd, bounce, all, from);
			out += n;
		}
		offset += n;
		len -= n;
	}
	free(bounce);
	return r;
}

int q2_pread(const struct image_file *f, void *buf, size_t len, uint64_t offset)
{
	if (f->align_bytes)
		return direct(f, buf, NULL, len, offset);
	return read_all(f->fd, buf, len, offset);
}

int q2_pwrite(const struct image_file *f, const void *buf, size_t len, uint64_t offset)
{
	if (f->align_bytes)
		return direct(f, NULL, buf, len, offset);
	return write_all(f->fd, buf, len, offset);
}

int q2_sync(const struct image_file *f)
{
	int r;

	do
		r = fdatasync(f->fd);
	while (r && errno == EINTR);
	return r ? -errno : 0;
}

int q2_sync_need(struct qcow2 *q, int need)
{
	struct q2_table *t;
	int r;

	if (need == Q2_NEED_ROOM)
		return q2_commit_sync(q);
	t = q2_cache_take(q->want.cache, q->want.offset);
	if (!t) {
		r = q2_commit_sync(q);
		if (r)
			return r;
		t = q2_cache_take(q->want.cache, q->want.offset);
		if (!t)
			return -ENOMEM;
	}
	r = q2_pread(&q->file, t->data, q->unit_bytes, t->offset);
	t->state = Q2_TABLE_VALID;
	if (r)
		q2_cache_drop(q->want.cache, t);
	return r;
}
