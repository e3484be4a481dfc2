/* virtio-net: rate limits. A queue pays for a packet before the next one; see net_priv.h. */
#include "base/checked.h"
#include "devices/virtio/net_priv.h"

/* What may come at once after a silence: this part of a second's. */
#define BURST_PART 10

static void bucket_init(struct token_bucket *b, uint64_t per_s)
{
	token_bucket_init(b, per_s, MAX(per_s / BURST_PART, UINT64_C(1)));
}

void net_limit_init(struct net_limit *limit, uint64_t bytes_per_s, uint64_t packets_per_s)
{
	limit->on = bytes_per_s || packets_per_s;
	bucket_init(&limit->bytes, bytes_per_s);
	bucket_init(&limit->packets, packets_per_s);
}

bool net_pay(struct net *net, struct net_limit *limit, struct net_owed *owed)
{
	uint64_t now, wait = 0;

	if (!limit->on)
		return true;
	now = loop_now_ns();
	if (owed->packets)
		wait = token_bucket_take(&limit->packets, owed->packets, now);
	if (wait)
		goto later;
	owed->packets = 0;
	if (owed->bytes)
		wait = token_bucket_take(&limit->bytes, owed->bytes, now);
	if (wait)
		goto later;
	owed->bytes = 0;
	return true;
later:
	loop_timer_arm(net->vl.loop, &owed->timer, now + wait);
	return false;
}
