/* virtio-net: rate limits. A queue pays for a packet before the next one; see net_priv.h. */
#include "base/checked.h"
#include "devices/virtio/net_priv.h"

/* So that no rate, however low, makes a deadline overflow. */
#define WAIT_MAX_NS UINT64_C(60000000000)

void net_limit_init(struct net_limit *limit, uint64_t bytes_per_s, uint64_t packets_per_s)
{
	limit->on = bytes_per_s || packets_per_s;
	token_bucket_init(&limit->bytes, bytes_per_s, 0);
	token_bucket_init(&limit->packets, packets_per_s, 0);
}

/* ns to wait; 0: *owed is paid. */
static uint64_t pay(struct token_bucket *b, uint64_t *owed, uint64_t now)
{
	const uint64_t wait = *owed ? token_bucket_take(b, *owed, now) : 0;

	if (!wait)
		*owed = 0;
	return wait;
}

bool net_pay(struct net *net, struct net_limit *limit, struct net_owed *owed)
{
	uint64_t now, wait;

	if (!limit->on)
		return true;
	now = loop_now_ns();
	wait = pay(&limit->packets, &owed->packets, now);
	if (!wait)
		wait = pay(&limit->bytes, &owed->bytes, now);
	if (wait)
		loop_timer_arm(net->vl.loop, &owed->timer, now + MIN(wait, WAIT_MAX_NS));
	return !wait;
}
