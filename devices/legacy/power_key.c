#include "devices/legacy/legacy.h"

#include <errno.h>
#include <stdlib.h>

struct power_key {
	struct irq irq;
};

int power_key_new(const struct platform *plat, const struct device_place *place,
		  struct power_key **ret_dev, struct err *err)
{
	struct power_key *dev = calloc(1, sizeof(*dev));
	int r;

	if (!dev)
		return err_sys(err, ENOMEM, "power key");
	r = plat->ops->irq_connect(plat->ctx, place->gsi, &dev->irq, err);
	if (r) {
		free(dev);
		return r;
	}
	*ret_dev = dev;
	return 0;
}

void power_key_free(struct power_key *dev)
{
	free(dev);
}

void power_key_press(struct power_key *dev)
{
	irq_raise(&dev->irq);
}
