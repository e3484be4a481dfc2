/*
 * ACPI tables and the boot data beside them. The DSDT is also given to Intel's compiler (iasl),
 * where it is installed: it must come apart and go together again without a remark.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "vmm/arch.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/aml.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/e820.h"
#include "vmm/x86/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct machine_config config;
static struct pci_host_config pci;
static struct kernel_loaded kernel;
static uint8_t tables[ACPI_TABLES_MAX];

static struct arch_boot a_boot(unsigned cpus)
{
	machine_config_init(&config);
	config.cpus = cpus;
	arch_pci_layout(UINT64_C(5) << 30, &pci);
	kernel = (struct kernel_loaded){.entry = 0x1000000, .start = 0x1000000, .end = 0x3000000};
	return (struct arch_boot){
	    .config = &config,
	    .kernel = &kernel,
	    .pci = &pci,
	    .cmdline = "a word",
	    .uart = true,
	    .rtc = true,
	    .pvpanic = true,
	};
}

static void build(const struct arch_boot *boot)
{
	size_t len = 0;

	assert_int_equal(acpi_build(boot, tables, sizeof(tables), &len), 0);
	assert_true(len > 0 && len <= sizeof(tables));
}

static bool sums_to_zero(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	return !sum;
}

static const uint8_t *at(gpa_t gpa)
{
	assert_true(gpa >= X86_ACPI && gpa < X86_ACPI + sizeof(tables));
	return tables + (gpa - X86_ACPI);
}

/* As a kernel finds it: RSDP, XSDT, table; checksums on the way. */
static const uint8_t *table(const char *signature)
{
	const uint8_t *xsdt = at(le64_load(tables + 24));

	assert_memory_equal(tables, "RSD PTR ", 8);
	assert_true(sums_to_zero(tables, 20));
	assert_true(sums_to_zero(tables, 36));
	assert_memory_equal(xsdt, "XSDT", 4);
	for (size_t i = 36; i < le32_load(xsdt + 4); i += 8) {
		const uint8_t *t = at(le64_load(xsdt + i));

		assert_true(sums_to_zero(t, le32_load(t + 4)));
		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static void test_fadt_is_hardware_reduced(void **state)
{
	const struct arch_boot boot = a_boot(1);
	const uint8_t *fadt;
	(void)state;

	build(&boot);
	fadt = table("FACP");
	assert_non_null(fadt);
	assert_int_equal(le32_load(fadt + 4), 276);
	assert_true(le32_load(fadt + 112) & 1u << 20);
	assert_int_equal(le64_load(fadt + 116 + 4), 0x602); /* reset */
	assert_int_equal(le64_load(fadt + 244 + 4), 0x600); /* sleep control */
	assert_int_equal(le64_load(fadt + 256 + 4), 0x601); /* sleep status */
	assert_memory_equal(at(le64_load(fadt + 140)), "DSDT", 4);
	assert_int_equal(le64_load(fadt + 140), le32_load(fadt + 40));
	assert_true(
	    sums_to_zero(at(le64_load(fadt + 140)), le32_load(at(le64_load(fadt + 140)) + 4)));
}

static void test_madt_lists_cpus_and_ioapic(void **state)
{
	const struct arch_boot boot = a_boot(64);
	unsigned cpus = 0, ioapics = 0;
	const uint8_t *madt;
	(void)state;

	build(&boot);
	madt = table("APIC");
	assert_non_null(madt);
	assert_int_equal(le32_load(madt + 36), X86_LAPIC);
	assert_int_equal(le32_load(madt + 40), 0); /* no 8259 */
	for (size_t i = 44; i < le32_load(madt + 4); i += madt[i + 1]) {
		if (madt[i] == 0) {
			assert_int_equal(madt[i + 3], cpus);
			assert_int_equal(le32_load(madt + i + 4), 1);
			cpus++;
		} else if (madt[i] == 1) {
			assert_int_equal(le32_load(madt + i + 4), X86_IOAPIC);
			ioapics++;
		}
	}
	assert_int_equal(cpus, 64);
	assert_int_equal(ioapics, 1);
}

static void test_mcfg_only_with_pci(void **state)
{
	struct arch_boot boot = a_boot(1);
	const uint8_t *mcfg;
	(void)state;

	build(&boot);
	mcfg = table("MCFG");
	assert_non_null(mcfg);
	assert_int_equal(le64_load(mcfg + 44), X86_ECAM);
	assert_int_equal(mcfg[54], 0);
	assert_int_equal(mcfg[55], 0);
	boot.pci = NULL;
	build(&boot);
	assert_null(table("MCFG"));
}

static void test_largest_machine_fits(void **state)
{
	struct arch_boot boot = a_boot(MACHINE_CPUS_MAX);
	size_t len;
	(void)state;

	boot.nmmio = MACHINE_DISKS_MAX + 1;
	assert_int_equal(acpi_build(&boot, tables, sizeof(tables), &len), 0);
	assert_true(len < sizeof(tables) / 2);
}

static void test_too_small_a_buffer(void **state)
{
	struct arch_boot boot = a_boot(2);
	size_t len, ignored;
	(void)state;

	boot.nmmio = 3;
	assert_int_equal(acpi_build(&boot, tables, sizeof(tables), &len), 0);
	for (size_t cap = 0; cap < len; cap++) {
		uint8_t *buf = malloc(cap ? cap : 1);

		assert_int_equal(acpi_build(&boot, buf, cap, &ignored), -ENOSPC);
		free(buf);
	}
}

/* ---- AML ---- */

static void test_package_lengths(void **state)
{
	/* body bytes, bytes that the length takes, first byte: ACPI 6.4 §20.2.4 */
	static const struct {
		size_t body, bytes;
		uint8_t first;
	} cases[] = {
	    {0, 1, 1},	     {62, 1, 63},     {63, 2, 0x41},
	    {4093, 2, 0x4f}, {4094, 3, 0x81}, {70000, 3, 0x83},
	};
	uint8_t *buf = malloc(100000);
	(void)state;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct aml aml;
		size_t n;

		aml_init(&aml, buf, 100000);
		aml_package(&aml, "ABCD", 0); /* 1 + 4 + 1, then the body's first byte */
		if (!cases[i].body) {
			continue;
		}
		for (n = 1; n < cases[i].body; n++)
			aml_int(&aml, 0);
		aml_end(&aml);
		assert_int_equal(aml.len, 6 + cases[i].bytes + cases[i].body);
		assert_int_equal(buf[6], cases[i].first);
	}
	free(buf);
}

static bool have_iasl(void)
{
	return !system("command -v iasl >/dev/null 2>&1");
}

static void iasl(const struct arch_boot *boot)
{
	char dir[] = "/tmp/test_acpi.XXXXXX", cmd[512];
	const uint8_t *dsdt;
	FILE *f;

	build(boot);
	dsdt = at(le64_load(table("FACP") + 140));
	assert_non_null(mkdtemp(dir));
	snprintf(cmd, sizeof(cmd), "%s/dsdt.aml", dir);
	f = fopen(cmd, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(dsdt, 1, le32_load(dsdt + 4), f), le32_load(dsdt + 4));
	fclose(f);
	/* -we: warnings are errors; remarks count as well. The body must come out as it went in. */
	snprintf(
	    cmd, sizeof(cmd),
	    "cd %s && iasl -d dsdt.aml >log 2>&1 && iasl -we -oa -p new dsdt.dsl >>log 2>&1 && "
	    "grep -q '0 Errors, 0 Warnings, 0 Remarks' log && cmp -i 36 dsdt.aml new.aml >>log "
	    "2>&1",
	    dir);
	if (system(cmd)) {
		snprintf(cmd, sizeof(cmd), "cat %s/log %s/dsdt.dsl", dir, dir);
		fail_msg("iasl is not content (%d)", system(cmd));
	}
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
}

static void test_iasl_pci(void **state)
{
	const struct arch_boot boot = a_boot(2);
	(void)state;

	if (!have_iasl()) {
		print_message("skipped: iasl (package acpica-tools) is not installed\n");
		skip();
	}
	iasl(&boot);
}

static void test_iasl_mmio(void **state)
{
	struct arch_boot boot = a_boot(2);
	(void)state;

	if (!have_iasl()) {
		print_message("skipped: iasl (package acpica-tools) is not installed\n");
		skip();
	}
	boot.pci = NULL;
	boot.nmmio = MACHINE_DISKS_MAX + 1;
	iasl(&boot);
}

/* ---- memory map and boot data ---- */

static void check_map(uint64_t ram_bytes)
{
	struct e820_range map[E820_MAX];
	unsigned n = e820_build(ram_bytes, true, map);
	struct arch_ram ram[ARCH_RAM_MAX];
	uint64_t end = 0, total = 0;

	assert_true(n <= E820_MAX);
	for (unsigned i = 0; i < n; i++) {
		assert_true(map[i].base >= end && map[i].len);
		end = map[i].base + map[i].len;
		total += map[i].type == E820_RAM ? map[i].len : 0;
	}
	/* all of it but what lies below 1 MiB and is not for the kernel */
	assert_int_equal(total, ram_bytes - (X86_HIGH_RAM - X86_LOW_RAM_END));
	total = 0;
	for (unsigned i = 0; i < arch_ram_layout(ram_bytes, ram); i++) {
		assert_true(ram[i].gpa >= X86_4G || ram[i].gpa + ram[i].len_bytes <= X86_HOLE);
		total += ram[i].len_bytes;
	}
	assert_int_equal(total, ram_bytes);
	arch_pci_layout(ram_bytes, &pci);
	assert_true(pci.mem64_gpa >= end && pci.mem64_gpa >= X86_4G);
}

static void test_memory_maps(void **state)
{
	(void)state;
	check_map(64 * MIB);
	check_map(3 * GIB - 4 * KIB);
	check_map(3 * GIB);
	check_map(3 * GIB + 4 * KIB);
	check_map(7 * GIB);
	check_map(512 * GIB);
}

struct ram {
	struct gmem *mem;
	uint8_t *host;
};

static struct ram a_ram(uint64_t bytes)
{
	struct ram r = {.host = calloc(1, bytes)};
	const struct gmem_region region = {.len_bytes = bytes, .host = r.host, .fd = -1};

	assert_int_equal(gmem_new(&r.mem), 0);
	assert_int_equal(gmem_add(r.mem, &region, NULL), 0);
	return r;
}

static void free_ram(struct ram *r)
{
	gmem_free(r->mem);
	free(r->host);
}

static void test_boot_data(void **state)
{
	struct arch_boot boot = a_boot(1);
	struct ram r = a_ram(64 * MIB);
	const uint8_t *zero = r.host + X86_ZERO_PAGE;
	struct arch_dtb dtb;
	(void)state;

	boot.initrd = 0x3000000;
	boot.initrd_bytes = 12345;
	assert_int_equal(arch_boot_write(r.mem, &boot, &dtb, NULL), 0);
	assert_string_equal(r.host + le32_load(zero + 0x228), "a word");
	assert_int_equal(zero[0x210], 0xff); /* type_of_loader */
	assert_int_equal(le32_load(zero + 0x218), 0x3000000);
	assert_int_equal(le32_load(zero + 0x21c), 12345);
	assert_memory_equal(r.host + le64_load(zero + 0x70), "RSD PTR ", 8);
	assert_memory_equal(zero + 0x202, "HdrS", 4);
	/* the seed: type 9, 32 bytes, and not all the same */
	assert_int_equal(le32_load(r.host + le64_load(zero + 0x250) + 8), 9);
	assert_int_equal(le32_load(r.host + le64_load(zero + 0x250) + 12), 32);
	/* page tables: the last page below 4 GiB maps to itself */
	assert_int_equal(le64_load(r.host + X86_PAGE_TABLES + 6 * 4096 - 8) & ~0xfffu,
			 X86_4G - 2 * MIB);
	free_ram(&r);
}

static void test_kernel_that_takes_a_short_command_line(void **state)
{
	struct arch_boot boot = a_boot(1);
	struct ram r = a_ram(64 * MIB);
	struct err err = ERR_INIT;
	struct arch_dtb dtb;
	(void)state;

	kernel.setup_header_len = KERNEL_SETUP_HEADER_MAX;
	le32_store(kernel.setup_header + 0x238 - 0x1f1, 5);
	assert_int_equal(arch_boot_write(r.mem, &boot, &dtb, &err), -E2BIG);
	assert_string_equal(err.msg, "the kernel command line has 6 bytes, this kernel takes 5");
	free_ram(&r);
}

static void test_initrd_place(void **state)
{
	struct ram r = a_ram(64 * MIB);
	struct err err = ERR_INIT;
	gpa_t gpa = 0;
	(void)state;

	a_boot(1);
	kernel.initrd_max = 0x7fffffff;
	/* as high as it goes */
	assert_int_equal(arch_initrd_place(r.mem, &kernel, 5000, &gpa, &err), 0);
	assert_int_equal(gpa, 64 * MIB - 8192);
	/* no higher than the kernel reaches */
	kernel.initrd_max = 0x37fffff;
	assert_int_equal(arch_initrd_place(r.mem, &kernel, 4096, &gpa, &err), 0);
	assert_int_equal(gpa, 0x37ff000);
	/* exactly between the kernel and that */
	assert_int_equal(arch_initrd_place(r.mem, &kernel, 0x800000, &gpa, &err), 0);
	assert_int_equal(gpa, 0x3000000);
	assert_int_equal(arch_initrd_place(r.mem, &kernel, 0x800001, &gpa, &err), -ENOMEM);
	err.code = 0;
	assert_int_equal(arch_initrd_place(r.mem, &kernel, UINT64_MAX, &gpa, &err), -ENOMEM);
	free_ram(&r);
}

static void test_mmio_slots(void **state)
{
	gpa_t gpa, last = 0;
	unsigned gsi;
	(void)state;

	for (unsigned i = 0; i < MACHINE_DISKS_MAX + 1; i++) {
		arch_mmio_slot(i, &gpa, &gsi);
		assert_true(gpa >= last + 0x1000);
		assert_true(gsi < arch_wired_gsis() && gsi != 4 && gsi != 5);
		last = gpa;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fadt_is_hardware_reduced),
	    cmocka_unit_test(test_madt_lists_cpus_and_ioapic),
	    cmocka_unit_test(test_mcfg_only_with_pci),
	    cmocka_unit_test(test_largest_machine_fits),
	    cmocka_unit_test(test_too_small_a_buffer),
	    cmocka_unit_test(test_package_lengths),
	    cmocka_unit_test(test_iasl_pci),
	    cmocka_unit_test(test_iasl_mmio),
	    cmocka_unit_test(test_memory_maps),
	    cmocka_unit_test(test_boot_data),
	    cmocka_unit_test(test_kernel_that_takes_a_short_command_line),
	    cmocka_unit_test(test_initrd_place),
	    cmocka_unit_test(test_mmio_slots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
