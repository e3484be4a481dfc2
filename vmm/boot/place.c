/* Placing boot data in guest memory: see place.h. */
#include "vmm/boot/place.h"

#include "base/checked.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096

static bool all_zero(const uint8_t *p, size_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

static const struct gmem_region *region_of(const struct gmem *mem, gpa_t gpa)
{
	const struct gmem_region *r;

	for (unsigned n = 0; (r = gmem_region_at(mem, n)); n++)
		if (gpa >= r->gpa && gpa - r->gpa < r->len_bytes)
			return r;
	return NULL;
}

/* Through the file where that can be done: not on hugetlbfs (-EINVAL), nor on a sealed file. */
static int put(const struct gmem_region *region, gpa_t gpa, const uint8_t *src, size_t len)
{
	uint64_t at = gpa - region->gpa;

	while (region->fd >= 0 && len) {
		ssize_t n = pwrite(region->fd, src, len, (off_t)(region->fd_offset_bytes + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EINVAL && errno != EOPNOTSUPP && errno != EPERM &&
		    errno != EBADF)
			return -errno;
		if (n <= 0)
			break;
		at += (size_t)n;
		src += n;
		len -= (size_t)n;
	}
	if (len)
		memcpy(region->host + at, src, len);
	return 0;
}

int place_bytes(const struct gmem *mem, gpa_t gpa, const void *src, uint64_t len_bytes)
{
	const struct gmem_region *region = region_of(mem, gpa);
	const uint8_t *p = src;
	uint64_t run = 0; /* bytes before the current page that wait to be written */

	if (!len_bytes)
		return 0;
	if (!region || !ck_range(gpa - region->gpa, len_bytes, region->len_bytes))
		return -EFAULT;
	for (uint64_t done = 0; done < len_bytes;) {
		uint64_t n = MIN(PAGE - ((gpa + done) & (PAGE - 1)), len_bytes - done);
		bool zero = all_zero(p + done, n);

		if (!zero)
			run += n;
		done += n;
		if (run && (zero || done == len_bytes)) {
			uint64_t from = done - run - (zero ? n : 0);
			int r = put(region, gpa + from, p + from, run);

			if (r < 0)
				return r;
			run = 0;
		}
	}
	return 0;
}

int place_file(const struct gmem *mem, gpa_t gpa, int fd, uint64_t offset, uint64_t len_bytes)
{
	uint8_t *to = gmem_rw(mem, gpa, len_bytes);
	uint64_t done = 0;

	if (!to)
		return -EFAULT;
	while (done < len_bytes) {
		ssize_t n = pread(fd, to + done, len_bytes - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ESTALE;
		done += (size_t)n;
	}
	return 0;
}

int placer_init(struct placer *p, const struct gmem *mem, gpa_t gpa)
{
	*p = (struct placer){.mem = mem, .gpa = gpa};
	p->buf = aligned_alloc(PAGE, PLACE_BUFFER_BYTES);
	return p->buf ? 0 : -ENOMEM;
}

void placer_fini(struct placer *p)
{
	free(p->buf);
	p->buf = NULL;
}

gpa_t placer_tell(const struct placer *p)
{
	return p->gpa + p->fill;
}

int placer_flush(struct placer *p)
{
	int r = place_bytes(p->mem, p->gpa, p->buf, p->fill);

	if (r < 0)
		return r;
	p->gpa += p->fill;
	p->fill = 0;
	return 0;
}

int placer_write(struct placer *p, const void *src, size_t len_bytes)
{
	const uint8_t *from = src;

	while (len_bytes) {
		size_t n = MIN(len_bytes, PLACE_BUFFER_BYTES - p->fill);

		memcpy(p->buf + p->fill, from, n);
		p->fill += n;
		from += n;
		len_bytes -= n;
		if (p->fill == PLACE_BUFFER_BYTES) {
			int r = placer_flush(p);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

int placer_copy(struct placer *p, int fd, uint64_t len_bytes)
{
	uint64_t offset = 0;

	while (offset < len_bytes) {
		size_t want = MIN(len_bytes - offset, PLACE_BUFFER_BYTES - p->fill);
		ssize_t n = pread(fd, p->buf + p->fill, want, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ESTALE;
		p->fill += (size_t)n;
		offset += (size_t)n;
		if (p->fill == PLACE_BUFFER_BYTES) {
			int r = placer_flush(p);

			if (r < 0)
				return r;
		}
	}
	return 0;
}
