/* virtio over PCI from the inside: BAR and capabilities (virtio_pci.c), common configuration
 * (virtio_pci_common.c). */
#ifndef DEVICES_VIRTIO_VIRTIO_PCI_PRIV_H
#define DEVICES_VIRTIO_VIRTIO_PCI_PRIV_H

#include "devices/pci/pci.h"
#include "devices/virtio/virtio_priv.h"

struct virtio_pci {
	struct virtio_transport t;
	struct pci_dev pci;
	unsigned vectors;
	_Atomic uint16_t config_vector;
	_Atomic uint16_t queue_vector[VIRTIO_QUEUES_MAX];
	uint8_t window; /* offset of the pci_cfg capability */

	/*
	 * Doorbells are connected while the BAR is mapped, from the first time on that a driver is
	 * there to ring them: guests map and unmap a BAR many times to see how long it is, and KVM
	 * takes its time for each. Under `bells_lock`, which is taken last.
	 */
	pthread_mutex_t bells_lock;
	bool bells_wanted;
	gpa_t bells_gpa; /* of the BAR; 0: it is not mapped */
	bool has_doorbell[VIRTIO_QUEUES_MAX];
};

/* virtio_pci.c: a driver has set DRIVER_OK. */
void virtio_pci_want_doorbells(struct virtio_pci *p);

/* virtio_pci.c: `vector` is one that exists, or PCI_NO_VECTOR. */
void virtio_pci_set_queue_vector(struct virtio_pci *p, unsigned index, uint16_t vector);

/* virtio_pci_common.c: any access, offset below 4 KiB; takes the transport's lock. */
#define VIRTIO_PCI_COMMON_BYTES 0x3c

uint64_t virtio_pci_common_read(struct virtio_pci *p, uint64_t offset, unsigned size);
void virtio_pci_common_write(struct virtio_pci *p, uint64_t offset, unsigned size, uint64_t value);

#endif
