/* What a vCPU's KVM_RUN came back for. The vCPU's own thread only. */
#ifndef VMM_EXITS_H
#define VMM_EXITS_H

#include "vmm/vcpu.h"

#include <stdbool.h>

/*
 * Handles one return of KVM_RUN (`res`: 0 or -errno): accesses go to the buses; an end of the
 * machine goes to the host's event() with a line that says why. False: this vCPU runs no more.
 */
bool vcpu_handle_exit(struct vcpu *vcpu, int res);

#endif
