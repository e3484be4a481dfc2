/* See token_bucket.h. */
#include "base/token_bucket.h"

#include "base/checked.h"

#define NS_PER_S UINT64_C(1000000000)

typedef unsigned __int128 wide;

void token_bucket_init(struct token_bucket *b, uint64_t per_s, uint64_t burst)
{
	*b = (struct token_bucket){.per_s = per_s, .burst = burst, .have = burst};
}

/* The time of whole tokens only: what is less is not lost, however often it is asked. */
static void fill(struct token_bucket *b, uint64_t now_ns)
{
	const uint64_t passed = now_ns - b->filled_ns;
	wide tokens = (wide)passed * b->per_s / NS_PER_S;

	if (!b->filled_ns || now_ns < b->filled_ns) {
		b->filled_ns = now_ns;
		return;
	}
	if (tokens >= (wide)b->debt + b->burst) {
		b->filled_ns = now_ns;
		b->debt = 0;
		b->have = b->burst;
		return;
	}
	b->filled_ns += (uint64_t)((tokens * NS_PER_S + b->per_s - 1) / b->per_s);
	if (tokens < b->debt) {
		b->debt -= (uint64_t)tokens;
		return;
	}
	b->have = (uint64_t)MIN(b->have + (tokens - b->debt), (wide)b->burst);
	b->debt = 0;
}

uint64_t token_bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	if (!b->per_s)
		return 0;
	fill(b, now_ns);
	if (b->debt)
		return (uint64_t)MIN((wide)b->debt * NS_PER_S / b->per_s + 1, (wide)UINT64_MAX / 4);
	if (n > b->have) {
		b->debt = n - b->have;
		b->have = 0;
	} else {
		b->have -= n;
	}
	return 0;
}
