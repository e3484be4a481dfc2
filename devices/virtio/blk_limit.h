/*
 * Rate limits of a disk: bytes and operations a second, of all its queues together. What was taken
 * is spent from both; a bucket in debt holds the device back until it is out of it.
 *
 * Threads: the loop's.
 */
#ifndef DEVICES_VIRTIO_BLK_LIMIT_H
#define DEVICES_VIRTIO_BLK_LIMIT_H

#include "base/token_bucket.h"

struct blk_limit {
	bool on; /* is there any? */
	struct token_bucket bytes, ops;
};

/* 0: no limit. Each may be saved up for 100 ms. */
void blk_limit_init(struct blk_limit *l, uint64_t bytes_per_s, uint64_t ops_per_s);

/* How many ns no more may be taken; 0: go on. */
uint64_t blk_limit_wait_ns(struct blk_limit *l, uint64_t now_ns);

/* One operation with `bytes` of data was taken; returns as blk_limit_wait_ns(). */
uint64_t blk_limit_spend(struct blk_limit *l, uint64_t bytes, uint64_t now_ns);

#endif
