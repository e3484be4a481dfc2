/*
 * The few PC devices that a kernel without firmware still looks for.
 * Each registers itself on the port bus and is safe against any access.
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

/* pvpanic at PVPANIC_PORT (QEMU docs/specs/pvpanic): events to machine_event(). */
#define PVPANIC_PORT 0x505
struct pvpanic;
int pvpanic_new(const struct platform *plat, struct pvpanic **ret_dev, struct err *err);
void pvpanic_free(struct pvpanic *dev);

/*
 * ACPI hardware-reduced power management (ACPI 6.4 §4.8.3.7 sleep registers, §4.8.3.6 reset
 * register, §5.6.9 generic event device). The DSDT that names these ports is vmm/x86/acpi.c's.
 */
#define ACPI_PM_PORT	      0x600
#define ACPI_PM_SLEEP_CONTROL (ACPI_PM_PORT + 0)
#define ACPI_PM_SLEEP_STATUS  (ACPI_PM_PORT + 1)
#define ACPI_PM_RESET	      (ACPI_PM_PORT + 2)
#define ACPI_PM_EVENT	      (ACPI_PM_PORT + 3) /* reading gives and clears the event bits */
#define ACPI_PM_PORTS	      4
#define ACPI_PM_RESET_VALUE   1
#define ACPI_PM_S5_TYPE	      5
#define ACPI_PM_EVENT_POWER   (1u << 0)
#define ACPI_PM_GSI	      5

struct acpi_pm;
int acpi_pm_new(const struct platform *plat, struct acpi_pm **ret_dev, struct err *err);
void acpi_pm_free(struct acpi_pm *dev);

/* Presses the power button; any thread. */
void acpi_pm_press_power(struct acpi_pm *dev);

#endif
