/*
 * virtio-blk from the inside: the device (blk.c) and the life of one request (blk_request.c).
 *
 * Threads: configuration space on vCPU threads under the transport's lock; requests, pools and the
 * image on the loop's thread. `features` is written before the queues start. `writeback`, sizes
 * and the counters are atomic.
 */
#ifndef DEVICES_VIRTIO_BLK_PRIV_H
#define DEVICES_VIRTIO_BLK_PRIV_H

#include "devices/virtio/blk.h"
#include "devices/virtio/blk_limit.h"
#include "devices/virtio/virtio_loop.h"

/* Feature bits, virtio 1.2 §5.2.3 */
#define BLK_F_SEG_MAX	   (UINT64_C(1) << 2)
#define BLK_F_RO	   (UINT64_C(1) << 5)
#define BLK_F_BLK_SIZE	   (UINT64_C(1) << 6)
#define BLK_F_FLUSH	   (UINT64_C(1) << 9)
#define BLK_F_TOPOLOGY	   (UINT64_C(1) << 10)
#define BLK_F_CONFIG_WCE   (UINT64_C(1) << 11)
#define BLK_F_MQ	   (UINT64_C(1) << 12)
#define BLK_F_DISCARD	   (UINT64_C(1) << 13)
#define BLK_F_WRITE_ZEROES (UINT64_C(1) << 14)

/*
 * One discard or write-zeroes segment: 2 GiB, so that one request keeps the host's file system busy
 * for a bounded time; a multiple of 4 KiB, so that splitting there leaves no ragged ends.
 */
#define BLK_RANGE_SECTORS_MAX ((UINT32_C(2) << 30) / IMAGE_SECTOR_BYTES)
#define BLK_RANGE_SEGS_MAX    8
#define BLK_RANGE_ALIGN	      4096

/* Data iovecs kept in the request itself; more go to its slab. */
#define BLK_IOVS_INLINE 8

struct blk_range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};

struct virtio_blk;

struct blk_request {
	struct image_req req;
	struct virtio_blk *blk;
	struct virtio_loop_queue *q;
	struct blk_request *next_free;
	uint8_t *status; /* in guest memory */
	uint32_t type;
	uint64_t data_bytes;
	uint64_t taken_ns;
	uint32_t written_ok, written_failed; /* what the used ring says */
	uint16_t head;
	uint8_t nranges, range; /* discard, write zeroes: how many, and the one under way */
	union {
		struct iovec iov[BLK_IOVS_INLINE];
		struct blk_range ranges[BLK_RANGE_SEGS_MAX];
	};
};

/*
 * As many requests as the queue has entries, which is as many as a virtq lets out: a pool never
 * runs dry. The memory is mapped at once but touched only as deep as the driver goes: what was
 * freed last is used first, and fresh requests are taken in order.
 */
struct blk_pool {
	struct blk_request *requests;
	struct iovec (*slabs)[VIRTQ_SEGS_MAX];
	struct blk_request *free;
	unsigned fresh; /* requests[fresh..] were never used */
};

/* The loop's thread alone writes them; readers want no order among them. */
struct blk_op_counters {
	_Atomic uint64_t operations, bytes, errors;
	_Atomic uint64_t latency[VIRTIO_BLK_LATENCY_BUCKETS];
	_Atomic uint64_t latency_sum_ns;
};

struct blk_counters {
	struct blk_op_counters op[VIRTIO_BLK_OPS];
	_Atomic uint64_t in_flight;
};

struct virtio_blk {
	struct virtio_dev dev;
	struct virtio_loop vl;
	struct image *img;
	const struct image_info *info;
	char serial[VIRTIO_BLK_SERIAL_BYTES];
	bool write_through; /* state of the write cache after a reset */

	/* Guest-visible state. */
	uint64_t features; /* negotiated; 0 while inactive */
	_Atomic bool writeback;
	_Atomic uint64_t capacity_bytes; /* as the guest sees it: what is added may come later */
	_Atomic uint64_t size_bytes;	 /* of the image */

	struct blk_pool pools[VIRTIO_BLK_QUEUES_MAX];
	void *pool_map;
	size_t pool_map_bytes;
	struct blk_counters counters;
	struct blk_limit limit; /* outlives a reset: a driver cannot clear a debt by one */
};

/* blk_request.c */
int blk_take(struct virtio_loop_queue *q, const struct virtq_chain *chain);
/* Takes no more for `wait_ns`; 0: goes on. `q` as for virtio_loop_hold_back(). */
void blk_hold_back(struct virtio_blk *blk, const struct virtio_loop_queue *q, uint64_t wait_ns,
		   uint64_t now_ns);

/* Request types, §5.2.6 */
enum {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13,
};

/* blk_stats.c: when a request was taken, and when it is answered */
void blk_count_taken(struct virtio_blk *blk, struct blk_request *r);
void blk_count_done(struct virtio_blk *blk, const struct blk_request *r, bool ok);

#endif
