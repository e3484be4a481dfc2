#include "vmm/x86/fdt.h"
#include "devices/legacy/legacy.h"
#include "vmm/fdt/nodes.h"
#include "vmm/x86/layout.h"

#include <errno.h>

#define IOAPIC_EDGE_RISING 0 /* second cell of an interrupt */
#define APIC_BYTES	   0x1000

enum { PHANDLE_IOAPIC = 1, PHANDLE_POWER };

static void pin(unsigned gsi, uint32_t ret_cells[FDT_IRQ_CELLS_MAX])
{
	ret_cells[0] = gsi;
	ret_cells[1] = IOAPIC_EDGE_RISING;
}

static const struct fdt_wiring wiring = {.phandle = PHANDLE_IOAPIC, .cells = 2, .specify = pin};

static void add_cpus(struct dt *dt, unsigned n)
{
	dt_node(dt, "cpus");
	dt_u32(dt, "#address-cells", 1);
	dt_u32(dt, "#size-cells", 0);
	for (unsigned i = 0; i < n; i++) {
		dt_node_at(dt, "cpu", i);
		dt_text(dt, "device_type", "cpu");
		dt_text(dt, "compatible", "intel,ce4100");
		dt_u32(dt, "reg", i); /* APIC id */
		dt_end(dt);
	}
	dt_end(dt);
}

static void add_apics(struct dt *dt)
{
	dt_node_at(dt, "interrupt-controller", X86_IOAPIC);
	dt_text(dt, "compatible", "intel,ce4100-ioapic");
	dt_empty(dt, "interrupt-controller");
	dt_u32(dt, "#interrupt-cells", wiring.cells);
	dt_u32(dt, "#address-cells", 0);
	dt_u32(dt, "phandle", PHANDLE_IOAPIC);
	fdt_reg(dt, X86_IOAPIC, APIC_BYTES);
	dt_end(dt);

	dt_node_at(dt, "interrupt-controller", X86_LAPIC);
	dt_text(dt, "compatible", "intel,ce4100-lapic");
	dt_empty(dt, "interrupt-controller");
	dt_u32(dt, "#interrupt-cells", 2);
	dt_u32(dt, "#address-cells", 0);
	fdt_reg(dt, X86_LAPIC, APIC_BYTES);
	dt_end(dt);
}

/* The registers that ACPI has for it, as a kernel without ACPI can write them. */
static void add_power(struct dt *dt, const struct arch_boot *boot)
{
	struct device_place place;

	if (!arch_device_place(boot->config, ARCH_ACPI_PM, &place))
		return;
	dt_node_at(dt, "power-management", place.base);
	DT_TEXTS(dt, "compatible", "lodge,power-management\0syscon");
	fdt_reg(dt, place.base, ACPI_PM_PORTS);
	dt_u32(dt, "reg-io-width", 1);
	dt_u32(dt, "phandle", PHANDLE_POWER);
	dt_end(dt);

	dt_node(dt, "poweroff");
	dt_text(dt, "compatible", "syscon-poweroff");
	dt_u32(dt, "regmap", PHANDLE_POWER);
	dt_u32(dt, "offset", ACPI_PM_SLEEP_CONTROL - ACPI_PM_PORT);
	dt_u32(dt, "value", ACPI_PM_SLEEP_S5);
	dt_end(dt);
	fdt_power_key(dt, &wiring, place.gsi);
}

int x86_fdt_build(const struct arch_boot *boot, uint64_t ram_bytes, void *buf, size_t cap,
		  size_t *ret_len)
{
	char console[FDT_PATH_MAX];
	struct dt dt;
	int res;

	dt_init(&dt, buf, cap);
	fdt_root(&dt, &wiring);
	res = fdt_chosen(&dt, boot, fdt_uart_path(boot, console), false);
	if (res)
		return res;
	fdt_memory(&dt, ram_bytes);
	add_cpus(&dt, boot->config->cpus);
	add_apics(&dt);
	fdt_uart(&dt, boot, &wiring);
	fdt_pvpanic(&dt, boot);
	add_power(&dt, boot);
	fdt_virtio_mmio(&dt, boot, &wiring);
	return dt_finish(&dt, ret_len);
}
