#include "vmm/x86/cpuid.h"
#include "base/checked.h"
#include "vmm/x86/cpu_features.h"

#include <errno.h>
#include <string.h>

#define LEAF_FEATURES	   0x1
#define LEAF_CACHE	   0x4
#define LEAF_POWER	   0x6
#define LEAF_TOPOLOGY	   0xb
#define LEAF_TOPOLOGY2	   0x1f
#define LEAF_HYPERVISOR	   0x40000000
#define LEAF_KVM_FEATURES  0x40000001
#define LEAF_FREQUENCIES   0x40000010
#define LEAF_EXT_FEATURES  0x80000001
#define LEAF_ADDRESS_SIZES 0x80000008
#define LEAF_AMD_CACHE	   0x8000001d
#define LEAF_AMD_TOPOLOGY  0x8000001e

#define ECX1_X2APIC	       (1u << 21)
#define ECX1_TSC_DEADLINE      (1u << 24)
#define ECX1_HYPERVISOR	       (1u << 31)
#define EDX1_HTT	       (1u << 28)
#define EAX6_ARAT	       (1u << 2)
#define ECX80000001_CMP_LEGACY (1u << 1)

/* KVM's local APIC timer counts nanoseconds: a bus of 1 GHz. */
#define APIC_BUS_KHZ 1000000

/* A level of leaf 0xb: SDM volume 2, table "CPUID leaf 0BH", ECX[15:8]. */
#define LEVEL_SMT  1
#define LEVEL_CORE 2

struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < table->n; i++) {
		struct kvm_cpuid_entry2 *e = &table->entries[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

static struct kvm_cpuid_entry2 *find_or_add(struct cpuid_table *table, uint32_t leaf,
					    uint32_t subleaf, bool indexed)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, leaf, subleaf);

	if (e || table->n == CPUID_ENTRIES_MAX)
		return e;
	e = &table->entries[table->n++];
	*e = (struct kvm_cpuid_entry2){
	    .function = leaf,
	    .index = subleaf,
	    .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
	};
	return e;
}

static void drop_leaf(struct cpuid_table *table, uint32_t leaf)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < table->n; i++) {
		if (table->entries[i].function != leaf)
			table->entries[kept++] = table->entries[i];
	}
	table->n = kept;
}

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
	switch (reg) {
	case CPUID_EAX:
		return &e->eax;
	case CPUID_EBX:
		return &e->ebx;
	case CPUID_ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

static int mask(struct cpuid_table *table, const char *name, struct err *err)
{
	const struct cpu_feature *feature;
	struct kvm_cpuid_entry2 *e;
	int res;

	res = cpu_feature_find(name, &feature, err);
	if (res)
		return res;
	e = cpuid_find(table, feature->leaf, feature->subleaf);
	if (e)
		*reg_of(e, feature->reg) &= ~(1u << feature->bit);
	/* AMD repeats the low feature bits in its extended leaf. */
	if (feature->leaf == LEAF_FEATURES && feature->reg == CPUID_EDX) {
		uint32_t repeated = 0x0183f3ff & (1u << feature->bit);

		e = cpuid_find(table, LEAF_EXT_FEATURES, 0);
		if (e)
			e->edx &= ~repeated;
	}
	return 0;
}

/* The levels of leaves 0xb and 0x1f: threads, cores, end. */
static int add_topology(struct cpuid_table *table, uint32_t leaf)
{
	drop_leaf(table, leaf);
	for (unsigned level = 0; level < 3; level++) {
		if (!find_or_add(table, leaf, level, true))
			return -ENOSPC;
	}
	return 0;
}

static int add_hypervisor(struct cpuid_table *table, const struct cpuid_host *host)
{
	struct kvm_cpuid_entry2 *e = find_or_add(table, LEAF_HYPERVISOR, 0, false);

	if (!e)
		return -ENOSPC;
	e->eax = MAX(e->eax, LEAF_KVM_FEATURES);
	memcpy(&e->ebx, "KVMK", 4);
	memcpy(&e->ecx, "VMKV", 4);
	memcpy(&e->edx, "M\0\0\0", 4);
	if (!host->tsc_khz)
		return 0;
	/* Frequencies, so that no guest has to measure them. */
	e->eax = MAX(e->eax, LEAF_FREQUENCIES);
	e = find_or_add(table, LEAF_FREQUENCIES, 0, false);
	if (!e)
		return -ENOSPC;
	e->eax = host->tsc_khz;
	e->ebx = APIC_BUS_KHZ;
	e->ecx = e->edx = 0;
	return 0;
}

int cpuid_prepare(struct cpuid_table *table, const struct cpuid_host *host,
		  const struct machine_config *config, struct err *err)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, 0, 0);
	uint32_t max = e ? e->eax : 0;
	int res = 0;

	e = cpuid_find(table, LEAF_FEATURES, 0);
	if (e) {
		e->ecx |= ECX1_HYPERVISOR | ECX1_X2APIC;
		if (host->tsc_deadline)
			e->ecx |= ECX1_TSC_DEADLINE;
	}
	/* KVM's APIC timer runs in every idle state; Linux then needs no second timer. */
	e = max >= LEAF_POWER ? find_or_add(table, LEAF_POWER, 0, false) : NULL;
	if (e)
		e->eax |= EAX6_ARAT;
	if (max >= LEAF_TOPOLOGY)
		res = add_topology(table, LEAF_TOPOLOGY);
	if (!res && max >= LEAF_TOPOLOGY2)
		res = add_topology(table, LEAF_TOPOLOGY2);
	if (!res)
		res = add_hypervisor(table, host);
	if (res)
		return err_set(err, ENOSPC, "the processor has more than %d CPUID leaves",
			       CPUID_ENTRIES_MAX);
	for (unsigned i = 0; i < config->ncpu_masked; i++) {
		res = mask(table, config->cpu_masked[i], err);
		if (res)
			return res;
	}
	return 0;
}

/* How many bits number so many cores. */
static unsigned id_bits(unsigned ncpus)
{
	unsigned bits = 0;

	while ((1u << bits) < ncpus)
		bits++;
	return bits;
}

/* Cache leaves of Intel (4) and AMD (0x8000001d): sharers in EAX[25:14], and on Intel cores in
 * EAX[31:26]; both less one. The third level is everyone's, the lower ones each core's own. */
static void set_cache(struct kvm_cpuid_entry2 *e, unsigned ncpus)
{
	unsigned level = e->eax >> 5 & 7;
	uint32_t sharers = level >= 3 ? ncpus - 1 : 0;

	if (!(e->eax & 0x1f))
		return; /* the end of the list */
	e->eax = (e->eax & ~(0xfffu << 14)) | sharers << 14;
	if (e->function == LEAF_CACHE)
		e->eax = (e->eax & 0x03ffffff) | MIN(ncpus - 1, 63u) << 26;
}

static void set_level(struct kvm_cpuid_entry2 *e, unsigned index, unsigned ncpus)
{
	e->eax = e->index == 1 ? id_bits(ncpus) : 0;
	e->ebx = e->index == 1 ? ncpus : e->index == 0 ? 1 : 0;
	e->ecx = e->index | (e->index == 0 ? LEVEL_SMT << 8 : e->index == 1 ? LEVEL_CORE << 8 : 0);
	e->edx = index;
}

static void set_entry(struct kvm_cpuid_entry2 *e, unsigned index, unsigned ncpus)
{
	switch (e->function) {
	case LEAF_FEATURES:
		/* EBX: initial APIC id, logical processors, CLFLUSH line (the host's) */
		e->ebx = (e->ebx & 0xffff) | ncpus << 16 | index << 24;
		e->edx = ncpus > 1 ? e->edx | EDX1_HTT : e->edx & ~EDX1_HTT;
		break;
	case LEAF_CACHE:
	case LEAF_AMD_CACHE:
		set_cache(e, ncpus);
		break;
	case LEAF_TOPOLOGY:
	case LEAF_TOPOLOGY2:
		set_level(e, index, ncpus);
		break;
	case LEAF_ADDRESS_SIZES:
		/* ECX: cores less one, and the width of their ids  */
		e->ecx = (e->ecx & ~0xf0ffu) | id_bits(ncpus) << 12 | (ncpus - 1);
		break;
	case LEAF_AMD_TOPOLOGY:
		e->eax = index;	       /* extended APIC id */
		e->ebx = index & 0xff; /* core id; one thread a core */
		e->ecx = 0;	       /* node 0 of 1 */
		break;
	}
}

static bool is_amd(struct cpuid_table *table)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(table, 0, 0);

	/* "Auth" and "Hygo": the family of processors that share AMD's leaves */
	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

void cpuid_for_vcpu(struct cpuid_table *table, unsigned index, unsigned ncpus)
{
	struct kvm_cpuid_entry2 *e;
	bool amd = is_amd(table);

	for (unsigned i = 0; i < table->n; i++) {
		e = &table->entries[i];
		if (!amd && (e->function == LEAF_ADDRESS_SIZES || e->function == LEAF_AMD_TOPOLOGY))
			continue;
		set_entry(e, index, ncpus);
	}
	/* AMD: several logical processors are cores, not threads. */
	e = cpuid_find(table, LEAF_EXT_FEATURES, 0);
	if (amd && e)
		e->ecx =
		    ncpus > 1 ? e->ecx | ECX80000001_CMP_LEGACY : e->ecx & ~ECX80000001_CMP_LEGACY;
}

unsigned cpuid_phys_bits(struct cpuid_table *table)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(table, LEAF_ADDRESS_SIZES, 0);

	return e && (e->eax & 0xff) ? e->eax & 0xff : 36;
}
