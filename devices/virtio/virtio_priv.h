/*
 * What the two virtio transports share: register state, status machine, activation. virtio 1.2 §2,
 * §3.
 *
 * Invariants
 *  1. Features do not change after FEATURES_OK, a ring's size and addresses not once it is enabled,
 *     and no ring is enabled or disabled once the device is active. Only a reset opens them again.
 *     Interrupt vectors may change at any time: they are checked when written, and address nothing.
 *  2. Queues are validated and resolved at DRIVER_OK and live until the device's reset() returned.
 *  3. The device's loop thread never takes `lock`: a vCPU thread holds it while it waits for the
 *     loop in a reset. What the loop thread needs (isr, needs_reset, vectors) is atomic.
 *
 * Lock order: the PCI host's lock, `lock`, the MSI-X table's. Below them nothing is taken but the
 * device's own.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_PRIV_H
#define DEVICES_VIRTIO_VIRTIO_PRIV_H

#include "devices/virtio/virtio.h"

#include <pthread.h>

/* Interrupt status, the same bits on both transports (§4.1.4.5, §4.2.2) */
#define VIRTIO_ISR_QUEUE  0x1u
#define VIRTIO_ISR_CONFIG 0x2u

struct virtio_transport_ops {
	/* Interrupts; any thread, without the lock. The bit in `isr` is set already. */
	void (*notify_queue)(struct virtio_transport *t, unsigned index);
	void (*notify_config)(struct virtio_transport *t);

	/* The registers that only this transport has go back to their reset values. Lock held. */
	void (*reset)(struct virtio_transport *t);

	/* Leaves the bus and frees the transport. */
	void (*free)(struct virtio_transport *t);
};

/* Guest-visible registers; under the transport's lock. */
struct virtio_regs {
	uint32_t device_features_sel;
	uint32_t driver_features_sel;
	uint64_t driver_features;
	uint16_t queue_sel;
	uint8_t status; /* without NEEDS_RESET, which is the device's */
	struct virtq_config queues[VIRTIO_QUEUES_MAX];
};

struct virtio_transport {
	const struct virtio_transport_ops *ops;
	const struct platform *plat;
	struct virtio_dev *dev;

	pthread_mutex_t lock;
	struct virtio_regs regs;
	struct virtq *vqs[VIRTIO_QUEUES_MAX];
	bool active;

	_Atomic bool needs_reset;
	_Atomic uint32_t isr;
	_Atomic uint32_t config_generation;
};

/* Puts the transport into the reset state and ties `dev` to it. */
void virtio_transport_init(struct virtio_transport *t, const struct virtio_transport_ops *ops,
			   const struct platform *plat, struct virtio_dev *dev);

/* For a transport that could not be set up: lets go of `dev`, which stays the caller's. */
void virtio_transport_fini(struct virtio_transport *t);

/* The registers. All with the lock held, all safe against every value. */
uint32_t virtio_device_features(const struct virtio_transport *t);
uint32_t virtio_driver_features(const struct virtio_transport *t);
void virtio_set_driver_features(struct virtio_transport *t, uint32_t value);
uint8_t virtio_status(const struct virtio_transport *t);
void virtio_set_status(struct virtio_transport *t, uint8_t value);

/* The queue that is selected, NULL when the device has no such queue. */
const struct virtq_config *virtio_queue(const struct virtio_transport *t);
/* The same, and NULL when its registers are frozen. */
struct virtq_config *virtio_queue_config(struct virtio_transport *t);

void virtio_config_read(struct virtio_transport *t, uint64_t offset, void *buf, unsigned len);
void virtio_config_write(struct virtio_transport *t, uint64_t offset, const void *buf,
			 unsigned len);

/* Without the lock, any thread: a kick that came through the register, for want of an ioeventfd.
 * Unknown queues are ignored. */
void virtio_kick(struct virtio_transport *t, uint64_t index);

/* Replaces one half of a 64-bit register. */
static inline uint64_t virtio_set_half(uint64_t reg, bool high, uint32_t value)
{
	const unsigned shift = high ? 32 : 0;

	return (reg & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

#endif
