/*
 * virtio 1.2 devices, apart from their transport and apart from their queues' layout.
 *
 * A device is a struct that embeds virtio_dev and fills virtio_dev_ops. The transport (PCI or MMIO)
 * owns the register state (features, status, queues being configured) and hands active queues to
 * the device when the driver sets DRIVER_OK. Queues being configured (virtq_config) and active
 * queues (virtq) are different types: a register written later changes nothing that runs.
 *
 *   reset --ACKNOWLEDGE,DRIVER--> negotiating --FEATURES_OK--> configuring --DRIVER_OK--> active
 *     ^___________________________________ status = 0 ______________________________________|
 *
 * Reset of an active device returns when the device holds no request any more (threats.md 3: no use
 * after free): it waits for what is in flight.
 *
 * Threads: register accesses on vCPU threads under the transport's lock; queues on the device's
 * loop thread. The device calls virtio_raise_* from its loop thread.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_H
#define DEVICES_VIRTIO_VIRTIO_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/platform.h"
#include "devices/virtio/virtq.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_QUEUES_MAX 16

/* Device types, virtio 1.2 §5 */
#define VIRTIO_ID_NET	1
#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_RNG	4
#define VIRTIO_ID_VSOCK 19

/* Device status bits, virtio 1.2 §2.1 */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER	  0x02
#define VIRTIO_STATUS_DRIVER_OK	  0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED	  0x80

/* Feature bits that belong to the core, virtio 1.2 §6 */
#define VIRTIO_F_INDIRECT_DESC	 (UINT64_C(1) << 28)
#define VIRTIO_F_EVENT_IDX	 (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1	 (UINT64_C(1) << 32)
#define VIRTIO_F_ACCESS_PLATFORM (UINT64_C(1) << 33)

struct virtio_dev;
struct virtio_transport;

struct virtio_dev_ops {
	/* Reads and writes of the device configuration space; any offset and size. Bytes beyond the
	 * device's own read as 0 and ignore writes. Not called, so optional, where config_len is 0.
	 * vCPU thread, transport's lock held. */
	void (*config_read)(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len);
	void (*config_write)(struct virtio_dev *dev, unsigned offset, const void *buf,
			     unsigned len);

	/* DRIVER_OK: `queues[i]` is NULL where the driver left queue i disabled. They stay valid
	 * until reset() returns. `features` is what was negotiated. vCPU thread. */
	int (*activate)(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues);

	/* Stops using the queues: returns when nothing is in flight and no thread of the device
	 * touches them. vCPU thread, or the thread that takes the machine down. */
	void (*reset)(struct virtio_dev *dev);

	/* While it is active and no vCPU runs: takes no more from its queues; `quiet` is called
	 * from the device's thread when all that was taken is answered. resume() comes after that.
	 */
	void (*pause)(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx);
	void (*resume)(struct virtio_dev *dev);

	/*
	 * Optional, also while it is not active: interrupts of queue `index` may be raised by
	 * signalling eventfd `irq_fd`, as a backend in the kernel can, in place of
	 * virtio_raise_queue(); -1: not any more, when this returns. vCPU thread, under locks of
	 * the transport: nothing of it is to be called.
	 */
	void (*queue_irq)(struct virtio_dev *dev, unsigned index, int irq_fd);

	/* The device is going: free it. Comes after reset(). */
	void (*free)(struct virtio_dev *dev);
};

/* The head of every device. The device fills the first part before it is given to a transport. */
struct virtio_dev {
	const struct virtio_dev_ops *ops;
	const char *name;
	uint32_t id;
	uint64_t
	    features; /* offered; VIRTIO_F_VERSION_1 and the ring features are the core's to add */
	unsigned nqueues;
	uint16_t queue_size_max; /* power of two, at most VIRTQ_SIZE_MAX */
	unsigned config_len;	 /* bytes of device configuration space */
	/* eventfd of each queue: the doorbell. Made by virtio_dev_init(). */
	int kick_fd[VIRTIO_QUEUES_MAX];

	struct virtio_transport *transport; /* set by the transport */

	/* No other thread runs the device's loop: a reset runs it itself, until it is drained. For
	 * programs of one thread, which set it after the device is made. */
	bool loop_idle;
};

/* Makes the doorbell eventfds. Fills nothing else. */
int virtio_dev_init(struct virtio_dev *dev, struct err *err);
void virtio_dev_fini(struct virtio_dev *dev);

/* For devices, any thread: the used ring of queue `index` moved; the configuration changed; the
 * driver broke the protocol and the device stops (NEEDS_RESET) until it is reset. */
void virtio_raise_queue(struct virtio_dev *dev, unsigned index);
void virtio_raise_config(struct virtio_dev *dev);
void virtio_raise_needs_reset(struct virtio_dev *dev);

/*
 * Changes the configuration so that a driver that reads it meanwhile finds another generation
 * (§2.5.3), and tells the driver. Takes the transport's lock: not from the device's loop.
 */
void virtio_change_config(struct virtio_dev *dev, void (*change)(struct virtio_dev *dev));

/*
 * Transports. Each takes ownership of `dev` on success and frees it with itself.
 * PCI (virtio 1.2 §4.1): one function with MSI-X, a vector for each queue and one for
 * configuration. MMIO (§4.2): VIRTIO_MMIO_BYTES at `gpa`, one edge-triggered interrupt.
 */
#define VIRTIO_MMIO_BYTES 0x1000

struct pci_host;
int virtio_pci_new(const struct platform *plat, struct pci_host *host, struct virtio_dev *dev,
		   struct virtio_transport **ret_transport, struct err *err);
int virtio_mmio_new(const struct platform *plat, gpa_t gpa, unsigned gsi, struct virtio_dev *dev,
		    struct virtio_transport **ret_transport, struct err *err);

/*
 * No vCPU runs. False: the device is not active, and there is nothing to wait for; otherwise
 * `quiet` follows, on the device's thread, when nothing of the guest's is in flight.
 */
bool virtio_transport_pause(struct virtio_transport *transport, void (*quiet)(void *ctx),
			    void *ctx);
/* After a pause that returned true, when it is quiet. */
void virtio_transport_resume(struct virtio_transport *transport);

/*
 * Resets and frees the device and the transport; NULL is accepted. No vCPU runs any more; the loop
 * of an active device still runs in its own thread, which is not the caller's, and completes what
 * is in flight. So: vCPUs end, transports are freed, loops are stopped, joined and freed, images
 * are closed. The PCI host may go before or after its functions.
 */
void virtio_transport_free(struct virtio_transport *transport);

#endif
