/* See blk_limit.h. */
#include "devices/virtio/blk_limit.h"

#include "base/checked.h"

/* Woken for each operation of a high rate, the loop would do little else; 100 ms are saved up, so
 * that nothing is lost by a wait of this length. */
#define WAIT_MIN_NS 1000000

void blk_limit_init(struct blk_limit *l, uint64_t bytes_per_s, uint64_t ops_per_s)
{
	l->on = bytes_per_s || ops_per_s;
	token_bucket_init(&l->bytes, bytes_per_s, 0);
	token_bucket_init(&l->ops, ops_per_s, 0);
}

uint64_t blk_limit_wait_ns(struct blk_limit *l, uint64_t now_ns)
{
	const uint64_t bytes_ns = token_bucket_wait_ns(&l->bytes, now_ns);
	const uint64_t ops_ns = token_bucket_wait_ns(&l->ops, now_ns);
	const uint64_t wait_ns = MAX(bytes_ns, ops_ns);

	return wait_ns && wait_ns < WAIT_MIN_NS ? WAIT_MIN_NS : wait_ns;
}

uint64_t blk_limit_spend(struct blk_limit *l, uint64_t bytes, uint64_t now_ns)
{
	token_bucket_spend(&l->bytes, bytes, now_ns);
	token_bucket_spend(&l->ops, 1, now_ns);
	return blk_limit_wait_ns(l, now_ns);
}
