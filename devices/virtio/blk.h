/*
 * virtio-blk (virtio 1.2 §5.2) on a disk image.
 *
 * Read, write, flush, discard, write zeroes, get id; several queues; write cache toggle
 * (VIRTIO_BLK_F_CONFIG_WCE), topology, block size, read-only. All queues of a disk are served by
 * one loop, which also owns the image.
 *
 * Errors of the host (EIO, ENOSPC) are an I/O error of that request; requests that break the
 * protocol take the device to NEEDS_RESET.
 */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/platform.h"
#include "devices/virtio/virtio_loop.h"
#include "disk/image_grow.h"

#define VIRTIO_BLK_SERIAL_BYTES 20
#define VIRTIO_BLK_QUEUES_MAX	8

struct virtio_blk_config {
	char serial[VIRTIO_BLK_SERIAL_BYTES + 1];
	unsigned queues;     /* 1..VIRTIO_BLK_QUEUES_MAX */
	uint16_t queue_size; /* 0: 256 */
	bool write_through;  /* starts with the write cache off */

	/* Limits of all queues together, 0: none. Bytes are those of reads and writes; each request
	 * is an operation. What a guest has not used is saved up for 100 ms. */
	uint64_t bytes_per_s, ops_per_s;
};

enum virtio_blk_op {
	VIRTIO_BLK_READ,
	VIRTIO_BLK_WRITE,
	VIRTIO_BLK_FLUSH,
	VIRTIO_BLK_DISCARD,
	VIRTIO_BLK_WRITE_ZEROES,
	VIRTIO_BLK_OPS,
};

/* Up to 4.2 s, and all the others. */
#define VIRTIO_BLK_LATENCY_BUCKETS 24

/* Since the device was made. Those that failed count as errors and nowhere else. */
struct virtio_blk_op_stats {
	uint64_t operations, bytes, errors;
	/* From the queue to the answer: bucket n counts what took less than 2^n us and is in no
	 * earlier one, the last bucket all the others. */
	uint64_t latency[VIRTIO_BLK_LATENCY_BUCKETS];
	uint64_t latency_sum_ns;
};

struct virtio_blk_stats {
	struct virtio_blk_op_stats op[VIRTIO_BLK_OPS];
	uint64_t in_flight;
};

/*
 * The image must outlive the device and be detached; `loop`, which does not run yet, serves it from
 * now on (the image is attached by the device, and detached with its end). -EINVAL: a number in
 * `config` is out of range; -ENOMEM, -EMFILE; what image_attach() says.
 */
int virtio_blk_new(const struct virtio_blk_config *config, const struct platform *plat,
		   struct image *img, struct loop *loop, struct virtio_dev **ret_dev,
		   struct err *err);

/* The caller's, from virtio_blk_resize() to `done`. */
struct virtio_blk_resize {
	struct image_grow grow; /* size_bytes; afterwards err and old_bytes */
	/* Once, on the loop's thread; virtio_blk_resized() is to follow where it is done. */
	void (*done)(struct virtio_blk_resize *r);

	/* private */
	struct virtio_blk *blk;
	struct virtio_loop_job job;
};

/*
 * Makes the image longer, in order with the requests of the guest, which wait meanwhile. Any
 * thread; the device must not be freed before `done`; one at a time.
 */
void virtio_blk_resize(struct virtio_dev *dev, struct virtio_blk_resize *r);

/* After one that succeeded: the guest sees the new size and is told. Any thread but the loop's: it
 * takes the transport's lock, which a vCPU may hold while it waits for the loop. */
void virtio_blk_resized(struct virtio_dev *dev);

/* Any thread. */
void virtio_blk_stats(struct virtio_dev *dev, struct virtio_blk_stats *ret_stats);

#endif
