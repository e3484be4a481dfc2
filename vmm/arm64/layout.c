/* Where a 64-bit Arm machine has what (layout.h). */
#include "vmm/arm64/layout.h"
#include "base/checked.h"
#include "vmm/arch.h"

#include <errno.h>

enum kernel_machine arch_kernel_machine(void)
{
	return KERNEL_FOR_ARM64;
}

int arch_config_check(const struct machine_config *config, struct err *err)
{
	if (config->hw == MACHINE_HW_ACPI)
		return err_set(err, EINVAL,
			       "a 64-bit Arm machine is described by a device tree, not by ACPI: "
			       "--hw fdt");
	if (config->ncpu_masked)
		return err_set(err, EINVAL,
			       "CPU features cannot be masked on 64-bit Arm (-%s): --cpu host",
			       config->cpu_masked[0]);
	return 0;
}

bool arch_by_fdt(const struct machine_config *config)
{
	(void)config;
	return true;
}

enum machine_transport arch_transport(const struct machine_config *config)
{
	(void)config;
	return MACHINE_PCI;
}

unsigned arch_ram_layout(uint64_t bytes, struct arch_ram ret_ram[ARCH_RAM_MAX])
{
	ret_ram[0] = (struct arch_ram){ARM64_RAM, bytes};
	return 1;
}

void arch_pci_layout(uint64_t ram_bytes, struct pci_host_config *ret_config)
{
	*ret_config = (struct pci_host_config){
	    .ecam_gpa = ARM64_ECAM,
	    .mem32_gpa = ARM64_MEM32,
	    .mem32_len = ARM64_MEM32_LEN,
	    .mem64_gpa = align_up(ARM64_RAM + ram_bytes, ARM64_MEM64_LEN),
	    .mem64_len = ARM64_MEM64_LEN,
	    .intx = true,
	    .intx_gsi = ARM64_PCI_SPI,
	};
}

void arch_mmio_slot(unsigned n, gpa_t *ret_gpa, unsigned *ret_gsi)
{
	*ret_gpa = ARM64_VIRTIO_MMIO + (gpa_t)n * 0x1000;
	*ret_gsi = ARM64_MMIO_SPI + n % ARM64_MMIO_SPIS;
}

bool arch_device_place(const struct machine_config *config, enum arch_device device,
		       struct device_place *ret_place)
{
	(void)config;
	switch (device) {
	case ARCH_UART:
		*ret_place = (struct device_place){true, ARM64_UART, ARM64_UART_SPI};
		return true;
	case ARCH_PL031:
		*ret_place = (struct device_place){true, ARM64_RTC, 0};
		return true;
	case ARCH_PVPANIC:
		*ret_place = (struct device_place){true, ARM64_PVPANIC, 0};
		return true;
	case ARCH_POWER_KEY:
		*ret_place = (struct device_place){.gsi = ARM64_POWER_SPI};
		return true;
	case ARCH_I8042:
	case ARCH_RTC:
	case ARCH_ACPI_PM:
		return false;
	}
	return false;
}

unsigned arch_wired_gsis(void)
{
	return ARM64_SPIS;
}

const char *arch_console_words(void)
{
	return "console=ttyS0";
}

const char *arch_reset_words(const struct machine_config *config)
{
	(void)config;
	return ""; /* PSCI is asked without being told */
}
