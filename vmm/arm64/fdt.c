#include "vmm/arm64/fdt.h"
#include "devices/legacy/legacy.h"
#include "vmm/arm64/layout.h"
#include "vmm/arm64/vm.h"
#include "vmm/fdt/nodes.h"

#include <errno.h>

/* Of an interrupt's three cells (arm,gic-v3.yaml). */
#define GIC_SPI	  0
#define GIC_PPI	  1
#define IRQ_EDGE  1
#define IRQ_LEVEL 4

enum { PHANDLE_GIC = 1, PHANDLE_ITS, PHANDLE_CLOCK };

static void spi(unsigned gsi, uint32_t ret_cells[FDT_IRQ_CELLS_MAX])
{
	ret_cells[0] = GIC_SPI;
	ret_cells[1] = gsi;
	ret_cells[2] = IRQ_EDGE;
}

static const struct fdt_wiring wiring = {.phandle = PHANDLE_GIC, .cells = 3, .specify = spi};

/* Flags of a private interrupt: GICv2 wants to know which CPUs it goes to. */
static uint32_t ppi_flags(const struct arch_vm *vm)
{
	return vm->gic.version == 2 ? IRQ_LEVEL | ((1u << vm->ncpus) - 1) << 8 : IRQ_LEVEL;
}

static void add_cpus(struct dt *dt, const struct arch_vm *vm)
{
	dt_node(dt, "cpus");
	dt_u32(dt, "#address-cells", 1);
	dt_u32(dt, "#size-cells", 0);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		dt_node_at(dt, "cpu", arm64_mpidr(i));
		dt_text(dt, "device_type", "cpu");
		dt_text(dt, "compatible", "arm,armv8");
		dt_u32(dt, "reg", arm64_mpidr(i));
		dt_text(dt, "enable-method", "psci");
		dt_end(dt);
	}
	dt_end(dt);

	dt_node(dt, "psci");
	DT_TEXTS(dt, "compatible", "arm,psci-1.0\0arm,psci-0.2");
	dt_text(dt, "method", "hvc");
	dt_end(dt);
}

static void add_timer(struct dt *dt, const struct arch_vm *vm)
{
	uint32_t flags = ppi_flags(vm);

	dt_node(dt, "timer");
	dt_text(dt, "compatible", "arm,armv8-timer");
	DT_CELLS(dt, "interrupts", GIC_PPI, ARM64_PPI_TIMER_SECURE, flags, GIC_PPI,
		 ARM64_PPI_TIMER_PHYS, flags, GIC_PPI, ARM64_PPI_TIMER_VIRT, flags, GIC_PPI,
		 ARM64_PPI_TIMER_HYP, flags);
	dt_empty(dt, "always-on");
	dt_end(dt);
	if (!vm->pmu)
		return;
	dt_node(dt, "pmu");
	dt_text(dt, "compatible", "arm,armv8-pmuv3");
	DT_CELLS(dt, "interrupts", GIC_PPI, ARM64_PPI_PMU, flags);
	dt_end(dt);
}

static void add_gic(struct dt *dt, const struct arch_vm *vm)
{
	dt_node_at(dt, "interrupt-controller", ARM64_GICD);
	dt_text(dt, "compatible", vm->gic.version == 3 ? "arm,gic-v3" : "arm,cortex-a15-gic");
	dt_empty(dt, "interrupt-controller");
	dt_u32(dt, "#interrupt-cells", wiring.cells);
	dt_u32(dt, "phandle", PHANDLE_GIC);
	dt_u32(dt, "#address-cells", 2);
	dt_u32(dt, "#size-cells", 2);
	dt_empty(dt, "ranges");
	if (vm->gic.version == 3) {
		DT_CELLS(dt, "reg", DT_U64(ARM64_GICD), DT_U64(ARM64_GICD_BYTES),
			 DT_U64(ARM64_GICR), DT_U64(vm->ncpus * ARM64_GICR_BYTES));
		DT_CELLS(dt, "interrupts", GIC_PPI, ARM64_PPI_GIC, IRQ_LEVEL);
	} else {
		DT_CELLS(dt, "reg", DT_U64(ARM64_GICD), DT_U64(0x1000), DT_U64(ARM64_GICC),
			 DT_U64(ARM64_GICC_BYTES));
	}
	if (vm->gic.its) {
		dt_node_at(dt, "msi-controller", ARM64_ITS);
		dt_text(dt, "compatible", "arm,gic-v3-its");
		dt_empty(dt, "msi-controller");
		dt_u32(dt, "#msi-cells", 1);
		dt_u32(dt, "phandle", PHANDLE_ITS);
		fdt_reg(dt, ARM64_ITS, ARM64_ITS_BYTES);
		dt_end(dt);
	}
	dt_end(dt);
}

static void add_rtc(struct dt *dt, const struct arch_boot *boot)
{
	struct device_place place;

	if (!boot->rtc || !arch_device_place(boot->config, ARCH_PL031, &place))
		return;
	dt_node(dt, "apb-pclk");
	dt_text(dt, "compatible", "fixed-clock");
	dt_u32(dt, "#clock-cells", 0);
	dt_u32(dt, "clock-frequency", 24000000);
	dt_u32(dt, "phandle", PHANDLE_CLOCK);
	dt_end(dt);

	dt_node_at(dt, "rtc", place.base);
	DT_TEXTS(dt, "compatible", "arm,pl031\0arm,primecell");
	fdt_reg(dt, place.base, PL031_BYTES);
	dt_u32(dt, "clocks", PHANDLE_CLOCK);
	dt_text(dt, "clock-names", "apb_pclk");
	dt_end(dt);
}

int arm64_fdt_build(const struct arch_boot *boot, uint64_t ram_bytes, void *buf, size_t cap,
		    size_t *ret_len)
{
	char console[FDT_PATH_MAX];
	struct dt dt;
	int res;

	dt_init(&dt, buf, cap);
	fdt_root(&dt, &wiring);
	res = fdt_chosen(&dt, boot, fdt_uart_path(boot, console), true);
	if (res)
		return res;
	fdt_memory(&dt, ram_bytes);
	add_cpus(&dt, boot->vm);
	add_timer(&dt, boot->vm);
	add_gic(&dt, boot->vm);
	fdt_uart(&dt, boot, &wiring);
	add_rtc(&dt, boot);
	fdt_pvpanic(&dt, boot);
	fdt_power_key(&dt, &wiring, ARM64_POWER_SPI);
	if (boot->pci)
		fdt_pci(&dt, boot->pci, &wiring, boot->vm->gic.its ? PHANDLE_ITS : 0);
	fdt_virtio_mmio(&dt, boot, &wiring);
	return dt_finish(&dt, ret_len);
}
