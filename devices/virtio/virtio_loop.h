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
 *     pushed, notifications that are deferred, and what the device holds by itself.
 *     virtio_loop_stop() returns when it is 0 and leaves nothing behind that would touch a queue.
 *  2. While stopping, broken, paused or held back no chain is taken. What waits is taken when it
 *     goes on.
 *     A device that pulls asks virtio_loop_paused() before it uses a chain that it has.
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
	bool pulled;	/* the device takes the chains itself, see virtio_loop_ops */
	bool hungry;	/* pulled: it found none, and wants to hear of the next */
};

struct virtio_loop_ops {
	/*
	 * A chain was taken; its iovecs are good until this returns. The device pushes it with
	 * virtio_loop_push(), now or later, exactly once. -EPROTO: the chain is not what the device
	 * type allows; it goes to NEEDS_RESET and the chain is forgotten.
	 */
	int (*take)(struct virtio_loop_queue *q, const struct virtq_chain *chain);

	/*
	 * Queues that the device takes from itself, when it has use for a chain: bit n is queue n.
	 * ready() says that chains came, once after virtio_loop_pull() found none, and at the
	 * start; after a pause, also without any.
	 */
	uint32_t pulled;
	void (*ready)(struct virtio_loop_queue *q);

	/* Optional: the first on the loop's thread after a start. */
	void (*starting)(struct virtio_loop *vl);

	/* Optional: a stop begins. The device lets go of all it holds, now or soon. */
	void (*stopping)(struct virtio_loop *vl);
};

/* Something for which nothing of the driver's may be in flight. The caller's until it has ended. */
struct virtio_loop_job {
	void (*run)(struct virtio_loop_job *job); /* virtio_loop_job_end() follows, then or later */
	struct virtio_loop *vl;			  /* private */
	struct loop_msg msg;
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
	unsigned kept;		/* and these the device's own, and the chains that it pulled */
	bool running;		/* from the message `start` to the end of stop */
	bool paused;
	struct virtio_loop_job *job; /* waits until nothing is in flight, or runs */
	bool job_runs;
	struct loop_timer hold_back; /* armed while held_back */
	bool held_back;
	unsigned first;			/* the queue that is served first when it goes on */
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

/*
 * Any thread, active or not: runs the job on the loop's thread when all chains that were taken are
 * answered, and takes none until it has ended. One at a time; a stop waits for it, a device that is
 * freed must not have one.
 */
void virtio_loop_alone(struct virtio_loop *vl, struct virtio_loop_job *job);
void virtio_loop_job_end(struct virtio_loop_job *job);

/* Gives a chain back to the driver and notifies at the end of this round of the loop. */
void virtio_loop_push(struct virtio_loop_queue *q, uint16_t head, uint32_t written_bytes);

/* ---- for devices that pull, on the loop's thread ---- */

/*
 * The next chain of a pulled queue; `chain` as for virtq_pop(). 1: it is the device's until it is
 * pushed or forgotten. 0: none, or the queue is stopped, broken or disabled. -EPROTO: the driver
 * broke the rules, and the device goes to NEEDS_RESET.
 */
int virtio_loop_pull(struct virtio_loop_queue *q, struct virtq_chain *chain);

/* Is nothing of the guest's memory to be touched now? */
static inline bool virtio_loop_paused(const struct virtio_loop *vl)
{
	return vl->paused || vl->job;
}

/* Drops a chain that was pulled: the driver never gets it back. When stopping or broken. */
void virtio_loop_forget(struct virtio_loop_queue *q);

/* Calls ready() again in a later round, so that others get their turn. */
void virtio_loop_again(struct virtio_loop_queue *q);

/* The driver broke the device's own rules: NEEDS_RESET, and nothing more is taken. */
void virtio_loop_break(struct virtio_loop *vl);

/*
 * Takes no chains before `until_ns` (loop_now_ns()), of any queue; those that were taken go on.
 * What waits then is taken from the queue after `q` on, so that none has the first turn each time;
 * `q` may be NULL. For rate limits: called on the loop's thread, also from take() and starting().
 * Again moves the time; a stop ends it.
 */
void virtio_loop_hold_back(struct virtio_loop *vl, const struct virtio_loop_queue *q,
			   uint64_t until_ns);

/* Something of the device's that a stop must wait for, and its end. */
void virtio_loop_hold(struct virtio_loop *vl);
void virtio_loop_unhold(struct virtio_loop *vl);

#endif
