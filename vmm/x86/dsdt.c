/*
 * \_SB: the PCI host bridge and its configuration space, the serial port, the clock, virtio-mmio
 * devices, pvpanic, the power button and the generic event device that rings it. \_S5: power-off.
 */
#include "vmm/x86/dsdt.h"
#include "devices/legacy/legacy.h"
#include "devices/legacy/uart.h"
#include "devices/virtio/virtio.h"
#include "vmm/x86/aml.h"

#include <errno.h>
#include <stdio.h>

#define NOTIFY_BUTTON 0x80 /* ACPI 6.4 §5.6.6: button pressed */
#define STA_PRESENT   0xf  /* present, enabled, shown, working */

static void add_pci(struct aml *aml, const struct pci_host_config *pci)
{
	struct aml_crs windows = {0}, ecam = {0};

	aml_device(aml, "PCI0");
	aml_name_eisaid(aml, "_HID", "PNP0A08");
	aml_name_eisaid(aml, "_CID", "PNP0A03");
	aml_name_int(aml, "_UID", 0);
	aml_name_int(aml, "_SEG", 0);
	aml_name_int(aml, "_BBN", 0);
	aml_crs_bus_window(&windows, 0, 0);
	aml_crs_io(&windows, 0xcf8, 8);
	aml_crs_mem_window(&windows, pci->mem32_gpa, pci->mem32_len);
	if (pci->mem64_len)
		aml_crs_mem_window(&windows, pci->mem64_gpa, pci->mem64_len);
	aml_name_crs(aml, &windows);
	aml_end(aml);

	/* Linux uses the configuration space only where a motherboard resource reserves it. */
	aml_device(aml, "ECAM");
	aml_name_eisaid(aml, "_HID", "PNP0C02");
	aml_name_int(aml, "_UID", 0);
	aml_crs_mem32(&ecam, (uint32_t)pci->ecam_gpa, PCI_ECAM_BYTES);
	aml_name_crs(aml, &ecam);
	aml_end(aml);
}

static void add_uart(struct aml *aml)
{
	struct aml_crs crs = {0};

	aml_device(aml, "COM1");
	aml_name_eisaid(aml, "_HID", "PNP0501");
	aml_name_int(aml, "_UID", 1);
	aml_crs_io(&crs, UART_COM1_PORT, UART_PORTS);
	aml_crs_irq(&crs, UART_COM1_GSI, false);
	aml_name_crs(aml, &crs);
	aml_end(aml);
}

static void add_rtc(struct aml *aml)
{
	struct aml_crs crs = {0};

	aml_device(aml, "RTC_");
	aml_name_eisaid(aml, "_HID", "PNP0B00");
	aml_crs_io(&crs, 0x70, 2);
	aml_name_crs(aml, &crs);
	aml_end(aml);
}

static void add_pvpanic(struct aml *aml)
{
	struct aml_crs crs = {0};

	aml_device(aml, "PEVT");
	aml_name_string(aml, "_HID", "QEMU0001");
	aml_name_int(aml, "_STA", STA_PRESENT);
	aml_crs_io(&crs, PVPANIC_PORT, 1);
	aml_name_crs(aml, &crs);
	aml_end(aml);
}

static void add_mmio(struct aml *aml, unsigned n)
{
	struct aml_crs crs = {0};
	char name[5];
	unsigned gsi;
	gpa_t gpa;

	arch_mmio_slot(n, &gpa, &gsi);
	snprintf(name, sizeof(name), "VM%02X", n & 0xff);
	aml_device(aml, name);
	aml_name_string(aml, "_HID", "LNRO0005");
	aml_name_int(aml, "_UID", n);
	aml_crs_mem32(&crs, (uint32_t)gpa, VIRTIO_MMIO_BYTES);
	aml_crs_irq(&crs, gsi, true);
	aml_name_crs(aml, &crs);
	aml_end(aml);
}

static void add_power(struct aml *aml)
{
	struct aml_crs crs = {0};

	aml_device(aml, "PWRB");
	aml_name_eisaid(aml, "_HID", "PNP0C0C");
	aml_end(aml);

	/* Its interrupt says that the event port has something to read. */
	aml_device(aml, "GED_");
	aml_name_string(aml, "_HID", "ACPI0013");
	aml_crs_irq(&crs, ACPI_PM_GSI, false);
	aml_name_crs(aml, &crs);
	aml_io_byte(aml, "EVTR", "EVTB", ACPI_PM_EVENT);
	aml_method(aml, "_EVT", 1);
	aml_local0_from(aml, "EVTB");
	aml_if_local0_bit(aml, ACPI_PM_EVENT_POWER);
	aml_notify(aml, "PWRB", NOTIFY_BUTTON);
	aml_end(aml);
	aml_end(aml);
	aml_end(aml);
}

int dsdt_build(const struct arch_boot *boot, uint8_t *buf, size_t cap, size_t *ret_len)
{
	struct aml aml;

	aml_init(&aml, buf, cap);
	aml_scope_sb(&aml);
	if (boot->pci)
		add_pci(&aml, boot->pci);
	if (boot->uart)
		add_uart(&aml);
	if (boot->rtc)
		add_rtc(&aml);
	if (boot->pvpanic)
		add_pvpanic(&aml);
	for (unsigned i = 0; i < boot->nmmio; i++)
		add_mmio(&aml, i);
	add_power(&aml);
	aml_end(&aml);

	/* What the sleep control register takes for S5 (§7.4.2). */
	aml_package(&aml, "_S5_", 4);
	aml_int(&aml, ACPI_PM_S5_TYPE);
	for (unsigned i = 1; i < 4; i++)
		aml_int(&aml, 0);
	aml_end(&aml);
	if (aml.overflow)
		return -ENOSPC;
	*ret_len = aml.len;
	return 0;
}
