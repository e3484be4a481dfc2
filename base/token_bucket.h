/*
 * A token bucket: how much may pass in a second, and at once.
 *
 * A take is granted while the bucket is not in debt and may leave it in debt, so that what is larger
 * than the burst passes as well, and what follows waits for it.
 *
 * Threads: one at a time.
 */
#ifndef BASE_TOKEN_BUCKET_H
#define BASE_TOKEN_BUCKET_H

#include <stdint.h>

struct token_bucket {
	uint64_t per_s, burst; /* per_s 0: no limit */
	uint64_t have, debt;   /* one of them is 0 */
	uint64_t filled_ns;    /* until when it was filled */
};

/* Full. `burst`: what may pass at once after a silence, from 1. */
void token_bucket_init(struct token_bucket *b, uint64_t per_s, uint64_t burst);

/* Takes `n` and returns 0, or takes nothing and returns after how many ns to ask again.
 * `now_ns`: of a clock that does not go back. */
uint64_t token_bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns);

#endif
