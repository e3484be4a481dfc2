/*
 * pvpanic: one byte, a port or memory, on which a guest kernel says that it has panicked (QEMU
 * docs/specs/pvpanic).
 *
 * Reading gives the events that are understood; writing a bit reports that event.
 *
 * Threads: any; no state.
 */
#include "devices/legacy/legacy.h"

#include <errno.h>
#include <stdlib.h>

#define PVPANIC_PANICKED     (1u << 0)
#define PVPANIC_CRASH_LOADED (1u << 1)

struct pvpanic {
	const struct platform *plat;
	struct device_place place;
};

static uint64_t pvpanic_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	const struct platform *plat = ((struct pvpanic *)dev)->plat;

	(void)offset;
	(void)size;
	if (value & PVPANIC_PANICKED)
		plat->ops->machine_event(plat->ctx, MACHINE_PANIC);
	else if (value & PVPANIC_CRASH_LOADED)
		plat->ops->machine_event(plat->ctx, MACHINE_CRASH_LOADED);
}

static const struct bus_ops pvpanic_ops = {pvpanic_read, pvpanic_write};

int pvpanic_new(const struct platform *plat, const struct device_place *place,
		struct pvpanic **ret_dev, struct err *err)
{
	struct pvpanic *dev = calloc(1, sizeof(*dev));
	struct bus_range range = {place->base, PVPANIC_BYTES, &pvpanic_ops, dev, "pvpanic"};
	int r;

	if (!dev)
		return err_sys(err, ENOMEM, "pvpanic");
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

void pvpanic_free(struct pvpanic *dev)
{
	if (!dev)
		return;
	bus_remove(platform_bus(dev->plat, &dev->place), dev->place.base, dev);
	free(dev);
}
