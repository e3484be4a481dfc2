/*
 * An address space of devices: port I/O or memory-mapped I/O.
 *
 * Invariants: ranges never overlap (an overlap is refused, whichever comes second); an access that
 * no single range holds whole reads as all ones and writes nowhere.
 *
 * Threads: accesses come from any vCPU thread; ranges may be added, moved and removed meanwhile
 * (PCI BARs), also from inside an access. A device lives as long as the bus. A device serialises
 * itself: the bus holds no lock while it calls one.
 */
#ifndef DEVICES_BUS_H
#define DEVICES_BUS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct bus;

/*
 * `offset` is from the start of the range, `size` 1 to 8 bytes of any alignment; offset + size lies
 * within the range. A device is safe against every combination. Values are little-endian integers.
 */
struct bus_ops {
	uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
	void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_range {
	uint64_t base;
	uint64_t len;
	const struct bus_ops *ops;
	void *dev;
	const char *name; /* static or owned by the device */
};

#define BUS_RANGES_MAX 256

/* `name` ("port", "memory") and `limit` (one past the last address; 0: none) are for messages and
 * checks. */
int bus_new(const char *name, uint64_t limit, struct bus **ret_bus);
void bus_free(struct bus *bus);

/* -EEXIST: overlaps (the message names both), -EINVAL: empty or past the limit, -ENOSPC. */
int bus_add(struct bus *bus, const struct bus_range *range, struct err *err);

/* -ENOENT: no range of `dev` starts at `base`. */
int bus_remove(struct bus *bus, uint64_t base, const void *dev);

/* False where nothing answered: reads then give all ones. */
bool bus_read(struct bus *bus, uint64_t addr, unsigned size, uint64_t *ret_value);
bool bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value);

#endif
