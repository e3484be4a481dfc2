/*
 * Interrupts and doorbells through KVM: irqfd for wired and for message-signalled interrupts, one
 * routing table for both, ioeventfd for doorbells.
 *
 * Invariants
 *  1. The routing table that KVM has is the wired routes and every message that was set; a message
 *     that KVM refuses leaves the table as it was, so that one device cannot silence another.
 *  2. An eventfd reaches KVM (KVM_IRQFD) when its message is set first: vectors that a driver never
 *     uses cost nothing.
 *
 * Threads: any; `lock` guards the vectors and the table. No other lock is taken under it.
 */
#ifndef VMM_IRQ_H
#define VMM_IRQ_H

#include "base/err.h"
#include "devices/platform.h"
#include "vmm/kvm.h"

struct irqs;

int irqs_new(const struct kvm *kvm, struct irqs **ret_irqs, struct err *err);

/* No device raises any more; the VM may still be open. */
void irqs_free(struct irqs *irqs);

/* As platform_ops. Wired interrupts may be shared: each caller gets an eventfd of its own. */
int irqs_connect(struct irqs *irqs, unsigned gsi, struct irq *ret_irq, struct err *err);
int irqs_msi_alloc(struct irqs *irqs, unsigned n, struct irq *vectors, struct err *err);
int irqs_msi_set(struct irqs *irqs, const struct irq *vector, const struct msi_msg *msg);
int irqs_doorbell(struct irqs *irqs, const struct doorbell *bell, bool add);

#endif
