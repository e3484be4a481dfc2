/* See token_bucket.h. */
#include "base/token_bucket.h"

#include "base/checked.h"

#define PER_TOKEN    1000000000
#define BURST_PART   10 /* of what comes in within a second */
#define DEBT_MAX_LOG 120

void token_bucket_init(struct token_bucket *b, uint64_t per_s, uint64_t burst)
{
	if (!burst)
		burst = MAX(per_s / BURST_PART, UINT64_C(1));
	*b = (struct token_bucket){.per_s = per_s, .full = (__int128)burst * PER_TOKEN};
	b->level = b->full;
}

/* What has come in since the last time. */
static void fill(struct token_bucket *b, uint64_t now_ns)
{
	const unsigned __int128 room = (unsigned __int128)(b->full - b->level);
	unsigned __int128 in;

	if (now_ns > b->at_ns) {
		in = (unsigned __int128)(now_ns - b->at_ns) * b->per_s;
		b->level += (__int128)MIN(in, room);
	}
	b->at_ns = now_ns;
}

static void take(struct token_bucket *b, uint64_t n)
{
	const __int128 least = -((__int128)1 << DEBT_MAX_LOG);

	/* at most 2^94 less, from 2^94 to -2^120 */
	b->level -= (__int128)n * PER_TOKEN;
	b->level = MAX(b->level, least);
}

uint64_t token_bucket_wait_ns(struct token_bucket *b, uint64_t now_ns)
{
	unsigned __int128 ns;

	if (!b->per_s)
		return 0;
	fill(b, now_ns);
	if (b->level > 0)
		return 0;
	/* to the first ns that leaves more than nothing */
	ns = (unsigned __int128)-b->level / b->per_s + 1;
	return (uint64_t)MIN(ns, (unsigned __int128)UINT64_MAX);
}

void token_bucket_spend(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	if (!b->per_s)
		return;
	/* First: what came in while the bucket was full must not pay for this. */
	fill(b, now_ns);
	take(b, n);
}

uint64_t token_bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	const uint64_t wait_ns = token_bucket_wait_ns(b, now_ns);

	if (!wait_ns && b->per_s)
		take(b, n);
	return wait_ns;
}
