/*
 * How fast this host's KVM runs guest kernel code: what tells hardware from emulation.
 */
#ifndef VMM_SPEED_H
#define VMM_SPEED_H

#include "base/err.h"
#include "vmm/kvm.h"

#include <stdint.h>

/*
 * Runs a loop of known length at the guest's highest privilege in a machine of its own that is
 * gone afterwards, and times it. `kvm` is open and has no machine. Takes well under a second
 * whatever the speed. Returns 0 and instructions each second, or -errno with the step that failed.
 */
int speed_measure(const struct kvm *kvm, uint64_t *ret_insns_per_s, struct err *err);

#endif
