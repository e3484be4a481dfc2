/* Waiting for another thread's loop, and for what it tells. */
#ifndef TESTS_UNIT_LOOP_BARRIER_H
#define TESTS_UNIT_LOOP_BARRIER_H

#include "base/checked.h"
#include "base/loop.h"

#include <pthread.h>
#include <stdbool.h>

/* What another thread says when it is done. */
struct news {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool here;
};

#define NEWS_INIT                                                          \
	{                                                                  \
		PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false \
	}

static inline void news_tell(void *ctx)
{
	struct news *n = ctx;

	pthread_mutex_lock(&n->lock);
	n->here = true;
	pthread_cond_signal(&n->cond);
	pthread_mutex_unlock(&n->lock);
}

static inline void news_wait(struct news *n)
{
	pthread_mutex_lock(&n->lock);
	while (!n->here)
		pthread_cond_wait(&n->cond, &n->lock);
	n->here = false;
	pthread_mutex_unlock(&n->lock);
}

struct loop_round {
	struct loop_msg msg;
	struct news news;
};

static inline void loop_round_fn(struct loop_msg *m)
{
	news_tell(&container_of(m, struct loop_round, msg)->news);
}

/* Some rounds of the loop have gone by: what was ready before is handled. */
static inline void loop_rounds(struct loop *loop)
{
	struct loop_round r = {.msg.fn = loop_round_fn, .news = NEWS_INIT};

	for (unsigned i = 0; i < 8; i++) {
		loop_post(loop, &r.msg);
		news_wait(&r.news);
	}
}

#endif
