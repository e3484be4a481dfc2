/*
 * CPUID of the guest's processors: what KVM supports on this host, less what is masked, plus the
 * topology (one socket, one thread a core, APIC id = index) and the hypervisor leaves.
 *
 * Intel SDM volume 2 "CPUID" and volume 3 §9.9 (topology); AMD APM volume 3 appendix E;
 * Linux Documentation/virt/kvm/x86/cpuid.rst. Pure: no ioctl here.
 */
#ifndef VMM_X86_CPUID_H
#define VMM_X86_CPUID_H

#include "base/err.h"
#include "vmm/config.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define CPUID_ENTRIES_MAX 256

struct cpuid_table {
	unsigned n;
	struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
};

/* The entry of a leaf, or NULL. */
struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf);

struct cpuid_host {
	uint32_t tsc_khz;  /* 0: not known */
	bool tsc_deadline; /* KVM_CAP_TSC_DEADLINE_TIMER */
};

/*
 * Turns what KVM supports into what all vCPUs have in common. -EINVAL: a mask names an unknown
 * feature; -ENOSPC: more leaves than CPUID_ENTRIES_MAX.
 */
int cpuid_prepare(struct cpuid_table *table, const struct cpuid_host *host,
		  const struct machine_config *config, struct err *err);

/* Fills in what differs from one vCPU to the next. */
void cpuid_for_vcpu(struct cpuid_table *table, unsigned index, unsigned ncpus);

/* Width of a guest-physical address. */
unsigned cpuid_phys_bits(struct cpuid_table *table);

#endif
