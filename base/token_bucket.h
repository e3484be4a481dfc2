/*
 * A rate limit: tokens (bytes, operations) come in at a steady rate up to a burst, and whoever
 * wants to do something takes them.
 *
 * Invariants
 *  1. In any span of T seconds no more than burst + T * rate tokens are taken, and one take beside:
 *     a take needs only that the bucket is not empty, and leaves it in debt for what was missing.
 * So a request longer than the burst passes as well, and those that follow wait for it.
 *  2. The level is kept in tokens of 1/10^9, what one ns brings at a rate of 1: nothing is rounded,
 *     and the rate is exact however often the bucket is asked.
 *  3. No number overflows: all of 64 bits are possible for rate, burst, takes and clock. A clock
 * that goes back brings nothing for that step and goes on from there.
 *
 * Threads: one owner.
 */
#ifndef BASE_TOKEN_BUCKET_H
#define BASE_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

/* Private. */
struct token_bucket {
	uint64_t per_s; /* 0: no limit */
	__int128 full;	/* both in tokens of 1/10^9 */
	__int128 level;
	uint64_t at_ns; /* up to when `level` holds what came in */
};

/*
 * `per_s` tokens a second, 0: no limit. The bucket holds `burst` of them, 0: what comes in within
 * 100 ms, at least one. It is full at first.
 */
void token_bucket_init(struct token_bucket *b, uint64_t per_s, uint64_t burst);

static inline bool token_bucket_limits(const struct token_bucket *b)
{
	return b->per_s != 0;
}

/*
 * Takes `n` tokens at `now_ns` of a clock of the caller's (loop_now_ns()). 0: they are taken; any
 * other: they are not, and the number of ns after which it is worth asking again.
 */
uint64_t token_bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns);

/* What token_bucket_take() would say, taking nothing. */
uint64_t token_bucket_wait_ns(struct token_bucket *b, uint64_t now_ns);

/* Takes `n` tokens at `now_ns` in any case: for what is under way already. */
void token_bucket_spend(struct token_bucket *b, uint64_t n, uint64_t now_ns);

#endif
