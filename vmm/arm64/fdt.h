/*
 * The device tree of a 64-bit Arm machine: Devicetree Specification 0.4; Linux
 * Documentation/devicetree/bindings arm/cpus.yaml, arm/psci.yaml, arm/pmu.yaml,
 * timer/arm,arch_timer.yaml, interrupt-controller/arm,gic.yaml and arm,gic-v3.yaml,
 * rtc/arm,pl031.yaml.
 */
#ifndef VMM_ARM64_FDT_H
#define VMM_ARM64_FDT_H

#include "vmm/arch.h"

/* -ENOSPC: `cap` is too small. Pure, but for the random seeds. */
int arm64_fdt_build(const struct arch_boot *boot, uint64_t ram_bytes, void *buf, size_t cap,
		    size_t *ret_len);

#endif
