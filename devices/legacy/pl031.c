/*
 * PL031 real-time clock (ARM DDI 0224C).
 *
 *	0x00 DR    seconds since 1970
 *	0x04 MR    match: kept, and never compared
 *	0x08 LR    sets DR
 *	0x0c CR    1: the clock runs, always
 *	0x10 IMSC  interrupt mask: kept, no interrupt follows
 *	0x14 RIS, 0x18 MIS  0; 0x1c ICR
 *	0xfe0      identification, a byte in each word
 *
 * Threads: any; atomics.
 */
#include "base/checked.h"
#include "devices/legacy/legacy.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum {
	REG_DR = 0x00,
	REG_MR = 0x04,
	REG_LR = 0x08,
	REG_CR = 0x0c,
	REG_IMSC = 0x10,
	REG_ID = 0xfe0,
};

/* All that the guest can see. */
struct pl031_state {
	_Atomic uint32_t ahead_s; /* of the host's clock, modulo 2^32 */
	_Atomic uint32_t set;	  /* LR */
	_Atomic uint32_t match;
	_Atomic uint32_t mask;
};

struct pl031 {
	const struct platform *plat;
	struct device_place place;
	struct pl031_state s;
};

static uint32_t host_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint32_t)now.tv_sec;
}

static uint32_t reg_read(struct pl031 *dev, unsigned reg)
{
	/* PeriphID 0x00041031, PCellID 0xb105f00d */
	static const uint8_t id[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

	switch (reg) {
	case REG_DR:
		return host_seconds() + atomic_load(&dev->s.ahead_s);
	case REG_MR:
		return atomic_load(&dev->s.match);
	case REG_LR:
		return atomic_load(&dev->s.set);
	case REG_CR:
		return 1;
	case REG_IMSC:
		return atomic_load(&dev->s.mask);
	default:
		return reg >= REG_ID && (reg - REG_ID) / 4 < ARRAY_LEN(id) ? id[(reg - REG_ID) / 4]
									   : 0;
	}
}

static void reg_write(struct pl031 *dev, unsigned reg, uint32_t v)
{
	switch (reg) {
	case REG_MR:
		atomic_store(&dev->s.match, v);
		break;
	case REG_LR:
		atomic_store(&dev->s.set, v);
		atomic_store(&dev->s.ahead_s, v - host_seconds());
		break;
	case REG_IMSC:
		atomic_store(&dev->s.mask, v & 1);
		break;
	default:
		break;
	}
}

/* Registers are words; the peripheral bus has no narrower access, and of what is narrower, wider or
 * across two it takes what falls into the first. */
static uint64_t pl031_read(void *dev, uint64_t offset, unsigned size)
{
	uint64_t value = reg_read(dev, (unsigned)offset & ~3u) >> (8 * (offset & 3));

	return size < 4 ? value & ((UINT64_C(1) << (8 * size)) - 1) : value;
}

static void pl031_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	if (size >= 4 && !(offset & 3))
		reg_write(dev, (unsigned)offset, (uint32_t)value);
}

static const struct bus_ops pl031_ops = {pl031_read, pl031_write};

int pl031_new(const struct platform *plat, const struct device_place *place, struct pl031 **ret_dev,
	      struct err *err)
{
	struct pl031 *dev = calloc(1, sizeof(*dev));
	struct bus_range range = {place->base, PL031_BYTES, &pl031_ops, dev, "pl031"};
	int r;

	if (!dev)
		return err_sys(err, ENOMEM, "pl031");
	dev->plat = plat;
	dev->place = *place;
	r = bus_add(platform_bus(plat, place), &range, err);
	if (r) {
		free(dev);
		return r;
	}
	*ret_dev = dev;
	return 0;
}

void pl031_free(struct pl031 *dev)
{
	if (!dev)
		return;
	bus_remove(platform_bus(dev->plat, &dev->place), dev->place.base, dev);
	free(dev);
}
