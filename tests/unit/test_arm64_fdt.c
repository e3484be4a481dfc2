/* The map and the device tree of a 64-bit Arm machine. */
#include "base/bytes.h"
#include "base/checked.h"
#include "devices/virtio/virtio.h"
#include "tests/unit/fdt_reader.h"
#include "vmm/arch.h"
#include "vmm/arm64/fdt.h"
#include "vmm/arm64/layout.h"
#include "vmm/arm64/vm.h"

#include <errno.h>

static struct machine_config config;
static struct kernel_loaded kernel;
static struct pci_host_config pci;
static struct arch_vm vm;

static struct arch_boot a_boot(unsigned cpus, unsigned gic_version)
{
	machine_config_init(&config);
	config.cpus = cpus;
	arch_pci_layout(UINT64_C(5) << 30, &pci);
	kernel = (struct kernel_loaded){
	    .entry = ARM64_RAM, .start = ARM64_RAM, .end = ARM64_RAM + 0x1801000};
	vm = (struct arch_vm){.ncpus = cpus, .pmu = true};
	vm.gic = (struct arm64_gic){.version = gic_version, .its = gic_version == 3};
	return (struct arch_boot){
	    .config = &config,
	    .vm = &vm,
	    .kernel = &kernel,
	    .cmdline = "some words",
	    .uart = true,
	    .rtc = true,
	    .pvpanic = true,
	};
}

static size_t build(const struct arch_boot *boot)
{
	size_t len = 0;

	assert_int_equal(arm64_fdt_build(boot, UINT64_C(5) << 30, tree, sizeof(tree), &len), 0);
	assert_int_equal(fdt_check_full(tree, len), 0);
	return len;
}

static void tree_describes_a_machine_with_pci(void **state)
{
	struct arch_boot boot = a_boot(18, 3);
	int len;

	(void)state;
	boot.pci = &pci;
	boot.initrd = 0x43f00000;
	boot.initrd_bytes = 0x1234;
	build(&boot);
	assert_text("/chosen", "bootargs", "some words");
	assert_text("/chosen", "stdout-path", "/serial@9000000");
	CELLS("/chosen", "linux,initrd-end", 0x43f01234);
	CELLS("/memory@40000000", "reg", 0, 0x40000000, 1, 0x40000000);
	assert_text("/psci", "method", "hvc");
	/* 16 CPUs to a cluster: MPIDR */
	CELLS("/cpus/cpu@f", "reg", 0xf);
	CELLS("/cpus/cpu@101", "reg", 0x101);
	assert_false(has_node("/cpus/cpu@102"));
	assert_text("/interrupt-controller@8000000", "compatible", "arm,gic-v3");
	CELLS("/interrupt-controller@8000000", "reg", 0, 0x8000000, 0, 0x10000, 0, 0x80a0000, 0,
	      18 * 0x20000);
	assert_text("/interrupt-controller@8000000/msi-controller@8080000", "compatible",
		    "arm,gic-v3-its");
	CELLS("/timer", "interrupts", 1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4);
	CELLS("/pmu", "interrupts", 1, 7, 4);
	assert_text("/serial@9000000", "compatible", "ns16550a");
	CELLS("/serial@9000000", "interrupts", 0, 1, 1);
	assert_text("/rtc@9010000", "compatible", "arm,pl031");
	CELLS("/gpio-keys/key-power", "linux,code", 116);
	CELLS("/gpio-keys/key-power", "interrupts", 0, 2, 1);
	assert_text("/pcie@3f000000", "compatible", "pci-host-ecam-generic");
	CELLS("/pcie@3f000000", "msi-map", 0, 2, 0, 0x10000);
	CELLS("/pcie@3f000000", "interrupt-map-mask", 0x1800, 0, 0, 7);
	(void)property("/pcie@3f000000", "interrupt-map", &len);
	assert_int_equal(len, 16 * 10 * 4);
	CELLS("/pcie@3f000000", "ranges", 0x02000000, 0, 0x10000000, 0, 0x10000000, 0, 0x20000000,
	      0x43000000, 2, 0, 2, 0, 1, 0);
}

static void tree_describes_virtio_mmio_and_gicv2(void **state)
{
	struct arch_boot boot = a_boot(2, 2);

	(void)state;
	boot.nmmio = 2;
	build(&boot);
	assert_text("/interrupt-controller@8000000", "compatible", "arm,cortex-a15-gic");
	assert_false(has_node("/pcie@3f000000"));
	CELLS("/timer", "interrupts", 1, 13, 0x304, 1, 14, 0x304, 1, 11, 0x304, 1, 10, 0x304);
	assert_text("/virtio@a001000", "compatible", "virtio,mmio");
	CELLS("/virtio@a001000", "reg", 0, 0xa001000, 0, VIRTIO_MMIO_BYTES);
	CELLS("/virtio@a001000", "interrupts", 0, 17, 1);
	assert_false(has_node("/virtio@a002000"));
}

static void initrd_lies_above_4_gib(void **state)
{
	struct arch_boot boot = a_boot(1, 3);

	(void)state;
	boot.initrd = 0xfffff000;
	boot.initrd_bytes = 0x1001;
	build(&boot);
	CELLS("/chosen", "linux,initrd-start", 0, 0xfffff000);
	CELLS("/chosen", "linux,initrd-end", 1, 1);
}

static void judges_have_no_remark(void **state)
{
	struct arch_boot boot = a_boot(4, 3);

	(void)state;
	boot.pci = &pci;
	boot.nmmio = 2;
	boot.initrd = 0x43f00000;
	boot.initrd_bytes = 0x1234;
	assert_judges_are_content(build(&boot));
}

static void judges_have_no_remark_about_gicv2(void **state)
{
	struct arch_boot boot = a_boot(2, 2);

	(void)state;
	boot.nmmio = 2;
	boot.pci = &pci;
	assert_judges_are_content(build(&boot));
}

static void largest_machine_fits(void **state)
{
	struct arch_boot boot = a_boot(MACHINE_CPUS_MAX, 3);
	static char words[MACHINE_CMDLINE_MAX + 1];

	(void)state;
	memset(words, 'x', MACHINE_CMDLINE_MAX);
	boot.cmdline = words;
	boot.nmmio = MACHINE_DISKS_MAX + 2 + MACHINE_NETS_MAX;
	assert_true(build(&boot) < sizeof(tree) / 2);
}

/* No two devices share a place, and none lies in RAM. */
static void map_has_no_overlaps(void **state)
{
	struct pci_host_config p;
	gpa_t gpa, last = 0;
	unsigned gsi;

	(void)state;
	assert_true(ARM64_GICR + MACHINE_CPUS_MAX * ARM64_GICR_BYTES <= ARM64_UART);
	assert_true(ARM64_ITS + ARM64_ITS_BYTES <= ARM64_GICR);
	for (unsigned i = 0; i < MACHINE_DISKS_MAX + 2 + MACHINE_NETS_MAX; i++) {
		arch_mmio_slot(i, &gpa, &gsi);
		assert_true(gpa >= ARM64_VIRTIO_MMIO && gpa > last && gpa < ARM64_MEM32);
		assert_true(gsi >= ARM64_MMIO_SPI && gsi < arch_wired_gsis());
		last = gpa;
	}
	arch_pci_layout(UINT64_C(5) << 30, &p);
	assert_false(p.ports);
	assert_true(p.mem32_gpa + p.mem32_len <= p.ecam_gpa);
	assert_true(p.ecam_gpa + PCI_ECAM_BYTES <= ARM64_RAM);
	assert_true(p.mem64_gpa >= ARM64_RAM + (UINT64_C(5) << 30));
}

static void boot_data_lies_apart(void **state)
{
	static const struct {
		uint64_t kernel_end, tree;
	} places[] = {
	    {0x1801000, 0x1801000}, /* behind the kernel */
	    {0x19eff01, 0x19f0000}, /* just room in its block */
	    {0x19f0001, 0x1a00000}, /* none there */
	    {0x1a00000, 0x1a00000},
	};
	struct arch_boot boot = a_boot(1, 3);
	uint64_t size = 64 * MIB;
	uint8_t *host = calloc(1, size);
	struct gmem_region region = {ARM64_RAM, size, host, -1, 0};
	struct arch_dtb dtb = {0};
	struct err err = ERR_INIT;
	struct gmem *mem;
	gpa_t initrd = 0;

	(void)state;
	assert_non_null(host);
	assert_int_equal(gmem_new(&mem), 0);
	assert_int_equal(gmem_add(mem, &region, NULL), 0);
	/* as high as it goes */
	assert_int_equal(arch_initrd_place(mem, &kernel, 5000, &initrd, NULL), 0);
	assert_int_equal(initrd, ARM64_RAM + size - 8192);
	/* exactly between the tree and the end of memory */
	assert_int_equal(arch_initrd_place(mem, &kernel, size - 0x1811000, &initrd, NULL), 0);
	assert_int_equal(initrd, ARM64_RAM + 0x1811000);
	assert_int_equal(arch_initrd_place(mem, &kernel, size - 0x1811000 + 1, &initrd, &err),
			 -ENOMEM);
	err = (struct err)ERR_INIT;
	assert_int_equal(arch_initrd_place(mem, &kernel, UINT64_MAX, &initrd, &err), -ENOMEM);
	/* booting.rst: on 8 bytes, and (of kernels before 4.2) not across a boundary of 2 MiB */
	for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
		kernel.end = ARM64_RAM + places[i].kernel_end;
		assert_int_equal(arch_boot_write(mem, &boot, &dtb, NULL), 0);
		assert_int_equal(dtb.gpa, ARM64_RAM + places[i].tree);
	}
	assert_int_equal(vm.dtb, dtb.gpa);
	assert_int_equal(fdt_check_full(host + (dtb.gpa - ARM64_RAM), dtb.len_bytes), 0);
	/* a kernel that leaves no room */
	kernel.end = ARM64_RAM + size;
	err = (struct err)ERR_INIT;
	assert_int_equal(arch_boot_write(mem, &boot, &dtb, &err), -ENOMEM);
	assert_int_equal(arch_initrd_place(mem, &kernel, 1, &initrd, NULL), -ENOMEM);
	gmem_free(mem);
	free(host);
}

static void what_cannot_be_is_said(void **state)
{
	struct err err = ERR_INIT;
	char mask[] = "sve";

	(void)state;
	a_boot(1, 3);
	assert_int_equal(arch_config_check(&config, &err), 0);
	config.hw = MACHINE_HW_ACPI;
	assert_int_equal(arch_config_check(&config, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "--hw fdt"));
	config.hw = MACHINE_HW_FDT;
	config.cpu_masked[config.ncpu_masked++] = mask;
	err = (struct err)ERR_INIT;
	assert_int_equal(arch_config_check(&config, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "-sve"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tree_describes_a_machine_with_pci),
	    cmocka_unit_test(tree_describes_virtio_mmio_and_gicv2),
	    cmocka_unit_test(initrd_lies_above_4_gib),
	    cmocka_unit_test(judges_have_no_remark),
	    cmocka_unit_test(judges_have_no_remark_about_gicv2),
	    cmocka_unit_test(largest_machine_fits),
	    cmocka_unit_test(map_has_no_overlaps),
	    cmocka_unit_test(boot_data_lies_apart),
	    cmocka_unit_test(what_cannot_be_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
