/*
 * Guest memory: one mapping, populated as the guest touches it.
 *
 * Ordinary memory is anonymous and private, because that is the kind to which hosts give
 * transparent huge pages by default (shared memory has them switched off almost everywhere): they
 * make start-up cheaper, and I/O of large requests about twice as fast. Reserved huge pages are a
 * memfd, sealed against resizing.
 *
 * The mapping shows as "lodge-guest-memory" in /proc/PID/smaps where the kernel names mappings,
 * which is how the memory of the guest is told from the monitor's own.
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
	int fd; /* -1: anonymous */
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
