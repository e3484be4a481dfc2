/*
 * The epoll backend, for kernels that refuse io_uring.
 *
 * Stream operations are tried at once and, when the descriptor is not ready, wait in a small hash
 * table by descriptor; positioned I/O goes to a pool of threads (base/loop_workers.h).
 *
 * Registration with epoll
 *  1. A descriptor is registered for what its waiting operations need together, one-shot: an event
 *     disarms it, and a descriptor that is closed in a callback leaves no armed registration
 *     behind, even where a copy of it lives on elsewhere.
 *  2. A descriptor with a watch stays armed from event to event, which saves a system call for
 *     each; it is taken out before the watch's end is reported.
 *  3. While the events of a round are handled, `fired` names their descriptors, which are armed
 *     again together at the end.
 *
 * Lists: loop.pending -> waiting[] or the workers -> loop.done.
 */
#include "base/loop.h"

#include "base/checked.h"
#include "base/loop_priv.h"
#include "base/loop_try.h"
#include "base/loop_workers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define NS_PER_MS 1000000

/* Events for each epoll_wait: more simply arrive in the next round. */
#define EVENTS_MAX 32

/* Lists of waiting operations by descriptor: enough that each list holds about one. */
#define BUCKETS 64

struct loop_epoll {
	struct loop loop;
	int epfd;
	struct loop_workers *workers;
	unsigned at_workers; /* operations there: 0 saves the lock */
	struct op_list waiting[BUCKETS];
	struct epoll_event fired[EVENTS_MAX];
	int nfired;
};

static struct loop_epoll *ep(struct loop *loop)
{
	return container_of(loop, struct loop_epoll, loop);
}

static struct op_list *bucket(struct loop_epoll *e, int fd)
{
	return &e->waiting[(unsigned)fd % BUCKETS];
}

/* epoll hands back, with each event, the descriptor and what it was registered for. */
static uint64_t tag(int fd, uint32_t events)
{
	return (uint64_t)events << 32 | (uint32_t)fd;
}

static int tag_fd(const struct epoll_event *ev)
{
	return (int)(uint32_t)ev->data.u64;
}

static uint32_t tag_events(const struct epoll_event *ev)
{
	return (uint32_t)(ev->data.u64 >> 32);
}

static bool has_fired(const struct loop_epoll *e, int fd)
{
	for (int i = 0; i < e->nfired; i++) {
		if (tag_fd(&e->fired[i]) == fd)
			return true;
	}
	return false;
}

/* What is to be registered for all that waits for `fd`; 0: nothing waits. */
static uint32_t wanted_events(struct loop_epoll *e, int fd)
{
	uint32_t events = 0, oneshot = EPOLLONESHOT;

	for (struct loop_op *op = bucket(e, fd)->head; op; op = op->p.next) {
		if (op->p.fd != fd)
			continue;
		if (op->p.flags & OPF_WATCH)
			oneshot = 0;
		/* the POLL* and EPOLL* values are the same; errors are always reported */
		events |= (uint32_t)(unsigned short)op_poll_events(op) | EPOLLERR;
	}
	return events ? events | oneshot : 0;
}

/*
 * Registers `fd` for all that waits for it. -EPERM: it cannot be waited for, a regular file for
 * instance, and is always ready.
 */
static int arm(struct loop_epoll *e, int fd)
{
	struct epoll_event ev = {.events = wanted_events(e, fd)};

	if (!ev.events) {
		epoll_ctl(e->epfd, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	ev.data.u64 = tag(fd, ev.events);
	if (!epoll_ctl(e->epfd, EPOLL_CTL_MOD, fd, &ev))
		return 0;
	if (errno == ENOENT && !epoll_ctl(e->epfd, EPOLL_CTL_ADD, fd, &ev))
		return 0;
	return -errno;
}

/* The descriptor is not ready: wait for it. */
static void op_wait(struct loop_epoll *e, struct loop_op *op)
{
	int r;

	op->p.state = OP_ACTIVE;
	op_list_push(bucket(e, op->p.fd), op);
	if (has_fired(e, op->p.fd))
		return; /* armed at the end of the round */
	r = arm(e, op->p.fd);
	if (!r)
		return;
	op_list_remove(bucket(e, op->p.fd), op);
	if (r == -EPERM)
		r = loop_try_stream(op, true);
	op_finish(&e->loop, op, r);
}

/* Begins what was submitted. */
static void submit(struct loop_epoll *e)
{
	struct op_list positioned = {0};
	struct loop_op *op;

	while ((op = op_list_pop(&e->loop.pending))) {
		int res = -EAGAIN;

		if (!op_is_stream(op)) {
			op->p.state = OP_ACTIVE;
			op_list_push(&positioned, op);
			e->at_workers++;
			continue;
		}
		/* a watch was read empty a moment ago, mostly: waiting tells without a call */
		if (!(op->p.flags & OPF_WATCH))
			res = loop_try_stream(op, false);
		if (res == -EAGAIN || res == -EINTR)
			op_wait(e, op);
		else
			op_finish(&e->loop, op, res);
	}
	loop_workers_submit(e->workers, &positioned);
}

/* The descriptor is ready: tries what waits for it, in order of submission. */
static void try_waiting(struct loop_epoll *e, int fd, uint32_t events)
{
	struct op_list *list = bucket(e, fd);
	struct loop_op *op, *next;

	for (op = list->head; op; op = next) {
		uint32_t wanted = (uint32_t)(unsigned short)op_poll_events(op);
		int res;

		next = op->p.next;
		if (op->p.fd != fd || !(events & (wanted | EPOLLERR | EPOLLHUP)))
			continue;
		res = loop_try_stream(op, false);
		if (res == -EAGAIN || res == -EINTR)
			continue;
		op_list_remove(list, op);
		op_finish(&e->loop, op, res);
	}
}

static void collect_workers(struct loop_epoll *e)
{
	struct op_list done = {0};
	struct loop_op *op;

	if (!e->at_workers)
		return;
	loop_workers_collect(e->workers, &done);
	while ((op = op_list_pop(&done))) {
		e->at_workers--;
		op_finish(&e->loop, op, op->p.res);
	}
}

/* Arms the descriptors whose events the last round handled, as far as something waits again. */
static void rearm_fired(struct loop_epoll *e)
{
	for (int i = 0; i < e->nfired; i++) {
		int fd = tag_fd(&e->fired[i]);
		uint32_t wanted = wanted_events(e, fd);

		if (!wanted) /* disarmed by the event, or a watch that is about to be forgotten */
			continue;
		if (wanted == tag_events(&e->fired[i]) && !(wanted & EPOLLONESHOT))
			continue;
		(void)arm(e, fd); /* registered already: only a closed descriptor fails */
	}
	e->nfired = 0;
}

/* Rounded up: a timer is late by a part of a millisecond rather than polled for. */
static int timeout_ms(int64_t timeout_ns)
{
	if (timeout_ns < 0)
		return -1;
	return (int)MIN((timeout_ns + NS_PER_MS - 1) / NS_PER_MS, (int64_t)INT32_MAX);
}

static int epoll_round(struct loop *loop, int64_t timeout_ns)
{
	struct loop_epoll *e = ep(loop);
	int n;

	submit(e);
	rearm_fired(e);
	/* after may_sleep is set: from here on the workers wake the loop */
	collect_workers(e);
	if (loop->done.head)
		timeout_ns = 0;

	n = epoll_wait(e->epfd, e->fired, EVENTS_MAX, timeout_ms(timeout_ns));
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		uint64_t count;

		if (tag_fd(&e->fired[i]) != loop->wake_fd)
			try_waiting(e, tag_fd(&e->fired[i]), e->fired[i].events);
		else if (read(loop->wake_fd, &count, sizeof(count)) < 0)
			return -errno;
	}
	e->nfired = n;
	collect_workers(e);
	return 0;
}

static int epoll_start(struct loop *loop)
{
	(void)loop;
	return 0;
}

/* Nothing is armed between runs for a descriptor that nobody waits for. */
static int epoll_stop(struct loop *loop)
{
	rearm_fired(ep(loop));
	return 0;
}

static bool epoll_goes_on(struct loop *loop, struct loop_op *op)
{
	(void)loop;
	(void)op;
	return false;
}

static void epoll_cancel(struct loop *loop, struct loop_op *op)
{
	struct loop_epoll *e = ep(loop);

	if (!op_is_stream(op)) {
		if (!loop_workers_cancel(e->workers, op))
			return;
		e->at_workers--;
	} else {
		op_list_remove(bucket(e, op->p.fd), op);
		if (!has_fired(e, op->p.fd))
			(void)arm(e, op->p.fd);
	}
	op_finish(loop, op, -ECANCELED);
}

static void epoll_forget(struct loop *loop, int fd)
{
	(void)arm(ep(loop), fd);
}

static void epoll_drain(struct loop *loop)
{
	struct loop_epoll *e = ep(loop);
	struct loop_op *op;

	loop_workers_stop(e->workers);
	collect_workers(e);
	for (size_t i = 0; i < BUCKETS; i++) {
		while ((op = op_list_pop(&e->waiting[i])))
			op_finish(loop, op, -ECANCELED);
	}
}

static void epoll_free(struct loop *loop)
{
	struct loop_epoll *e = ep(loop);

	loop_workers_free(e->workers);
	if (e->epfd >= 0)
		close(e->epfd);
	loop_fini(loop);
	free(e);
}

static const struct loop_ops epoll_ops = {
    .start = epoll_start,
    .stop = epoll_stop,
    .round = epoll_round,
    .goes_on = epoll_goes_on,
    .cancel = epoll_cancel,
    .forget = epoll_forget,
    .drain = epoll_drain,
    .free = epoll_free,
};

int loop_epoll_new(const struct loop_opts *opts, struct loop **ret_loop, struct err *err)
{
	struct loop_epoll *e = calloc(1, sizeof(*e));
	struct epoll_event ev = {.events = EPOLLIN};
	int r;

	if (!e)
		return err_set(err, ENOMEM, "no memory for a loop");
	e->epfd = -1;
	r = loop_init(&e->loop, &epoll_ops, LOOP_EPOLL, opts, err);
	if (r)
		goto fail;
	e->epfd = epoll_create1(EPOLL_CLOEXEC);
	ev.data.u64 = tag(e->loop.wake_fd, ev.events);
	if (e->epfd < 0 || epoll_ctl(e->epfd, EPOLL_CTL_ADD, e->loop.wake_fd, &ev)) {
		r = err_sys(err, errno, "epoll for a loop");
		goto fail;
	}
	r = loop_workers_new(&e->loop, opts->workers, &e->workers, err);
	if (r)
		goto fail;
	*ret_loop = &e->loop;
	return 0;

fail:
	epoll_free(&e->loop);
	return r;
}
