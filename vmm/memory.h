/*
 * Guest memory: one memfd, mapped whole, populated as the guest touches it.
 *
 * The mapping shows as "/memfd:lodge-guest-memory" in /proc/PID/smaps, which is how the memory of
 * the guest is told from the monitor's own. The memfd is sealed against resizing, so that no one
 * who is handed it can make an access fault (vhost-user devices, later).
 *
 * Threads: one; the gmem inside has its own rule.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include "base/err.h"
#include "base/gmem.h"
#include "vmm/config.h"
#include "vmm/kvm.h"

#include <stdint.h>

#define GUEST_MEMORY_NAME "lodge-guest-memory"

struct guest_memory {
	struct gmem *mem;
	int fd;
	uint8_t *host;
	uint64_t len_bytes;
};

#define GUEST_MEMORY_INIT \
	{                 \
		.fd = -1  \
	}

/* Is this much memory to be had? -ENOMEM with both figures, -EINVAL below the minimum or not a
 * whole number of pages of the size asked for. */
int guest_memory_check(const struct machine_config *config, struct err *err);

int guest_memory_new(const struct machine_config *config, struct guest_memory *memory,
		     struct err *err);

/* Tells KVM, one slot for each region. */
int guest_memory_give(const struct guest_memory *memory, const struct kvm *kvm, struct err *err);

/* The VM is gone; accepts a half-built one. */
void guest_memory_free(struct guest_memory *memory);

#endif
