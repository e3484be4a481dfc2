/*
 * The driver's side of virtio for tests: a split ring in guest memory (vring_*) and a driver that
 * reaches a device through the buses of a fake platform, over either transport (vdrv_*).
 *
 * Written from the specification alone, with its own constants, so that a mistake in the device
 * does not cancel out here. It knows how to be correct; tests that want it wrong write to its
 * memory.
 *
 * Threads: one, the "vCPU".
 */
#ifndef TESTS_UNIT_VIRTIO_DRIVER_H
#define TESTS_UNIT_VIRTIO_DRIVER_H

#include "devices/pci/pci.h"
#include "tests/unit/fake_platform.h"

#define VDRV_QUEUES	16
#define VRING_MAX	1024
#define VRING_TABLE_MAX 256
#define VDRV_WAIT_MS	20000 /* a deadline, far beyond what anything takes */
#define VDRV_INDIRECT	(UINT64_C(1) << 28)
#define VDRV_EVENT	(UINT64_C(1) << 29)
#define VDRV_V1		(UINT64_C(1) << 32)

enum {
	VDESC_NEXT = 1,
	VDESC_WRITE = 2,
	VDESC_INDIRECT = 4,
};

struct vbuf {
	gpa_t gpa;
	uint32_t len;
	bool write;
};

/* ---- the ring ---- */

struct vring {
	struct fake_platform *fp;
	uint16_t size;
	bool event_idx;
	gpa_t desc, avail, used,
	    tables; /* tables: an indirect table of `table_max` for each head */
	uint16_t table_max;
	uint16_t avail_idx, published_idx, used_idx;
	uint16_t free[VRING_MAX], nfree;
	uint16_t chain_len[VRING_MAX]; /* descriptors that a head holds */
	uint16_t chain[VRING_MAX];     /* next descriptor of the chain */
};

/* Lays a ring out from `gpa`; returns the first address behind it. */
gpa_t vring_init(struct vring *r, struct fake_platform *fp, gpa_t gpa, uint16_t size,
		 uint64_t features);

/* Writes one descriptor of a table. */
void vring_desc(struct fake_platform *fp, gpa_t table, unsigned i, gpa_t addr, uint32_t len,
		uint16_t flags, uint16_t next);

/* Builds a chain of `n` buffers, direct or through an indirect table; returns its head, -1: full.
 * The device sees it after vring_publish(). */
int vring_add(struct vring *r, const struct vbuf *bufs, unsigned n, bool indirect);

/* Offers a head that the test built itself. */
void vring_add_head(struct vring *r, uint16_t head);
void vring_publish(struct vring *r);

/* Whether the device wants to be kicked for what was published since `old_idx`. */
bool vring_wants_kick(struct vring *r, uint16_t old_idx);

/* Takes the next used element. */
bool vring_take(struct vring *r, uint16_t *ret_head, uint32_t *ret_len);
uint16_t vring_used_waiting(struct vring *r);

/* Asks for an interrupt when `after` more elements are used (1: the next), or for none. */
void vring_irq_on(struct vring *r, uint16_t after);
void vring_irq_off(struct vring *r);

/* ---- the driver ---- */

enum vdrv_kind {
	VDRV_MMIO,
	VDRV_PCI,
};

struct vdrv {
	struct fake_platform *fp;
	enum vdrv_kind kind;

	gpa_t mmio; /* MMIO */
	unsigned gsi;

	unsigned slot; /* PCI */
	gpa_t common, isr, device, notify;
	uint32_t notify_multiplier;
	unsigned vectors; /* in the MSI-X table */
	uint8_t window;	  /* pci_cfg capability */

	uint64_t features;
	unsigned nqueues;
	struct vring rings[VDRV_QUEUES];
	uint16_t kicked_idx[VDRV_QUEUES];
	uint64_t doorbells, exits; /* kicks that hit an ioeventfd, and that went to the register */
	gpa_t heap;		   /* free guest memory */
};

/* Guest memory from `heap` on is the driver's. */
void vdrv_init_mmio(struct vdrv *d, struct fake_platform *fp, gpa_t mmio, unsigned gsi, gpa_t heap);

/* Finds the function in `slot` through ports 0xcf8/0xcfc, its capabilities and its BAR, enables it
 * and its MSI-X with a message of its own for each vector. False: no such virtio function. */
bool vdrv_init_pci(struct vdrv *d, struct fake_platform *fp, unsigned slot, gpa_t heap);

gpa_t vdrv_alloc(struct vdrv *d, uint64_t bytes, uint64_t align);

/* PCI configuration space, by mechanism #1. */
uint32_t vdrv_pci_read(struct vdrv *d, unsigned offset, unsigned size);
void vdrv_pci_write(struct vdrv *d, unsigned offset, unsigned size, uint32_t value);

/* Registers, named alike on both transports. */
uint8_t vdrv_status(struct vdrv *d);
void vdrv_set_status(struct vdrv *d, uint8_t status);
uint64_t vdrv_offered(struct vdrv *d);
void vdrv_accept(struct vdrv *d, uint64_t features);
uint32_t vdrv_id(struct vdrv *d);
uint32_t vdrv_isr(struct vdrv *d); /* reads and acknowledges */
uint32_t vdrv_generation(struct vdrv *d);
unsigned vdrv_queue_max(struct vdrv *d, unsigned q); /* 0: no such queue */
void vdrv_queue_set(struct vdrv *d, unsigned q, uint32_t size, gpa_t desc, gpa_t avail, gpa_t used);
void vdrv_queue_enable(struct vdrv *d, unsigned q);
bool vdrv_queue_enabled(struct vdrv *d, unsigned q);
uint64_t vdrv_config(struct vdrv *d, unsigned offset, unsigned size);
void vdrv_set_config(struct vdrv *d, unsigned offset, unsigned size, uint64_t value);

/* PCI only: asks for a vector, returns what reads back. */
uint16_t vdrv_queue_vector(struct vdrv *d, unsigned q, uint16_t vector);
uint16_t vdrv_config_vector(struct vdrv *d, uint16_t vector);

/*
 * The whole of virtio 1.2 §3.1.1: reset to DRIVER_OK with `nqueues` queues of `size` entries (0:
 * the maximum) and those of `wanted` that are offered. False when FEATURES_OK does not stick, or a
 * queue is missing.
 */
bool vdrv_start(struct vdrv *d, uint64_t wanted, unsigned nqueues, uint16_t size);
void vdrv_reset(struct vdrv *d);

/* Rings the doorbell. */
void vdrv_notify(struct vdrv *d, unsigned q);

/* Publishes what was added and rings if the device asks for it; returns whether it rang. */
bool vdrv_kick(struct vdrv *d, unsigned q);

/* Interrupts of a queue, or of the configuration, since the last call. On MMIO both are the line.
 */
uint64_t vdrv_queue_irqs(struct vdrv *d, unsigned q);
uint64_t vdrv_config_irqs(struct vdrv *d);

/* Waits by interrupt until `n` elements are used, as a driver does. False: the deadline passed. */
bool vdrv_wait(struct vdrv *d, unsigned q, unsigned n);
/* Waits for a configuration interrupt. */
bool vdrv_wait_config(struct vdrv *d);

#endif
