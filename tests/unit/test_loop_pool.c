/* base/loop_pool: work in threads, results on the loop's thread. */
#include "base/checked.h"
#include "base/loop_pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define JOBS	   64
#define WATCHDOG_S 240 /* an emulated host, and a busy one */

struct work {
	struct loop_job job;
	struct pool_rig *rig;
	unsigned in, out, again;
	pthread_t thread;
	int done;
};

struct pool_rig {
	struct loop *loop;
	struct loop_pool *pool;
	struct work work[JOBS];
	unsigned left;
	pthread_t owner;
};

static void run(struct loop_job *job, unsigned thread)
{
	struct work *w = container_of(job, struct work, job);

	(void)thread;
	w->out = w->in * 3;
	w->thread = pthread_self();
}

static void submit(struct pool_rig *rig, unsigned i)
{
	rig->work[i].rig = rig;
	rig->work[i].in = i;
	rig->work[i].job.run = run;
	loop_pool_submit(rig->pool, &rig->work[i].job);
}

static void done(struct loop_job *job)
{
	struct work *w = container_of(job, struct work, job);

	assert_true(pthread_equal(pthread_self(), w->rig->owner));
	assert_int_equal(w->out, w->in * 3);
	w->done++;
	if (w->again) {
		w->again--;
		w->out = 0;
		loop_pool_submit(w->rig->pool, job);
	} else if (!--w->rig->left) {
		loop_stop(w->rig->loop);
	}
}

static int setup_backend(void **state, enum loop_backend backend)
{
	static struct pool_rig rig;
	struct err err = ERR_INIT;

	memset(&rig, 0, sizeof(rig));
	rig.owner = pthread_self();
	*state = &rig;
	alarm(WATCHDOG_S);
	if (loop_new(&(struct loop_opts){.backend = backend}, &rig.loop, &err))
		return backend == LOOP_URING ? 0 : -1;
	return loop_pool_new(rig.loop, 3, &rig.pool, &err);
}

static int setup_uring(void **state)
{
	return setup_backend(state, LOOP_URING);
}

static int setup_epoll(void **state)
{
	return setup_backend(state, LOOP_EPOLL);
}

static int teardown(void **state)
{
	struct pool_rig *rig = *state;

	loop_pool_free(rig->pool);
	loop_free(rig->loop);
	alarm(0);
	return 0;
}

static struct pool_rig *rig_of(void **state)
{
	struct pool_rig *rig = *state;

	if (!rig->pool) {
		print_message("SKIP: this kernel refuses io_uring\n");
		skip();
	}
	return rig;
}

static void results_come_to_the_loop(void **state)
{
	struct pool_rig *rig = rig_of(state);

	rig->left = JOBS;
	for (unsigned i = 0; i < JOBS; i++) {
		rig->work[i].job.done = done;
		submit(rig, i);
	}
	assert_int_equal(loop_run(rig->loop), 0);
	for (unsigned i = 0; i < JOBS; i++) {
		assert_int_equal(rig->work[i].done, 1);
		assert_false(pthread_equal(rig->work[i].thread, rig->owner));
	}
}

/* A callback submits more, also the last one. */
static void jobs_follow_jobs(void **state)
{
	struct pool_rig *rig = rig_of(state);

	rig->left = 4;
	for (unsigned i = 0; i < 4; i++) {
		rig->work[i].job.done = done;
		rig->work[i].again = 500;
		submit(rig, i);
	}
	assert_int_equal(loop_run(rig->loop), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(rig->work[i].done, 501);
}

/* No job is lost, and none ends twice, when the loop is freed. */
static void freeing_the_loop_ends_jobs(void **state)
{
	struct pool_rig *rig = rig_of(state);

	rig->left = JOBS + 1; /* never stops by itself */
	for (unsigned i = 0; i < JOBS; i++) {
		rig->work[i].job.done = done;
		rig->work[i].again = i % 3;
		submit(rig, i);
	}
	loop_free(rig->loop);
	rig->loop = NULL;
	for (unsigned i = 0; i < JOBS; i++)
		assert_int_equal(rig->work[i].done, 1 + i % 3);
}

#define BOTH(fn)                                              \
	{#fn "/io_uring", fn, setup_uring, teardown, NULL},   \
	{                                                     \
#fn "/epoll", fn, setup_epoll, teardown, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(results_come_to_the_loop),
	    BOTH(jobs_follow_jobs),
	    BOTH(freeing_the_loop_ends_jobs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
