/* Guest memory. See base/gmem.h. */
#include "base/gmem.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Regions in ascending order; at most GMEM_REGIONS_MAX, so a look-up walks one cache line or two.
 */
struct gmem {
	unsigned nregions;
	struct gmem_region regions[GMEM_REGIONS_MAX];
};

int gmem_new(struct gmem **ret_mem)
{
	struct gmem *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	*ret_mem = mem;
	return 0;
}

void gmem_free(struct gmem *mem)
{
	free(mem);
}

int gmem_add(struct gmem *mem, const struct gmem_region *region, struct err *err)
{
	uint64_t end;
	unsigned at = 0;

	if (!region->len_bytes || !region->host)
		return err_set(err, EINVAL, "guest memory at 0x%llx is empty",
			       (unsigned long long)region->gpa);
	if (!ck_add(region->gpa, region->len_bytes, &end))
		return err_set(err, EOVERFLOW,
			       "guest memory of %llu bytes at 0x%llx passes the end of the address "
			       "space",
			       (unsigned long long)region->len_bytes,
			       (unsigned long long)region->gpa);
	if (mem->nregions == GMEM_REGIONS_MAX)
		return err_set(err, ENOSPC, "guest memory has more than %d regions",
			       GMEM_REGIONS_MAX);

	for (unsigned i = 0; i < mem->nregions; i++) {
		const struct gmem_region *r = &mem->regions[i];

		if (region->gpa < r->gpa + r->len_bytes && r->gpa < end)
			return err_set(err, EEXIST,
				       "guest memory at 0x%llx overlaps the region at 0x%llx",
				       (unsigned long long)region->gpa, (unsigned long long)r->gpa);
		if (r->gpa < region->gpa)
			at = i + 1;
	}

	memmove(&mem->regions[at + 1], &mem->regions[at],
		(mem->nregions - at) * sizeof(mem->regions[0]));
	mem->regions[at] = *region;
	mem->nregions++;
	return 0;
}

const struct gmem_region *gmem_region_at(const struct gmem *mem, unsigned n)
{
	return n < mem->nregions ? &mem->regions[n] : NULL;
}

uint64_t gmem_total_bytes(const struct gmem *mem)
{
	uint64_t total = 0;

	/* cannot overflow: the regions are disjoint parts of one 64-bit space */
	for (unsigned i = 0; i < mem->nregions; i++)
		total += mem->regions[i].len_bytes;
	return total;
}

static uint8_t *gmem_find(const struct gmem *mem, gpa_t gpa, uint64_t len_bytes)
{
	if (!len_bytes)
		return NULL;
	for (unsigned i = 0; i < mem->nregions; i++) {
		const struct gmem_region *r = &mem->regions[i];

		/* an address below the region wraps to an offset beyond its end */
		if (ck_range(gpa - r->gpa, len_bytes, r->len_bytes))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

const void *gmem_ro(const struct gmem *mem, gpa_t gpa, uint64_t len_bytes)
{
	return gmem_find(mem, gpa, len_bytes);
}

void *gmem_rw(const struct gmem *mem, gpa_t gpa, uint64_t len_bytes)
{
	return gmem_find(mem, gpa, len_bytes);
}

int gmem_read(const struct gmem *mem, gpa_t gpa, void *dst, size_t len_bytes)
{
	const void *src = gmem_ro(mem, gpa, len_bytes);

	if (!src)
		return len_bytes ? -EFAULT : 0;
	memcpy(dst, src, len_bytes);
	return 0;
}

int gmem_write(const struct gmem *mem, gpa_t gpa, const void *src, size_t len_bytes)
{
	void *dst = gmem_rw(mem, gpa, len_bytes);

	if (!dst)
		return len_bytes ? -EFAULT : 0;
	memcpy(dst, src, len_bytes);
	return 0;
}

int gmem_fill(const struct gmem *mem, gpa_t gpa, uint8_t byte, uint64_t len_bytes)
{
	void *dst = gmem_rw(mem, gpa, len_bytes);

	if (!dst)
		return len_bytes ? -EFAULT : 0;
	memset(dst, byte, len_bytes);
	return 0;
}
