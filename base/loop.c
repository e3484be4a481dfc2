/*
 * The part of the loop that does not depend on the backend: rounds, timers, messages, watches.
 *
 * One round:  backend (submit, wait, collect) -> completions -> messages -> timers -> deferred
 */
#include "base/loop.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/loop_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)

#define LOOP_ENTRIES_MAX 32768 /* io_uring's own bound */
#define LOOP_WORKERS_MAX 64    /* more would only queue in the host's block layer */

static const char *const backend_names[] = {
    [LOOP_AUTO] = "auto",
    [LOOP_URING] = "io_uring",
    [LOOP_EPOLL] = "epoll",
};

int loop_backend_parse(const char *name, enum loop_backend *ret_backend)
{
	for (size_t i = 0; i < ARRAY_LEN(backend_names); i++) {
		if (!strcmp(name, backend_names[i])) {
			*ret_backend = (enum loop_backend)i;
			return 0;
		}
	}
	return -EINVAL;
}

int loop_init(struct loop *loop, const struct loop_ops *ops, enum loop_backend backend,
	      const struct loop_opts *opts, struct err *err)
{
	loop->threads = opts->threads;
	loop->ops = ops;
	loop->backend = backend;
	loop->deferred_tail = &loop->deferred;
	/* blocking: read only when it is known to be ready, and io_uring then needs no poll */
	loop->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->wake_fd < 0)
		return err_sys(err, errno, "eventfd for a loop");
	return 0;
}

void loop_fini(struct loop *loop)
{
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
}

int loop_new(const struct loop_opts *opts, struct loop **ret_loop, struct err *err)
{
	struct loop_opts o = opts ? *opts : (struct loop_opts){0};
	struct err refused = ERR_INIT;
	int r;

	if (!o.entries)
		o.entries = LOOP_ENTRIES_DEFAULT;
	if (!o.workers)
		o.workers = LOOP_WORKERS_DEFAULT;
	if (!is_pow2(o.entries) || o.entries > LOOP_ENTRIES_MAX)
		return err_set(err, EINVAL, "a loop of %u entries: use a power of two up to %d",
			       o.entries, LOOP_ENTRIES_MAX);
	if (o.workers > LOOP_WORKERS_MAX)
		return err_set(err, EINVAL, "a loop with %u workers: use at most %d", o.workers,
			       LOOP_WORKERS_MAX);

	switch (o.backend) {
	case LOOP_URING:
		return loop_uring_new(&o, ret_loop, err);
	case LOOP_EPOLL:
		return loop_epoll_new(&o, ret_loop, err);
	default:
		r = loop_uring_new(&o, ret_loop, &refused);
		if (!r)
			return 0;
		log_debug("%s; using epoll", refused.msg);
		return loop_epoll_new(&o, ret_loop, err);
	}
}

enum loop_backend loop_backend(const struct loop *loop)
{
	return loop->backend;
}

/* Submission */

static void op_submit(struct loop *loop, struct loop_op *op, enum op_code code, int fd)
{
	op->p.code = (uint8_t)code;
	op->p.flags = 0;
	op->p.fd = fd;
	if (loop->closing) {
		op_finish(loop, op, -ECANCELED);
		return;
	}
	op->p.state = OP_PENDING;
	op_list_push(&loop->pending, op);
}

void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		unsigned niov, uint64_t offset_bytes)
{
	op->p.iov = iov;
	op->p.len = niov;
	op->p.offset = offset_bytes;
	op_submit(loop, op, OP_READV, fd);
}

void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		 unsigned niov, uint64_t offset_bytes)
{
	op->p.iov = iov;
	op->p.len = niov;
	op->p.offset = offset_bytes;
	op_submit(loop, op, OP_WRITEV, fd);
}

void loop_fdatasync(struct loop *loop, struct loop_op *op, int fd)
{
	op_submit(loop, op, OP_FDATASYNC, fd);
}

void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset_bytes,
		    uint64_t len_bytes)
{
	op->p.mode = mode;
	op->p.offset = offset_bytes;
	op->p.range = len_bytes;
	op_submit(loop, op, OP_FALLOCATE, fd);
}

void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buf, size_t len_bytes)
{
	op->p.buf = buf;
	op->p.len = len_bytes;
	op_submit(loop, op, OP_READ, fd);
}

void loop_write(struct loop *loop, struct loop_op *op, int fd, const void *buf, size_t len_bytes)
{
	/* only ever read from; the union of buffers is not const because loop_read() fills it */
	memcpy(&op->p.buf, &buf, sizeof(buf));
	op->p.len = len_bytes;
	op_submit(loop, op, OP_WRITE, fd);
}

void loop_recvmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg)
{
	op->p.msg = msg;
	op_submit(loop, op, OP_RECVMSG, fd);
}

void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg)
{
	op->p.msg = msg;
	op_submit(loop, op, OP_SENDMSG, fd);
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
	op_submit(loop, op, OP_ACCEPT, fd);
}

void loop_poll(struct loop *loop, struct loop_op *op, int fd, short events)
{
	op->p.mode = events;
	op_submit(loop, op, OP_POLL, fd);
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
	switch (op->p.state) {
	case OP_PENDING:
		op_list_remove(&loop->pending, op);
		op_finish(loop, op, -ECANCELED);
		break;
	case OP_ACTIVE:
		if (op->p.flags & OPF_CANCEL)
			break;
		op->p.flags |= OPF_CANCEL;
		loop->ops->cancel(loop, op);
		break;
	default: /* idle, or its callback is about to run */
		break;
	}
}

/* Watches */

static void watch_arm(struct loop_watch *w)
{
	loop_read(w->p.loop, &w->p.op, w->p.op.p.fd, &w->p.count, sizeof(w->p.count));
	w->p.op.p.flags |= OPF_WATCH;
}

static void watch_done(struct loop_op *op, int res)
{
	struct loop_watch *w = container_of(op, struct loop_watch, p.op);
	struct loop *loop = w->p.loop;

	if (!w->p.stopping && res == (int)sizeof(w->p.count)) {
		w->p.in_fn = true;
		w->fn(w);
		w->p.in_fn = false;
		if (!w->p.stopping) {
			if (!loop->ops->goes_on(loop, op))
				watch_arm(w);
			return;
		}
	}
	if (w->p.stopping && loop->ops->goes_on(loop, op)) {
		loop_cancel(loop, op);
		return;
	}
	if (!w->p.stopping) {
		/* idle until loop_unwatch(); -ECANCELED is the end of the loop */
		if (res != -ECANCELED)
			log_error("watched descriptor %d cannot be read: %s", op->p.fd,
				  res < 0 ? strerror(-res) : "not an eventfd");
		return;
	}
	loop->ops->forget(loop, op->p.fd);
	if (w->stopped)
		w->stopped(w);
}

void loop_watch(struct loop *loop, struct loop_watch *w, int eventfd)
{
	memset(&w->p, 0, sizeof(w->p));
	w->p.loop = loop;
	w->p.op.done = watch_done;
	w->p.op.p.fd = eventfd;
	watch_arm(w);
}

void loop_unwatch(struct loop_watch *w)
{
	struct loop *loop = w->p.loop;

	if (w->p.stopping)
		return;
	w->p.stopping = true;
	if (w->p.in_fn) /* watch_done() goes on from there */
		return;
	if (w->p.op.p.state == OP_IDLE)
		op_finish(loop, &w->p.op, -ECANCELED);
	else
		loop_cancel(loop, &w->p.op);
}

/* Timers */

uint64_t loop_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void loop_timer_arm(struct loop *loop, struct loop_timer *t, uint64_t deadline_ns)
{
	struct loop_timer **at = &loop->timers;

	loop_timer_disarm(loop, t);
	while (*at && (*at)->p.deadline_ns <= deadline_ns)
		at = &(*at)->p.next;
	t->p.deadline_ns = deadline_ns;
	t->p.next = *at;
	t->p.armed = true;
	*at = t;
}

void loop_timer_disarm(struct loop *loop, struct loop_timer *t)
{
	struct loop_timer **at = &loop->timers;

	if (!t->p.armed)
		return;
	while (*at != t)
		at = &(*at)->p.next;
	*at = t->p.next;
	t->p.armed = false;
}

/* Runs what was due at the start: a timer that re-arms itself for now does not hold the round. */
static void run_timers(struct loop *loop)
{
	uint64_t now;

	if (!loop->timers)
		return;
	now = loop_now_ns();
	for (;;) {
		struct loop_timer *t = loop->timers;
		uint64_t deadline;

		if (!t || t->p.deadline_ns > now)
			return;
		deadline = t->p.deadline_ns;
		loop_timer_disarm(loop, t);
		t->fn(t);
		/* `t` may be gone; what was armed meanwhile for an earlier time waits a round */
		if (loop->timers && loop->timers->p.deadline_ns < deadline)
			return;
		if (loop_now_ns() > now + NS_PER_S / 100)
			return; /* slow callbacks must not starve I/O */
	}
}

/* Messages */

void loop_wake(struct loop *loop)
{
	static const uint64_t one = 1;

	if (!atomic_load(&loop->may_sleep) || !atomic_exchange(&loop->may_sleep, false))
		return;
	/* cannot fail: the counter is far from its limit, and a signal does not interrupt it */
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		log_error("waking a loop: %s", strerror(errno));
}

void loop_post(struct loop *loop, struct loop_msg *m)
{
	struct loop_msg *head = atomic_load_explicit(&loop->posted, memory_order_relaxed);

	/* Sequentially consistent with may_sleep, see there; releases *m to run_posted(). */
	do
		m->next = head;
	while (!atomic_compare_exchange_weak(&loop->posted, &head, m));
	loop_wake(loop);
}

static void run_posted(struct loop *loop)
{
	struct loop_msg *newest, *m = NULL;

	if (!atomic_load_explicit(&loop->posted, memory_order_relaxed))
		return;
	/* acquires what the posting threads wrote before loop_post() */
	newest = atomic_exchange(&loop->posted, NULL);
	while (newest) {
		struct loop_msg *next = newest->next;

		newest->next = m;
		m = newest;
		newest = next;
	}
	while (m) {
		struct loop_msg *next = m->next; /* `m` may be gone, or posted again, after fn */

		m->fn(m);
		m = next;
	}
}

void loop_defer(struct loop *loop, struct loop_msg *m)
{
	if (m->queued)
		return;
	m->queued = true;
	m->next = NULL;
	*loop->deferred_tail = m;
	loop->deferred_tail = &m->next;
}

/* What deferred messages defer runs in the next round, which then does not sleep. */
static void run_deferred(struct loop *loop)
{
	struct loop_msg *m = loop->deferred;

	loop->deferred = NULL;
	loop->deferred_tail = &loop->deferred;
	while (m) {
		struct loop_msg *next = m->next;

		m->queued = false;
		m->fn(m);
		m = next;
	}
}

/* Rounds */

/* Only what was there at the start: a callback that submits and completes at once cannot starve. */
static void run_done(struct loop *loop)
{
	struct op_list done = loop->done;
	struct loop_op *op;

	loop->done = (struct op_list){0};
	while ((op = op_list_pop(&done))) {
		int res = op->p.res;

		op->p.state = OP_IDLE;
		op->done(op, res);
	}
}

static void run_callbacks(struct loop *loop)
{
	run_done(loop);
	run_posted(loop);
	run_timers(loop);
	run_deferred(loop);
}

static int64_t sleep_ns(const struct loop *loop)
{
	uint64_t now;

	if (loop->done.head || loop->deferred)
		return 0;
	if (!loop->timers)
		return -1;
	now = loop_now_ns();
	if (loop->timers->p.deadline_ns <= now)
		return 0;
	return (int64_t)MIN(loop->timers->p.deadline_ns - now, (uint64_t)INT64_MAX);
}

static int run_round(struct loop *loop, bool last)
{
	int64_t timeout_ns = last ? 0 : sleep_ns(loop);
	uint64_t idle_since = 0;
	int r;

	if (timeout_ns && loop->spinners) {
		idle_since = loop_now_ns();
		r = loop_spin_before_sleep(loop, timeout_ns);
		if (r < 0)
			return r;
		if (r)
			timeout_ns = 0;
	} else if (!last) {
		/* who is not asked to ring must not wait for a sleep that does not come */
		loop_spin_look(loop);
	}
	if (timeout_ns) {
		atomic_store(&loop->may_sleep, true);
		if (atomic_load(&loop->posted) || atomic_load(&loop->stop))
			timeout_ns = 0;
	}
	r = loop->ops->round(loop, timeout_ns);
	atomic_store(&loop->may_sleep, false);
	if (idle_since)
		loop_spin_learn(loop, loop_now_ns() - idle_since);
	run_callbacks(loop);
	return r;
}

int loop_run(struct loop *loop)
{
	bool last;
	int r, r_stop;

	r = loop->ops->start(loop);
	if (r)
		return r;
	do {
		/* read before the messages: what was posted before the stop is in this round */
		last = atomic_load(&loop->stop);
		r = run_round(loop, last);
	} while (!r && !last);
	r_stop = loop->ops->stop(loop);
	atomic_store(&loop->stop, false);
	return r ? r : r_stop;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	loop_wake(loop);
}

void loop_free(struct loop *loop)
{
	struct loop_op *op;

	if (!loop)
		return;

	run_posted(loop);
	run_deferred(loop);
	loop->closing = true;
	while ((op = op_list_pop(&loop->pending)))
		op_finish(loop, op, -ECANCELED);
	loop->ops->drain(loop);
	while (loop->done.head || loop->deferred ||
	       atomic_load_explicit(&loop->posted, memory_order_relaxed)) {
		run_done(loop);
		run_posted(loop);
		run_deferred(loop);
	}
	while (loop->timers)
		loop_timer_disarm(loop, loop->timers);
	loop->ops->free(loop);
}
