/* The device tree of an x86 machine, and how the kernel is given it. */
#include "base/bytes.h"
#include "base/checked.h"
#include "devices/virtio/virtio.h"
#include "tests/unit/fdt_reader.h"
#include "vmm/arch.h"
#include "vmm/x86/fdt.h"
#include "vmm/x86/layout.h"

#include <errno.h>

static struct machine_config config;
static struct kernel_loaded kernel;

static struct arch_boot a_boot(unsigned cpus, unsigned nmmio)
{
	machine_config_init(&config);
	config.cpus = cpus;
	config.hw = MACHINE_HW_FDT;
	config.transport = MACHINE_MMIO;
	kernel = (struct kernel_loaded){.entry = 0x1000000, .start = 0x1000000, .end = 0x3000000};
	return (struct arch_boot){
	    .config = &config,
	    .kernel = &kernel,
	    .cmdline = "some words",
	    .nmmio = nmmio,
	    .uart = true,
	    .rtc = true,
	    .pvpanic = true,
	};
}

static size_t build(const struct arch_boot *boot, uint64_t ram_bytes)
{
	size_t len = 0;

	assert_int_equal(x86_fdt_build(boot, ram_bytes, tree, sizeof(tree), &len), 0);
	assert_int_equal(fdt_check_full(tree, len), 0);
	return len;
}

static void tree_describes_the_machine(void **state)
{
	struct arch_boot boot = a_boot(2, 2);
	char path[64];
	unsigned gsi;
	gpa_t gpa;

	(void)state;
	boot.initrd = 0x3f00000;
	boot.initrd_bytes = 0x1234;
	build(&boot, UINT64_C(4) << 30);
	assert_text("/chosen", "bootargs", "some words");
	CELLS("/chosen", "linux,initrd-start", 0x3f00000);
	CELLS("/chosen", "linux,initrd-end", 0x3f01234);
	CELLS("/memory@0", "reg", 0, 0, 0, 0xc0000000);
	CELLS("/memory@100000000", "reg", 1, 0, 0, 0x40000000);
	CELLS("/cpus/cpu@1", "reg", 1);
	assert_false(has_node("/cpus/cpu@2"));
	assert_text("/interrupt-controller@fec00000", "compatible", "intel,ce4100-ioapic");
	assert_text("/interrupt-controller@fee00000", "compatible", "intel,ce4100-lapic");
	assert_text("/chosen", "stdout-path", "/serial@e8ff2000");
	CELLS("/serial@e8ff2000", "reg", 0, 0xe8ff2000, 0, 8);
	CELLS("/serial@e8ff2000", "interrupts", 4, 0);
	CELLS("/poweroff", "value", 0x34);
	for (unsigned i = 0; i < 2; i++) {
		arch_mmio_slot(i, &gpa, &gsi);
		snprintf(path, sizeof(path), "/virtio@%llx", (unsigned long long)gpa);
		CELLS(path, "reg", 0, (uint32_t)gpa, 0, VIRTIO_MMIO_BYTES);
		CELLS(path, "interrupts", gsi, 0);
	}
}

static void judges_have_no_remark(void **state)
{
	struct arch_boot boot = a_boot(4, 3);

	(void)state;
	assert_judges_are_content(build(&boot, UINT64_C(4) << 30));
}

static void largest_machine_fits(void **state)
{
	struct arch_boot boot = a_boot(MACHINE_CPUS_MAX, MACHINE_DISKS_MAX + 2 + MACHINE_NETS_MAX);
	static char words[MACHINE_CMDLINE_MAX + 1];

	(void)state;
	memset(words, 'x', MACHINE_CMDLINE_MAX);
	boot.cmdline = words;
	assert_true(build(&boot, UINT64_C(1) << 36) < sizeof(tree) / 2);
}

static void kernel_finds_it_in_its_setup_data(void **state)
{
	struct arch_boot boot = a_boot(1, 1);
	uint64_t size = 64 * MIB;
	uint8_t *host = calloc(1, size);
	const uint8_t *zero = host + X86_ZERO_PAGE, *data;
	struct gmem_region region = {0, size, host, -1, 0};
	struct arch_dtb dtb = {0};
	struct gmem *mem;

	(void)state;
	assert_non_null(host);
	assert_int_equal(gmem_new(&mem), 0);
	assert_int_equal(gmem_add(mem, &region, NULL), 0);
	assert_int_equal(arch_boot_write(mem, &boot, &dtb, NULL), 0);
	assert_int_equal(le64_load(zero + 0x70), 0); /* no ACPI */
	data = host + le64_load(zero + 0x250);
	data = host + le64_load(data); /* behind the seed */
	assert_int_equal(le64_load(data), 0);
	assert_int_equal(le32_load(data + 8), 2);
	assert_int_equal(le32_load(data + 12), dtb.len_bytes);
	assert_ptr_equal(data + 16, host + dtb.gpa);
	assert_int_equal(fdt_check_full(data + 16, dtb.len_bytes), 0);
	gmem_free(mem);
	free(host);
}

static void pci_is_refused(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	a_boot(1, 0);
	config.transport = MACHINE_PCI;
	assert_int_equal(arch_config_check(&config, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "--transport mmio"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tree_describes_the_machine),
	    cmocka_unit_test(judges_have_no_remark),
	    cmocka_unit_test(largest_machine_fits),
	    cmocka_unit_test(kernel_finds_it_in_its_setup_data),
	    cmocka_unit_test(pci_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
