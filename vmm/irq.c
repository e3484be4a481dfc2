#include "vmm/irq.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/arch.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Wired interrupts: a few PC devices and one for each virtio-mmio device. */
#define WIRES_MAX (8 + MACHINE_DISKS_MAX + 8)
/* Messages: KVM routes 4096 numbers (KVM_CAP_IRQ_ROUTING), and a machine's functions have at most
 * PCI_MSIX_MAX each. */
#define MSIS_MAX (PCI_SLOTS * PCI_MSIX_MAX)

struct msi_vector {
	struct irq irq;
	struct msi_msg msg;
	bool routed; /* has a message, and its eventfd is KVM's */
};

struct irqs {
	const struct kvm *kvm;
	pthread_mutex_t lock;
	struct irq wires[WIRES_MAX];
	unsigned nwires;
	struct msi_vector *vectors;
	unsigned nvectors;
	/* room for the wired routes and every vector */
	struct kvm_irq_routing *table;
};

int irqs_new(const struct kvm *kvm, struct irqs **ret_irqs, struct err *err)
{
	struct irqs *irqs = calloc(1, sizeof(*irqs));

	if (!irqs)
		return err_sys(err, ENOMEM, "cannot set up interrupts");
	irqs->kvm = kvm;
	pthread_mutex_init(&irqs->lock, NULL);
	*ret_irqs = irqs;
	return 0;
}

void irqs_free(struct irqs *irqs)
{
	if (!irqs)
		return;
	for (unsigned i = 0; i < irqs->nwires; i++)
		close(irqs->wires[i].fd);
	for (unsigned i = 0; i < irqs->nvectors; i++)
		close(irqs->vectors[i].irq.fd);
	free(irqs->vectors);
	free(irqs->table);
	pthread_mutex_destroy(&irqs->lock);
	free(irqs);
}

static int irqfd(const struct irqs *irqs, int fd, unsigned gsi)
{
	struct kvm_irqfd req = {.fd = (uint32_t)fd, .gsi = gsi};

	return ioctl(irqs->kvm->vm_fd, KVM_IRQFD, &req) ? -errno : 0;
}

int irqs_connect(struct irqs *irqs, unsigned gsi, struct irq *ret_irq, struct err *err)
{
	autofd int fd = -1;
	int res;

	AUTOLOCK(&irqs->lock);
	if (gsi >= arch_wired_gsis())
		return err_set(err, EINVAL, "interrupt %u is not wired (0 to %u are)", gsi,
			       arch_wired_gsis() - 1);
	if (irqs->nwires == WIRES_MAX)
		return err_set(err, ENOSPC, "more than %d wired interrupts", WIRES_MAX);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_sys(err, errno, "cannot make an eventfd for interrupt %u", gsi);
	res = irqfd(irqs, fd, gsi);
	if (res)
		return err_sys(err, -res, "KVM cannot connect interrupt %u", gsi);
	irqs->wires[irqs->nwires].fd = fd;
	irqs->nwires++;
	ret_irq->fd = steal_fd(&fd);
	return 0;
}

static int grow(struct irqs *irqs, unsigned n)
{
	unsigned total = irqs->nvectors + n;
	struct msi_vector *vectors;
	struct kvm_irq_routing *table;

	vectors = reallocarray(irqs->vectors, total, sizeof(*vectors));
	if (!vectors)
		return -ENOMEM;
	irqs->vectors = vectors;
	table = realloc(irqs->table, sizeof(*table) + sizeof(table->entries[0]) *
							  (ARCH_ROUTES_MAX + (size_t)total));
	if (!table)
		return -ENOMEM;
	irqs->table = table;
	return 0;
}

int irqs_msi_alloc(struct irqs *irqs, unsigned n, struct irq *vectors, struct err *err)
{
	unsigned made;

	AUTOLOCK(&irqs->lock);
	if (n > MSIS_MAX - irqs->nvectors)
		return err_set(err, ENOSPC, "more than %d message interrupts", MSIS_MAX);
	if (grow(irqs, n))
		return err_sys(err, ENOMEM, "cannot make %u message interrupts", n);
	for (made = 0; made < n; made++) {
		struct msi_vector *v = &irqs->vectors[irqs->nvectors + made];

		*v = (struct msi_vector){.irq.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
		if (v->irq.fd < 0) {
			int code = errno;

			while (made--)
				close(irqs->vectors[irqs->nvectors + made].irq.fd);
			return err_sys(err, code, "cannot make an eventfd for an interrupt");
		}
	}
	for (unsigned i = 0; i < n; i++)
		vectors[i] = irqs->vectors[irqs->nvectors + i].irq;
	irqs->nvectors += n;
	return 0;
}

static int push_routes_locked(struct irqs *irqs)
{
	struct kvm_irq_routing *table = irqs->table;

	table->flags = 0;
	table->nr = arch_irq_routes(table->entries);
	for (unsigned i = 0; i < irqs->nvectors; i++) {
		const struct msi_vector *v = &irqs->vectors[i];

		if (!v->routed)
			continue;
		table->entries[table->nr] = (struct kvm_irq_routing_entry){
		    .gsi = arch_wired_gsis() + i,
		    .type = KVM_IRQ_ROUTING_MSI,
		    .u.msi = {.address_lo = (uint32_t)v->msg.addr,
			      .address_hi = (uint32_t)(v->msg.addr >> 32),
			      .data = v->msg.data},
		};
		arch_irq_message(&v->msg, &table->entries[table->nr++]);
	}
	return ioctl(irqs->kvm->vm_fd, KVM_SET_GSI_ROUTING, table) ? -errno : 0;
}

static int find_locked(const struct irqs *irqs, int fd)
{
	for (unsigned i = 0; i < irqs->nvectors; i++) {
		if (irqs->vectors[i].irq.fd == fd)
			return (int)i;
	}
	return -ENOENT;
}

int irqs_msi_set(struct irqs *irqs, const struct irq *vector, const struct msi_msg *msg)
{
	struct msi_vector *v, old;
	int i, res;

	/* A masked vector keeps its route: the device holds raises back, and the driver mostly sets
	 * the same message again. */
	if (!msg)
		return 0;
	AUTOLOCK(&irqs->lock);
	i = find_locked(irqs, vector->fd);
	if (i < 0)
		return i;
	v = &irqs->vectors[i];
	old = *v;
	if (old.routed && old.msg.addr == msg->addr && old.msg.data == msg->data)
		return 0;
	v->msg = *msg;
	v->routed = true;
	res = push_routes_locked(irqs);
	if (!res && !old.routed)
		res = irqfd(irqs, v->irq.fd, arch_wired_gsis() + (unsigned)i);
	if (res)
		*v = old;
	return res;
}

int irqs_doorbell(struct irqs *irqs, const struct doorbell *bell, bool add)
{
	struct kvm_ioeventfd req = {
	    .datamatch = bell->match,
	    .addr = bell->addr,
	    .len = bell->size,
	    .fd = bell->fd,
	};

	if (bell->space == DOORBELL_PIO)
		req.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (bell->has_match)
		req.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	if (!add)
		req.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return ioctl(irqs->kvm->vm_fd, KVM_IOEVENTFD, &req) ? -errno : 0;
}
