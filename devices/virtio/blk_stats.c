/*
 * What a virtio-blk device has done. Counted on the loop's thread, which alone writes; read from
 * any.
 */
#include "base/checked.h"
#include "devices/virtio/blk_priv.h"

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* VIRTIO_BLK_OPS: a type that is not counted. */
static enum virtio_blk_op op_of(uint32_t type)
{
	switch (type) {
	case BLK_T_IN:
		return VIRTIO_BLK_READ;
	case BLK_T_OUT:
		return VIRTIO_BLK_WRITE;
	case BLK_T_FLUSH:
		return VIRTIO_BLK_FLUSH;
	case BLK_T_DISCARD:
		return VIRTIO_BLK_DISCARD;
	case BLK_T_WRITE_ZEROES:
		return VIRTIO_BLK_WRITE_ZEROES;
	default:
		return VIRTIO_BLK_OPS;
	}
}

static unsigned bucket_of(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned n = us ? 64u - (unsigned)__builtin_clzll(us) : 0;

	return MIN(n, VIRTIO_BLK_LATENCY_BUCKETS - 1u);
}

void blk_count_taken(struct virtio_blk *blk, struct blk_request *r)
{
	r->taken_ns = loop_now_ns();
	count(&blk->counters.in_flight, 1);
}

void blk_count_done(struct virtio_blk *blk, const struct blk_request *r, bool ok)
{
	enum virtio_blk_op op = op_of(r->type);
	struct blk_op_counters *c = &blk->counters.op[op];
	uint64_t ns;

	count(&blk->counters.in_flight, UINT64_MAX); /* one less */
	if (op == VIRTIO_BLK_OPS)
		return;
	if (!ok) {
		count(&c->errors, 1);
		return;
	}
	ns = loop_now_ns() - r->taken_ns;
	count(&c->operations, 1);
	count(&c->bytes, r->data_bytes);
	count(&c->latency[bucket_of(ns)], 1);
	count(&c->latency_sum_ns, ns);
}

void virtio_blk_stats(struct virtio_dev *dev, struct virtio_blk_stats *ret_stats)
{
	const struct blk_counters *c = &container_of(dev, struct virtio_blk, dev)->counters;

	ret_stats->in_flight = get(&c->in_flight);
	for (unsigned i = 0; i < VIRTIO_BLK_OPS; i++) {
		const struct blk_op_counters *from = &c->op[i];
		struct virtio_blk_op_stats *to = &ret_stats->op[i];

		to->operations = get(&from->operations);
		to->bytes = get(&from->bytes);
		to->errors = get(&from->errors);
		to->latency_sum_ns = get(&from->latency_sum_ns);
		for (unsigned n = 0; n < VIRTIO_BLK_LATENCY_BUCKETS; n++)
			to->latency[n] = get(&from->latency[n]);
	}
}
