/*
 * A loop of either backend and operations that record what became of them: what the tests of
 * base/loop share. A watchdog ends a test that hangs.
 */
#ifndef TESTS_UNIT_LOOP_FIXTURE_H
#define TESTS_UNIT_LOOP_FIXTURE_H

#include "base/checked.h"
#include "base/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define WATCHDOG_S 240 /* an emulated host, and a busy one */
#define NS_PER_MS  UINT64_C(1000000)

struct fixture {
	struct loop *loop; /* NULL: this kernel refuses the backend */
	enum loop_backend backend;
};

static inline int setup(void **state, enum loop_backend backend, unsigned entries)
{
	static struct fixture f;
	struct loop_opts opts = {.backend = backend, .entries = entries};
	struct err err = ERR_INIT;

	f = (struct fixture){.backend = backend};
	if (loop_new(&opts, &f.loop, &err) && backend != LOOP_URING) {
		print_error("%s\n", err.msg);
		return -1;
	}
	*state = &f;
	alarm(WATCHDOG_S);
	return 0;
}

static inline int setup_uring(void **state)
{
	return setup(state, LOOP_URING, 8);
}

static inline int setup_epoll(void **state)
{
	return setup(state, LOOP_EPOLL, 8);
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	loop_free(f->loop);
	alarm(0);
	return 0;
}

static inline struct loop *loop_of(void **state)
{
	struct fixture *f = *state;

	if (!f->loop) {
		print_message("SKIP: this kernel refuses io_uring\n");
		skip();
	}
	return f->loop;
}

/* An operation that records its result and stops the loop when `left` reaches zero. */
struct rec {
	struct loop_op op;
	struct loop *loop;
	int res;
	int calls;
	int *left;
};

static inline void rec_done(struct loop_op *op, int res)
{
	struct rec *r = container_of(op, struct rec, op);

	r->res = res;
	r->calls++;
	if (r->left && --*r->left == 0)
		loop_stop(r->loop);
}

static inline struct rec rec_new(struct loop *loop, int *left)
{
	return (struct rec){.op.done = rec_done, .loop = loop, .left = left};
}

static inline int temp_file(void)
{
	char path[256];
	const char *dir = getenv("TMPDIR");
	int fd;

	snprintf(path, sizeof(path), "%s/lodge-test-XXXXXX", dir ? dir : "/var/tmp");
	fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static inline void run_one(struct loop *loop, struct rec *r)
{
	int left = 1;

	r->left = &left;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(r->calls, 1);
	r->calls = 0;
	r->left = NULL;
}

/* Stops the loop when it is due. */
struct stopper {
	struct loop_timer timer;
	struct loop *loop;
};

static inline void stop_timer(struct loop_timer *t)
{
	loop_stop(container_of(t, struct stopper, timer)->loop);
}

struct writer {
	int fd;
	const char *text;
};

static inline void *write_text(void *arg)
{
	struct writer *w = arg;

	assert_int_equal(write(w->fd, w->text, strlen(w->text)), strlen(w->text));
	return NULL;
}

static inline void *run_thread(void *arg)
{
	assert_int_equal(loop_run(arg), 0);
	return NULL;
}

/* A watch that counts, and stops the loop or itself at a number. */
struct watching {
	struct loop_watch w;
	struct loop *loop;
	int calls, until;
	int stopped;
	bool unwatch;
};

static inline void watching_fn(struct loop_watch *w)
{
	struct watching *t = container_of(w, struct watching, w);

	t->calls++;
	if (t->calls < t->until)
		return;
	if (t->unwatch)
		loop_unwatch(w);
	else
		loop_stop(t->loop);
	assert_int_equal(t->stopped, 0); /* never from inside loop_unwatch() */
}

static inline void watching_stopped(struct loop_watch *w)
{
	struct watching *t = container_of(w, struct watching, w);

	t->stopped++;
	loop_stop(t->loop);
}

static inline struct watching watching_new(struct loop *loop, int until)
{
	return (struct watching){
	    .w = {.fn = watching_fn, .stopped = watching_stopped}, .loop = loop, .until = until};
}

enum { KICKS = 20000 };

#define BOTH(fn)                                              \
	{#fn "/io_uring", fn, setup_uring, teardown, NULL},   \
	{                                                     \
#fn "/epoll", fn, setup_epoll, teardown, NULL \
	}

#endif
