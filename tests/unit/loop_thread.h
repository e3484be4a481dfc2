/* A loop in a thread of its own, for tests of what runs on loops. Set-up that fails ends the test.
 */
#ifndef TESTS_UNIT_LOOP_THREAD_H
#define TESTS_UNIT_LOOP_THREAD_H

#include "base/loop.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct loop_thread {
	struct loop *loop;
	pthread_t thread;
	bool running;
};

static inline void *loop_thread_main(void *arg)
{
	return (void *)(intptr_t)loop_run(arg);
}

static inline void loop_thread_new(struct loop_thread *lt, enum loop_backend backend)
{
	const struct loop_opts opts = {.backend = backend};
	struct err err = ERR_INIT;

	lt->running = false;
	if (loop_new(&opts, &lt->loop, &err) < 0) {
		fprintf(stderr, "loop: %s\n", err.msg);
		exit(99);
	}
}

static inline void loop_thread_start(struct loop_thread *lt)
{
	if (pthread_create(&lt->thread, NULL, loop_thread_main, lt->loop))
		exit(99);
	lt->running = true;
}

static inline void loop_thread_free(struct loop_thread *lt)
{
	if (lt->running) {
		loop_stop(lt->loop);
		pthread_join(lt->thread, NULL);
	}
	loop_free(lt->loop);
	lt->running = false;
}

#endif
