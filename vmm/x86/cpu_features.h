/*
 * The CPUID bits that --cpu host,-NAME takes away, by the names of Linux' /proc/cpuinfo.
 *
 * Intel SDM volume 2 "CPUID"; AMD APM volume 3 appendix E; Linux virt/kvm/x86/cpuid.rst for KVM's
 * own leaves.
 */
#ifndef VMM_X86_CPU_FEATURES_H
#define VMM_X86_CPU_FEATURES_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum cpuid_reg {
	CPUID_EAX,
	CPUID_EBX,
	CPUID_ECX,
	CPUID_EDX,
};

struct cpu_feature {
	const char *name;
	uint32_t leaf, subleaf;
	enum cpuid_reg reg;
	unsigned bit;
};

/* Looks a name up. -EINVAL: unknown; the message lists the names that come close. */
int cpu_feature_find(const char *name, const struct cpu_feature **ret_feature, struct err *err);

#endif
