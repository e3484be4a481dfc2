/* What the files of vmm/arm64/ know of a machine. */
#ifndef VMM_ARM64_VM_H
#define VMM_ARM64_VM_H

#include "vmm/arch.h"

#include <stdbool.h>
#include <stdint.h>

/* Guest-physical addresses have 40 bits where the host does not say otherwise (api.rst,
 * KVM_CAP_ARM_VM_IPA_SIZE). */
#define ARM64_IPA_BITS 40

/* GICv2's registers have a bit for each CPU. */
#define ARM64_GICV2_CPUS 8

struct arm64_gic {
	unsigned version; /* 2, 3 */
	bool its;	  /* takes messages */
	int fd, its_fd;	  /* KVM devices; -1: none */
};

struct arch_vm {
	const struct kvm *kvm;
	unsigned ncpus;
	struct arm64_gic gic;
	uint32_t target; /* KVM_ARM_TARGET_ */
	bool pmu, sve, pauth;
	gpa_t dtb; /* from arch_boot_write() on */
};

/* The affinity fields of MPIDR_EL1 that KVM gives vCPU `index` (16 CPUs to a cluster). */
static inline uint32_t arm64_mpidr(unsigned index)
{
	return (index & 0xf) | (index >> 4 & 0xff) << 8;
}

/* Makes the best GIC that KVM has. Errors say what the host lacks. */
int arm64_gic_new(const struct kvm *kvm, const struct machine_config *config,
		  struct arm64_gic *ret_gic, struct err *err);
void arm64_gic_free(struct arm64_gic *gic);

/* All vCPUs exist. */
int arm64_gic_start(const struct arm64_gic *gic, struct err *err);

#endif
