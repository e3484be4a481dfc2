/* CPUID of the guest, made from tables as KVM gives them on Intel and on AMD. */
#include "base/checked.h"
#include "vmm/x86/cpu_features.h"
#include "vmm/x86/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

static const struct cpuid_host host = {.tsc_khz = 2596000, .tsc_deadline = true};

static struct cpuid_table table;
static struct machine_config config;

static void add(uint32_t leaf, uint32_t index, uint32_t flags, const uint32_t regs[4])
{
	table.entries[table.n++] = (struct kvm_cpuid_entry2){
	    .function = leaf,
	    .index = index,
	    .flags = flags,
	    .eax = regs[0],
	    .ebx = regs[1],
	    .ecx = regs[2],
	    .edx = regs[3],
	};
}

#define ADD(leaf, index, flags, ...) add(leaf, index, flags, (const uint32_t[4]){__VA_ARGS__})

static void common_leaves(void)
{
	ADD(1, 0, 0, 0x00a10f11, 0x01020800, 0x80202000, 0x078bfbff);
	ADD(6, 0, 0, 0, 0, 0, 0);
	ADD(7, 0, INDEXED, 1, 0x01800002, 0x104, 0x20000000);
	ADD(7, 1, INDEXED, 0, 0, 0, 0);
	ADD(0xb, 0, INDEXED, 0, 0, 0, 1);
	ADD(0x40000000, 0, 0, 0x40000001, 0, 0, 0);
	ADD(0x40000001, 0, 0, 0x01007efb, 0, 0, 0);
}

static int amd(void **state)
{
	(void)state;
	table.n = 0;
	machine_config_init(&config);
	ADD(0, 0, 0, 0x1c, 0x68747541, 0x444d4163, 0x69746e65);
	common_leaves();
	ADD(0x80000000, 0, 0, 0x80000021, 0, 0, 0);
	ADD(0x80000001, 0, 0, 0x00a10f11, 0x40000000, 0x00400393, 0x23d3fbff);
	ADD(0x80000008, 0, 0, 0x00003030, 0, 0x7001, 0);
	ADD(0x8000001d, 0, INDEXED, 0x00000121, 0x01c0003f, 0x3f, 0);
	ADD(0x8000001d, 3, INDEXED, 0x00004163, 0x03c0003f, 0x7fff, 1);
	ADD(0x8000001d, 4, INDEXED, 0, 0, 0, 0);
	ADD(0x8000001e, 0, 0, 0, 0x100, 0x100, 0);
	return 0;
}

static int intel(void **state)
{
	(void)state;
	table.n = 0;
	machine_config_init(&config);
	ADD(0, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	common_leaves();
	ADD(4, 0, INDEXED, 0x7c004121, 0x01c0003f, 0x3f, 0);
	ADD(4, 3, INDEXED, 0x7c1fc163, 0x03c0003f, 0x7fff, 4);
	ADD(4, 4, INDEXED, 0, 0, 0, 0);
	ADD(0x80000001, 0, 0, 0, 0, 0x121, 0x2c100800);
	ADD(0x80000008, 0, 0, 0x302e, 0, 0, 0);
	return 0;
}

static void prepare(void)
{
	struct err err = ERR_INIT;

	if (cpuid_prepare(&table, &host, &config, &err))
		fail_msg("%s", err.msg);
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(&table, function, index);

	assert_non_null(e);
	return e;
}

static void test_timer_and_hypervisor_bits(void **state)
{
	(void)state;
	prepare();
	assert_true(leaf(1, 0)->ecx & 1u << 31); /* hypervisor */
	assert_true(leaf(1, 0)->ecx & 1u << 24); /* TSC deadline */
	assert_true(leaf(1, 0)->ecx & 1u << 21); /* x2APIC */
	assert_true(leaf(6, 0)->eax & 1u << 2);	 /* timer runs in idle states */
}

static void test_hypervisor_leaves(void **state)
{
	const struct kvm_cpuid_entry2 *e;
	(void)state;

	prepare();
	e = leaf(0x40000000, 0);
	assert_memory_equal(&e->ebx, "KVMKVMKVM\0\0\0", 12);
	assert_int_equal(e->eax, 0x40000010);
	assert_int_equal(leaf(0x40000001, 0)->eax, 0x01007efb);
	assert_int_equal(leaf(0x40000010, 0)->eax, 2596000);
	assert_int_equal(leaf(0x40000010, 0)->ebx, 1000000);
}

static void test_unknown_tsc_frequency(void **state)
{
	const struct cpuid_host unknown = {0};
	(void)state;

	assert_int_equal(cpuid_prepare(&table, &unknown, &config, NULL), 0);
	assert_int_equal(leaf(0x40000000, 0)->eax, 0x40000001);
	assert_null(cpuid_find(&table, 0x40000010, 0));
	assert_false(leaf(1, 0)->ecx & 1u << 24);
}

static void test_apic_ids(void **state)
{
	(void)state;
	prepare();
	for (unsigned i = 0; i < 64; i++) {
		cpuid_for_vcpu(&table, i, 64);
		assert_int_equal(leaf(1, 0)->ebx, i << 24 | 64u << 16 | 0x0800);
		assert_int_equal(leaf(0xb, 0)->edx, i);
		assert_int_equal(leaf(0xb, 1)->edx, i);
	}
}

static void test_one_cpu_is_no_multiprocessor(void **state)
{
	(void)state;
	prepare();
	cpuid_for_vcpu(&table, 0, 1);
	assert_false(leaf(1, 0)->edx & 1u << 28);
	assert_int_equal(leaf(0xb, 1)->eax, 0);
	assert_int_equal(leaf(0xb, 1)->ebx, 1);
	assert_int_equal(leaf(0x80000008, 0)->ecx, 0);
	assert_false(leaf(0x80000001, 0)->ecx & 2);
}

static void test_levels(void **state)
{
	(void)state;
	prepare();
	cpuid_for_vcpu(&table, 4, 6);
	/* a thread a core */
	assert_int_equal(leaf(0xb, 0)->eax, 0);
	assert_int_equal(leaf(0xb, 0)->ebx, 1);
	assert_int_equal(leaf(0xb, 0)->ecx, 0x100);
	/* six cores, three bits */
	assert_int_equal(leaf(0xb, 1)->eax, 3);
	assert_int_equal(leaf(0xb, 1)->ebx, 6);
	assert_int_equal(leaf(0xb, 1)->ecx, 0x201);
	/* the end */
	assert_int_equal(leaf(0xb, 2)->ebx, 0);
	assert_int_equal(leaf(0xb, 2)->ecx, 2);
}

static void test_amd_topology(void **state)
{
	(void)state;
	prepare();
	cpuid_for_vcpu(&table, 3, 6);
	assert_true(leaf(1, 0)->edx & 1u << 28);
	assert_true(leaf(0x80000001, 0)->ecx & 2);
	assert_int_equal(leaf(0x80000008, 0)->ecx, 3u << 12 | 5);
	assert_int_equal(leaf(0x8000001e, 0)->eax, 3);
	assert_int_equal(leaf(0x8000001e, 0)->ebx, 3);
	assert_int_equal(leaf(0x8000001e, 0)->ecx, 0);
}

static void test_amd_caches(void **state)
{
	(void)state;
	prepare();
	cpuid_for_vcpu(&table, 0, 6);
	assert_int_equal(leaf(0x8000001d, 0)->eax >> 14, 0);
	assert_int_equal(leaf(0x8000001d, 3)->eax >> 14, 5);
	assert_int_equal(leaf(0x8000001d, 4)->eax, 0);
}

static void test_intel_caches(void **state)
{
	(void)state;
	prepare();
	cpuid_for_vcpu(&table, 0, 6);
	assert_int_equal(leaf(4, 0)->eax, 5u << 26 | 0x121);
	assert_int_equal(leaf(4, 3)->eax, 5u << 26 | 5u << 14 | 0x163);
	assert_int_equal(leaf(4, 4)->eax, 0);
	/* cores of the package: more than the field holds */
	cpuid_for_vcpu(&table, 0, 64);
	assert_int_equal(leaf(4, 0)->eax >> 26, 63);
}

static void test_intel_has_leaf_1f_and_no_amd_leaves(void **state)
{
	(void)state;
	prepare();
	cpuid_for_vcpu(&table, 5, 6);
	assert_int_equal(leaf(0x1f, 1)->ebx, 6);
	assert_int_equal(leaf(0x1f, 1)->edx, 5);
	assert_int_equal(leaf(0x80000008, 0)->ecx, 0);
	assert_false(leaf(0x80000001, 0)->ecx & 2);
}

static void test_phys_bits(void **state)
{
	(void)state;
	assert_int_equal(cpuid_phys_bits(&table), 0x30);
	table.n = 0;
	assert_int_equal(cpuid_phys_bits(&table), 36);
}

/* ---- masks ---- */

static void mask(const char *name)
{
	config.cpu_masked[config.ncpu_masked++] = (char *)(uintptr_t)name;
}

static void test_masks(void **state)
{
	(void)state;
	mask("cx16");
	mask("erms");
	mask("tsc_deadline_timer");
	mask("kvmclock");
	mask("fpu"); /* stands in two leaves on AMD */
	prepare();
	assert_int_equal(leaf(1, 0)->ecx & (1u << 13 | 1u << 24), 0);
	assert_int_equal(leaf(7, 0)->ebx & 1u << 9, 0);
	assert_int_equal(leaf(0x40000001, 0)->eax, 0x01007efa);
	assert_int_equal(leaf(1, 0)->edx & 1, 0);
	assert_int_equal(leaf(0x80000001, 0)->edx & 1, 0);
	assert_true(leaf(0x80000001, 0)->edx & 1u << 29); /* lm stays */
}

static void test_mask_of_an_absent_leaf(void **state)
{
	(void)state;
	mask("sev");
	prepare();
}

static void expect_unknown(const char *name, const char *message)
{
	struct err err = ERR_INIT;
	const struct cpu_feature *feature;

	assert_int_equal(cpu_feature_find(name, &feature, &err), -EINVAL);
	assert_string_equal(err.msg, message);
}

static void test_unknown_names(void **state)
{
	(void)state;
	expect_unknown("avx3", "unknown CPU feature 'avx3': did you mean avx, avx2 "
			       "(names are those of /proc/cpuinfo)");
	expect_unknown("rdrnd", "unknown CPU feature 'rdrnd': did you mean rdrand "
				"(names are those of /proc/cpuinfo)");
	expect_unknown("nothing-like-it",
		       "unknown CPU feature 'nothing-like-it' (names are those of /proc/cpuinfo)");
	expect_unknown("", "unknown CPU feature '' (names are those of /proc/cpuinfo)");
}

static void test_unknown_mask_fails(void **state)
{
	struct err err = ERR_INIT;
	(void)state;

	mask("xyzzyxyzzy");
	assert_int_equal(cpuid_prepare(&table, &host, &config, &err), -EINVAL);
}

static void test_full_table(void **state)
{
	struct err err = ERR_INIT;
	(void)state;

	while (table.n < CPUID_ENTRIES_MAX)
		ADD(0x50000000 + table.n, 0, 0, 0, 0, 0, 0);
	assert_int_equal(cpuid_prepare(&table, &host, &config, &err), -ENOSPC);
	assert_true(table.n <= CPUID_ENTRIES_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_timer_and_hypervisor_bits, amd),
	    cmocka_unit_test_setup(test_hypervisor_leaves, amd),
	    cmocka_unit_test_setup(test_unknown_tsc_frequency, amd),
	    cmocka_unit_test_setup(test_apic_ids, amd),
	    cmocka_unit_test_setup(test_one_cpu_is_no_multiprocessor, amd),
	    cmocka_unit_test_setup(test_levels, amd),
	    cmocka_unit_test_setup(test_amd_topology, amd),
	    cmocka_unit_test_setup(test_amd_caches, amd),
	    cmocka_unit_test_setup(test_intel_caches, intel),
	    cmocka_unit_test_setup(test_intel_has_leaf_1f_and_no_amd_leaves, intel),
	    cmocka_unit_test_setup(test_phys_bits, amd),
	    cmocka_unit_test_setup(test_masks, amd),
	    cmocka_unit_test_setup(test_mask_of_an_absent_leaf, amd),
	    cmocka_unit_test_setup(test_unknown_names, amd),
	    cmocka_unit_test_setup(test_unknown_mask_fails, amd),
	    cmocka_unit_test_setup(test_full_table, amd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
