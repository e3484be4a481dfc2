/* Which devices an x86 machine has, and where (layout.h). */
#include "devices/legacy/legacy.h"
#include "devices/legacy/uart.h"
#include "vmm/arch.h"
#include "vmm/x86/layout.h"

#include <errno.h>

enum kernel_machine arch_kernel_machine(void)
{
	return KERNEL_FOR_X86_64;
}

int arch_config_check(const struct machine_config *config, struct err *err)
{
	if (arch_by_fdt(config) && config->transport == MACHINE_PCI)
		return err_set(err, EINVAL,
			       "a machine that is described by a device tree has no PCI on x86: "
			       "--transport mmio");
	return 0;
}

bool arch_by_fdt(const struct machine_config *config)
{
	return config->hw == MACHINE_HW_FDT;
}

enum machine_transport arch_transport(const struct machine_config *config)
{
	return arch_by_fdt(config) ? MACHINE_MMIO : MACHINE_PCI;
}

bool arch_device_place(const struct machine_config *config, enum arch_device device,
		       struct device_place *ret_place)
{
	/* without PCI, Linux knows no ports of a device tree */
	bool fdt = arch_by_fdt(config);

	switch (device) {
	case ARCH_UART:
		*ret_place = (struct device_place){
		    .mmio = fdt, .base = fdt ? X86_FDT_UART : UART_COM1_PORT, .gsi = UART_COM1_GSI};
		return true;
	case ARCH_PVPANIC:
		*ret_place = fdt ? (struct device_place){.mmio = true, .base = X86_FDT_PVPANIC}
				 : (struct device_place){.base = PVPANIC_PORT};
		return true;
	case ARCH_ACPI_PM:
		*ret_place = (struct device_place){
		    .mmio = fdt, .base = fdt ? X86_FDT_POWER : ACPI_PM_PORT, .gsi = ACPI_PM_GSI};
		return true;
	case ARCH_I8042:
	case ARCH_RTC:
		return true;
	case ARCH_PL031:
	case ARCH_POWER_KEY:
		return false;
	}
	return false;
}
