/*
 * The few devices beside PCI and virtio that a kernel without firmware still looks for. Each
 * registers itself on the port bus, or where its place says, and is safe against any access.
 */
#ifndef DEVICES_LEGACY_LEGACY_H
#define DEVICES_LEGACY_LEGACY_H

#include "devices/platform.h"

/* i8042 keyboard controller: no keyboard; the pulse of the reset line is MACHINE_REBOOT. */
struct i8042;
int i8042_new(const struct platform *plat, struct i8042 **ret_dev, struct err *err);
void i8042_free(struct i8042 *dev);

/* MC146818 real-time clock at 0x70/0x71: the host's UTC time, 114 bytes of memory, no interrupt. */
struct rtc;
int rtc_new(const struct platform *plat, struct rtc **ret_dev, struct err *err);
void rtc_free(struct rtc *dev);

/* pvpanic (QEMU docs/specs/pvpanic), one byte, on a PC at PVPANIC_PORT: events to machine_event().
 */
#define PVPANIC_PORT  0x505
#define PVPANIC_BYTES 1
struct pvpanic;
int pvpanic_new(const struct platform *plat, const struct device_place *place,
		struct pvpanic **ret_dev, struct err *err);
void pvpanic_free(struct pvpanic *dev);

/*
 * ACPI hardware-reduced power management (ACPI 6.4 §4.8.3.7 sleep registers, §4.8.3.6 reset
 * register, §5.6.9 generic event device). The DSDT that names these ports is vmm/x86/acpi.c's.
 */
#define ACPI_PM_PORT	      0x600 /* of a PC */
#define ACPI_PM_SLEEP_CONTROL (ACPI_PM_PORT + 0)
#define ACPI_PM_SLEEP_STATUS  (ACPI_PM_PORT + 1)
#define ACPI_PM_RESET	      (ACPI_PM_PORT + 2)
#define ACPI_PM_EVENT	      (ACPI_PM_PORT + 3) /* reading gives and clears the event bits */
#define ACPI_PM_PORTS	      4
#define ACPI_PM_SLEEP_S5      0x34 /* to SLEEP_CONTROL: SLP_TYP ACPI_PM_S5_TYPE, SLP_EN */
#define ACPI_PM_RESET_VALUE   1
#define ACPI_PM_S5_TYPE	      5
#define ACPI_PM_EVENT_POWER   (1u << 0)
#define ACPI_PM_GSI	      5

struct acpi_pm;
int acpi_pm_new(const struct platform *plat, const struct device_place *place,
		struct acpi_pm **ret_dev, struct err *err);
void acpi_pm_free(struct acpi_pm *dev);

/* Presses the power button; any thread. */
void acpi_pm_press_power(struct acpi_pm *dev);

/* A power key that is an interrupt and nothing else: each press is one edge. A device tree names it
 * (Linux Documentation/devicetree/bindings/input/gpio-keys.yaml, "interrupts" without "gpios"). */
struct power_key;
int power_key_new(const struct platform *plat, const struct device_place *place,
		  struct power_key **ret_dev, struct err *err);
void power_key_free(struct power_key *dev);

/* Any thread. */
void power_key_press(struct power_key *dev);

/* PL031 real-time clock (ARM DDI 0224): the host's UTC time and what the guest adds to it; no
 * alarm. */
#define PL031_BYTES 4096
struct pl031;
int pl031_new(const struct platform *plat, const struct device_place *place, struct pl031 **ret_dev,
	      struct err *err);
void pl031_free(struct pl031 *dev);

#endif
