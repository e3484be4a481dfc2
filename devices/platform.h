/*
 * What a device is handed instead of a virtual machine: guest memory, the two buses, interrupts and
 * doorbells. vmm/ fills it with KVM, unit tests with plain memory; devices/ knows no KVM.
 *
 * Interrupts are eventfds: writing 1 to one raises the interrupt, from any thread, without a lock.
 */
#ifndef DEVICES_PLATFORM_H
#define DEVICES_PLATFORM_H

#include "base/err.h"
#include "base/gmem.h"
#include "devices/bus.h"

#include <stdbool.h>
#include <stdint.h>

/* An interrupt that can be raised. Edge: each raise is one edge, raises may merge. */
struct irq {
	int fd; /* eventfd, owned by the platform; -1: not connected, raising does nothing */
};

void irq_raise(const struct irq *irq);

/* A message-signalled interrupt (PCI 3.0 §6.8): what is written where, and by which function. */
struct msi_msg {
	uint64_t addr;
	uint32_t data;
	uint32_t requester; /* bus << 8 | slot << 3 | function */
};

enum doorbell_space {
	DOORBELL_PIO,
	DOORBELL_MMIO,
};

/* A guest write that becomes a signal on an eventfd without a return to the VMM. */
struct doorbell {
	enum doorbell_space space;
	uint64_t addr;
	unsigned size;	/* bytes; 0: any size (MMIO only) */
	bool has_match; /* only when this value is written */
	uint64_t match;
	int fd; /* eventfd, the device's */
};

struct platform_ops {
	/* Connects a wired, edge-triggered interrupt (global system interrupt number `gsi`). */
	int (*irq_connect)(void *ctx, unsigned gsi, struct irq *ret_irq, struct err *err);

	/*
	 * Makes `n` message interrupts, silent until they are set. `vectors` is the caller's array.
	 * msi_set() with NULL masks: raises are kept by the device (pending bits), not delivered.
	 */
	int (*msi_alloc)(void *ctx, unsigned n, struct irq *vectors, struct err *err);
	int (*msi_set)(void *ctx, const struct irq *vector, const struct msi_msg *msg);

	/* Any vCPU thread. -EEXIST, -ENOSPC; the device then is rung through its register instead.
	 */
	int (*doorbell_add)(void *ctx, const struct doorbell *bell);
	int (*doorbell_del)(void *ctx, const struct doorbell *bell);

	/* The guest asks for the end of the machine; returns at once, from any thread. */
	void (*machine_event)(void *ctx, int event);
};

/* Why a machine ends; also what devices report through machine_event(). */
enum machine_event {
	MACHINE_POWEROFF = 1, /* guest switched itself off (ACPI S5) */
	MACHINE_REBOOT,	      /* guest asked for a reset (i8042, ACPI reset register) */
	MACHINE_PANIC,	      /* pvpanic: the guest kernel panicked */
	MACHINE_CRASH_LOADED, /* pvpanic: a crash kernel takes over; the machine goes on */
	MACHINE_TRIPLE_FAULT,
	MACHINE_STOPPED, /* asked from outside: signal, escape, StopVm */
	MACHINE_FAILED,	 /* KVM or the host failed the machine */
};

struct platform {
	struct gmem *mem;
	struct bus *pio;
	struct bus *mmio;
	const struct platform_ops *ops;
	void *ctx;
};

/* Where a machine has a device of fixed place. */
struct device_place {
	bool mmio; /* else a port */
	uint64_t base;
	unsigned gsi; /* of those that interrupt */
};

static inline struct bus *platform_bus(const struct platform *plat,
				       const struct device_place *place)
{
	return place->mmio ? plat->mmio : plat->pio;
}

#endif
