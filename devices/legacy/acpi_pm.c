/*
 * Power management of a hardware-reduced ACPI machine: four byte registers and one interrupt.
 *
 *   +0 SLEEP_CONTROL  bits 2-4 SLP_TYP, bit 5 SLP_EN (ACPI 6.4 §4.8.3.7)
 *   +1 SLEEP_STATUS   bit 7 WAK_STS, never set: nothing wakes up from S5
 *   +2 RESET          ACPI_PM_RESET_VALUE resets (§4.8.3.6)
 *   +3 EVENT          ours: ACPI_PM_EVENT_*; the generic event device's method reads it (§5.6.9)
 *
 * Threads: any; atomics. acpi_pm_press_power() sets the event before it raises the interrupt, so
 * that the method which the interrupt runs finds it.
 */
#include "devices/legacy/legacy.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SLP_TYP_SHIFT 2
#define SLP_TYP_MASK  (7u << SLP_TYP_SHIFT)
#define SLP_EN	      (1u << 5)

enum {
	REG_SLEEP_CONTROL = ACPI_PM_SLEEP_CONTROL - ACPI_PM_PORT,
	REG_SLEEP_STATUS = ACPI_PM_SLEEP_STATUS - ACPI_PM_PORT,
	REG_RESET = ACPI_PM_RESET - ACPI_PM_PORT,
	REG_EVENT = ACPI_PM_EVENT - ACPI_PM_PORT,
};

/* All that the guest can see. */
struct acpi_pm_state {
	_Atomic uint8_t sleep_control;
	_Atomic uint8_t events;
};

struct acpi_pm {
	const struct platform *plat;
	struct device_place place;
	struct irq irq;
	struct acpi_pm_state s;
};

static uint8_t reg_read(struct acpi_pm *dev, unsigned reg)
{
	switch (reg) {
	case REG_SLEEP_CONTROL:
		return atomic_load(&dev->s.sleep_control);
	case REG_EVENT:
		return atomic_exchange(&dev->s.events, 0);
	default:
		return 0;
	}
}

static void reg_write(struct acpi_pm *dev, unsigned reg, uint8_t v)
{
	const struct platform *plat = dev->plat;

	switch (reg) {
	case REG_SLEEP_CONTROL:
		atomic_store(&dev->s.sleep_control, v & SLP_TYP_MASK); /* SLP_EN reads as 0 */
		if ((v & SLP_EN) && (v & SLP_TYP_MASK) >> SLP_TYP_SHIFT == ACPI_PM_S5_TYPE)
			plat->ops->machine_event(plat->ctx, MACHINE_POWEROFF);
		break;
	case REG_RESET:
		if (v == ACPI_PM_RESET_VALUE)
			plat->ops->machine_event(plat->ctx, MACHINE_REBOOT);
		break;
	default:
		break;
	}
}

static uint64_t acpi_pm_read(void *dev, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)reg_read(dev, (unsigned)offset + i) << (8 * i);
	return value;
}

static void acpi_pm_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		reg_write(dev, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

static const struct bus_ops acpi_pm_ops = {acpi_pm_read, acpi_pm_write};

int acpi_pm_new(const struct platform *plat, const struct device_place *place,
		struct acpi_pm **ret_dev, struct err *err)
{
	struct acpi_pm *dev = calloc(1, sizeof(*dev));
	struct bus_range range = {place->base, ACPI_PM_PORTS, &acpi_pm_ops, dev, "acpi_pm"};
	int r;

	if (!dev)
		return err_sys(err, ENOMEM, "acpi_pm");
	dev->plat = plat;
	dev->place = *place;
	r = plat->ops->irq_connect(plat->ctx, place->gsi, &dev->irq, err);
	if (!r)
		r = bus_add(platform_bus(plat, place), &range, err);
	if (r) {
		free(dev);
		return r;
	}
	*ret_dev = dev;
	return 0;
}

void acpi_pm_free(struct acpi_pm *dev)
{
	if (!dev)
		return;
	bus_remove(platform_bus(dev->plat, &dev->place), dev->place.base, dev);
	free(dev);
}

void acpi_pm_press_power(struct acpi_pm *dev)
{
	atomic_fetch_or(&dev->s.events, ACPI_PM_EVENT_POWER);
	irq_raise(&dev->irq);
}
