/*
 * A device's queues on its loop: doorbells in, chains to the device, one notification for each
 * batch out, and a stop that waits for everything in flight. For devices whose backend is a loop.
 *
 *   idle --virtio_loop_start--> serving --virtio_loop_stop--> draining --nothing held--> idle
 *                                  |                             ^
 *                                  +-- a queue breaks the protocol: takes nothing more, completes
 * on
 *
 * Invariants
 *  1. `held` counts what still needs the queues: watched doorbells, chains that the device has not
 *     pushed, notifications that are deferred. virtio_loop_stop() returns when it is 0 and leaves
 *     nothing behind that would touch a queue.
 *  2. While stopping, broken or paused no chain is taken. What waits is taken when it goes on.
 *  3. The loop's thread takes no lock that a caller of virtio_loop_stop() may hold.
 *
 * Threads: start and stop on a vCPU thread or the thread that takes the machine down (never the
 * loop's own, unless dev->loop_idle); all else on the loop's thread.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_LOOP_H
#define DEVICES_VIRTIO_VIRTIO_LOOP_H

#include "devices/virtio/virtio.h"

#include <pthread.h>

struct virtio_loop;

struct virtio_loop_queue {
	struct virtio_loop *vl;
	struct virtq *vq; /* NULL: the driver left it disabled */
	unsigned index;
	struct loop_watch watch;
	struct loop_msg notify;
	bool notify_pending;
	bool kicks_off; /* the driver was asked for no doorbells: the loop looks before it sleeps */
};

struct virtio_loop_ops {
	/*
	 * A chain was taken; its iovecs are good until this returns. The device pushes it with
	 * virtio_loop_push(), now or later, exactly once. -EPROTO: the chain is not what the device
	 * type allows; it goes to NEEDS_RESET and the chain is forgotten.
	 */
	int (*take)(struct virtio_loop_queue *q, const struct virtq_chain *chain);
};

struct virtio_loop {
	const struct virtio_loop_ops *ops;
	struct virtio_dev *dev;
	struct loop *loop;

	/* The loop's thread, from start to the end of stop. */
	struct virtio_loop_queue queues[VIRTIO_QUEUES_MAX];
	struct loop_msg start, stop, pause, resume;
	struct loop_spinner spinner;
	unsigned held, watched; /* `watched` of them are doorbells */
	bool paused;
	void (*pause_quiet)(void *ctx); /* of the message `pause`, with its context */
	void *quiet_ctx;
	void (*quiet)(void *ctx); /* not yet told */
	bool broken;
	bool stopping;
	struct iovec iov[VIRTQ_SEGS_MAX]; /* of the chain that is being taken */

	pthread_mutex_t lock; /* below all others; only `stopped` */
	pthread_cond_t cond;
	bool stopped;
};

void virtio_loop_init(struct virtio_loop *vl, const struct virtio_loop_ops *ops,
		      struct virtio_dev *dev, struct loop *loop);
void virtio_loop_fini(struct virtio_loop *vl);

/* Serves the queues that are not NULL, from chains that wait already. */
void virtio_loop_start(struct virtio_loop *vl, struct virtq *const *queues);

/*
 * Returns when nothing is held. The loop's thread runs, or is about to; it may take as long as the
 * slowest request. Where no other thread runs the loop (dev->loop_idle) it is run here.
 */
void virtio_loop_stop(struct virtio_loop *vl);

/*
 * Takes no more chains; `quiet` is called once, on the loop's thread, when those that were taken
 * are answered and the driver is notified. Between start and stop, and not paused already; the
 * caller waits for `quiet` before it resumes or stops.
 */
void virtio_loop_pause(struct virtio_loop *vl, void (*quiet)(void *ctx), void *ctx);
void virtio_loop_resume(struct virtio_loop *vl);

/* Gives a chain back to the driver and notifies at the end of this round of the loop. */
void virtio_loop_push(struct virtio_loop_queue *q, uint16_t head, uint32_t written_bytes);

#endif
