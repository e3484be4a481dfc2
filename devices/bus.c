/*
 * An address space of devices: a sorted array of ranges, searched by halving.
 *
 * Invariants
 *  1. ranges[0..n) are in ascending order of base and do not overlap.
 *  2. An access copies its range under the lock and calls the device without it, so that the device
 *     may change the bus from inside the access. A device that is being removed may therefore see
 *     one more access that had found it before.
 *
 * Threads: any. The lock is taken for reading by accesses, for writing by changes; nothing is
 * called while it is held.
 */
#include "devices/bus.h"

#include "base/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct bus {
	const char *name;
	uint64_t limit; /* one past the last address; 0: none */
	pthread_rwlock_t lock;
	unsigned n;
	struct bus_range ranges[BUS_RANGES_MAX];
};

int bus_new(const char *name, uint64_t limit, struct bus **ret_bus)
{
	struct bus *bus = calloc(1, sizeof(*bus));
	pthread_rwlockattr_t attr;

	if (!bus)
		return -ENOMEM;
	/* Else vCPUs that poll a device could keep a change waiting for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&bus->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	bus->name = name;
	bus->limit = limit;
	*ret_bus = bus;
	return 0;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	pthread_rwlock_destroy(&bus->lock);
	free(bus);
}

/* Index of the first range whose base is above `addr`: the one before it may hold `addr`. */
static unsigned bus_above_locked(const struct bus *bus, uint64_t addr)
{
	unsigned lo = 0, hi = bus->n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (bus->ranges[mid].base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* `last` is inclusive here, so that a range may end at the top of the address space. */
static const struct bus_range *bus_overlap_locked(const struct bus *bus, unsigned at, uint64_t base,
						  uint64_t last)
{
	if (at > 0 && base - bus->ranges[at - 1].base < bus->ranges[at - 1].len)
		return &bus->ranges[at - 1];
	if (at < bus->n && bus->ranges[at].base <= last)
		return &bus->ranges[at];
	return NULL;
}

static int bus_insert_locked(struct bus *bus, const struct bus_range *range,
			     struct bus_range *clash)
{
	unsigned at = bus_above_locked(bus, range->base);
	const struct bus_range *other;

	other = bus_overlap_locked(bus, at, range->base, range->base + (range->len - 1));
	if (other) {
		*clash = *other;
		return -EEXIST;
	}
	if (bus->n == BUS_RANGES_MAX)
		return -ENOSPC;
	memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->n - at) * sizeof(bus->ranges[0]));
	bus->ranges[at] = *range;
	bus->n++;
	return 0;
}

int bus_add(struct bus *bus, const struct bus_range *range, struct err *err)
{
	struct bus_range clash;
	uint64_t last;
	int r;

	if (!range->len || !ck_add(range->base, range->len - 1, &last) ||
	    (bus->limit && last >= bus->limit))
		return err_set(err, EINVAL,
			       "%s: range of %" PRIu64 " bytes at 0x%" PRIx64
			       " does not fit into the %s space",
			       range->name, range->len, range->base, bus->name);

	pthread_rwlock_wrlock(&bus->lock);
	r = bus_insert_locked(bus, range, &clash);
	pthread_rwlock_unlock(&bus->lock);

	if (r == -EEXIST)
		return err_set(err, EEXIST,
			       "%s at %s 0x%" PRIx64 " (%" PRIu64
			       " bytes) overlaps %s at 0x%" PRIx64 " (%" PRIu64 " bytes)",
			       range->name, bus->name, range->base, range->len, clash.name,
			       clash.base, clash.len);
	if (r)
		return err_set(err, -r, "%s: the %s space is full (%d ranges)", range->name,
			       bus->name, BUS_RANGES_MAX);
	return 0;
}

int bus_remove(struct bus *bus, uint64_t base, const void *dev)
{
	int r = -ENOENT;
	unsigned at;

	pthread_rwlock_wrlock(&bus->lock);
	at = bus_above_locked(bus, base);
	if (at > 0 && bus->ranges[at - 1].base == base && bus->ranges[at - 1].dev == dev) {
		memmove(&bus->ranges[at - 1], &bus->ranges[at],
			(bus->n - at) * sizeof(bus->ranges[0]));
		bus->n--;
		r = 0;
	}
	pthread_rwlock_unlock(&bus->lock);
	return r;
}

/* Copies the range that holds [addr, addr + size) whole. */
static bool bus_find(struct bus *bus, uint64_t addr, unsigned size, struct bus_range *ret_range)
{
	bool found = false;
	unsigned at;

	if (size < 1 || size > 8)
		return false;
	pthread_rwlock_rdlock(&bus->lock);
	at = bus_above_locked(bus, addr);
	if (at > 0) {
		const struct bus_range *range = &bus->ranges[at - 1];

		if (ck_range(addr - range->base, size, range->len)) {
			*ret_range = *range;
			found = true;
		}
	}
	pthread_rwlock_unlock(&bus->lock);
	return found;
}

static uint64_t size_mask(unsigned size)
{
	return size < 8 ? (UINT64_C(1) << (8 * size)) - 1 : UINT64_MAX;
}

bool bus_read(struct bus *bus, uint64_t addr, unsigned size, uint64_t *ret_value)
{
	struct bus_range range;

	if (!bus_find(bus, addr, size, &range)) {
		*ret_value = size_mask(size);
		return false;
	}
	*ret_value = range.ops->read(range.dev, addr - range.base, size) & size_mask(size);
	return true;
}

bool bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
	struct bus_range range;

	if (!bus_find(bus, addr, size, &range))
		return false;
	range.ops->write(range.dev, addr - range.base, size, value & size_mask(size));
	return true;
}
