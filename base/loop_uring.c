/*
 * The io_uring backend: one io_uring_enter for submissions, completions and waiting.
 *
 * The ring is created disabled and restricted (base/loop_ring.c), and enabled by the thread that
 * runs the loop.
 *
 * Lists: loop.pending (not yet in the submission queue, in order) -> kernel (submitted) ->
 * loop.done; cancels (in the kernel, and to be cancelled at the next submission).
 *
 * The completion queue cannot lose anything: kernels without IORING_FEAT_NODROP are refused, and
 * the others keep what does not fit until it is collected.
 *
 * A watch is one poll that tells of every event: while it is on loop.done, or its callback runs,
 * the kernel has it still (OPF_ARMED), and nothing has to be submitted for the next. Its eventfd is
 * not read before the watch ends.
 *
 * Because only the running thread may talk to the ring, loop_run() takes everything back from the
 * kernel when it returns: what was cancelled by that waits in loop.pending for the next run.
 */
#include "base/loop.h"

#include "base/checked.h"
#include "base/loop_priv.h"
#include "base/loop_ring.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

/* How long to wait for memory or completions before a refused submission is tried again. */
#define BACKOFF_NS INT64_C(10000000)

struct loop_uring {
	struct loop loop;
	struct io_uring ring;
	bool have_ring;
	bool enabled;
	bool taking_back;
	struct op_list kernel;
	struct op_list cancels;
	struct loop_op wake_op;
	uint64_t wake_count;
};

static struct loop_uring *uring(struct loop *loop)
{
	return container_of(loop, struct loop_uring, loop);
}

static void fill_sqe(struct io_uring_sqe *sqe, struct loop_op *op)
{
	int fd = op->p.fd;

	if (op->p.flags & OPF_WATCH) {
		op->p.flags |= OPF_ARMED;
		io_uring_prep_poll_multishot(sqe, fd, POLLIN);
		io_uring_sqe_set_data(sqe, op);
		return;
	}
	if (op->p.flags & OPF_POLL) {
		op->p.flags |= OPF_POLLING;
		io_uring_prep_poll_add(sqe, fd, (unsigned)op_poll_events(op));
		io_uring_sqe_set_data(sqe, op);
		return;
	}
	switch (op->p.code) {
	case OP_READ:
		io_uring_prep_read(sqe, fd, op->p.buf, (unsigned)MIN(op->p.len, INT32_MAX),
				   UINT64_MAX);
		break;
	case OP_WRITE:
		io_uring_prep_write(sqe, fd, op->p.buf, (unsigned)MIN(op->p.len, INT32_MAX),
				    UINT64_MAX);
		break;
	case OP_RECVMSG:
		io_uring_prep_recvmsg(sqe, fd, op->p.msg, MSG_CMSG_CLOEXEC);
		break;
	case OP_SENDMSG:
		io_uring_prep_sendmsg(sqe, fd, op->p.msg, MSG_NOSIGNAL);
		break;
	case OP_ACCEPT:
		io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case OP_POLL:
		io_uring_prep_poll_add(sqe, fd, (unsigned)op_poll_events(op));
		break;
	case OP_READV:
		io_uring_prep_readv(sqe, fd, op->p.iov, (unsigned)op->p.len, op->p.offset);
		break;
	case OP_WRITEV:
		io_uring_prep_writev(sqe, fd, op->p.iov, (unsigned)op->p.len, op->p.offset);
		break;
	case OP_FDATASYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case OP_FALLOCATE:
		io_uring_prep_fallocate(sqe, fd, op->p.mode, (off_t)op->p.offset,
					(off_t)op->p.range);
		break;
	}
	io_uring_sqe_set_data(sqe, op);
}

/* Moves as much as there is room for into the submission queue; true when all is there. */
static bool fill_queue(struct loop_uring *u)
{
	struct io_uring_sqe *sqe;
	struct loop_op *op;

	while (u->cancels.head) {
		sqe = io_uring_get_sqe(&u->ring);
		if (!sqe)
			return false;
		op = op_list_pop(&u->cancels);
		op->p.flags &= (uint8_t)~OPF_ASKED;
		io_uring_prep_cancel(sqe, op, 0);
		io_uring_sqe_set_data(sqe, NULL); /* its own completion says nothing */
		op_list_push(&u->kernel, op);
	}
	while (u->loop.pending.head) {
		sqe = io_uring_get_sqe(&u->ring);
		if (!sqe)
			return false;
		op = op_list_pop(&u->loop.pending);
		fill_sqe(sqe, op);
		op->p.state = OP_ACTIVE;
		op_list_push(&u->kernel, op);
	}
	return true;
}

/* Takes an operation that completed off its list. */
static void kernel_remove(struct loop_uring *u, struct loop_op *op)
{
	op_list_remove(op->p.flags & OPF_ASKED ? &u->cancels : &u->kernel, op);
	op->p.flags &= (uint8_t)~OPF_ASKED;
}

static void requeue(struct loop_uring *u, struct loop_op *op)
{
	op->p.state = OP_PENDING;
	op_list_push(&u->loop.pending, op);
}

/*
 * A non-blocking descriptor was polled because it had nothing to give at first. Returns false when
 * the operation itself goes to the kernel now.
 */
static bool polled(struct loop_op *op, int res)
{
	op->p.flags &= (uint8_t)~OPF_POLLING;
	if (res < 0)
		return true;
	op->p.flags &= (uint8_t)~OPF_POLL;
	return false;
}

static void complete(struct loop_uring *u, struct loop_op *op, int res)
{
	bool cancelled = op->p.flags & OPF_CANCEL;

	kernel_remove(u, op);
	if ((op->p.flags & OPF_POLLING) && !polled(op, res)) {
		if (cancelled)
			op_finish(&u->loop, op, -ECANCELED);
		else
			requeue(u, op);
		return;
	}
	if (op_is_stream(op) && (res == -EAGAIN || res == -EINTR)) {
		if (cancelled) {
			op_finish(&u->loop, op, -ECANCELED);
			return;
		}
		if (res == -EAGAIN)
			op->p.flags |= OPF_POLL;
		requeue(u, op);
		return;
	}
	op_finish(&u->loop, op, res);
}

/* Of a watch that the kernel has. `more`: it still has it. */
static void watch_fired(struct loop_uring *u, struct loop_op *op, int res, bool more)
{
	if (more) {
		if (op->p.state != OP_ACTIVE)
			return; /* its callback is still to run */
		if ((op->p.flags & OPF_CANCEL) || u->taking_back) {
			op->p.flags |= OPF_FIRED; /* only once the kernel has let go of it */
			return;
		}
		kernel_remove(u, op);
		op_finish(&u->loop, op, (int)op->p.len);
		return;
	}
	op->p.flags &= (uint8_t)~OPF_ARMED;
	if (op->p.state != OP_ACTIVE)
		return;
	kernel_remove(u, op);
	if (res == -ECANCELED && !(op->p.flags & OPF_CANCEL) && !u->taking_back) {
		requeue(u, op); /* the kernel's own doing, where completions had no room */
		return;
	}
	if (res >= 0 || (op->p.flags & OPF_FIRED))
		res = (int)op->p.len;
	op->p.flags &= (uint8_t)~OPF_FIRED;
	op_finish(&u->loop, op, res);
}

/* Takes what the completion queue holds. */
static void collect(struct loop_uring *u)
{
	unsigned n = io_uring_cq_ready(&u->ring);

	while (n--) {
		struct io_uring_cqe *cqe;
		struct loop_op *op;
		bool more;
		int res;

		if (io_uring_peek_cqe(&u->ring, &cqe))
			return;
		op = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		more = cqe->flags & IORING_CQE_F_MORE;
		io_uring_cqe_seen(&u->ring, cqe);

		if (!op)
			continue;
		if (op == &u->wake_op) {
			/* not the user's: armed again as long as the loop runs */
			kernel_remove(u, op);
			op->p.state = OP_IDLE;
			if (res != -ECANCELED)
				requeue(u, op);
			continue;
		}
		if (op->p.flags & OPF_ARMED)
			watch_fired(u, op, res, more);
		else
			complete(u, op, res);
	}
}

/* One io_uring_enter at most. wait_ns < 0: until something completes. */
static int enter(struct loop_uring *u, int64_t wait_ns)
{
	struct io_uring_cqe *cqe;
	struct __kernel_timespec ts = {.tv_sec = wait_ns / NS_PER_S, .tv_nsec = wait_ns % NS_PER_S};
	int r;

	if (!wait_ns)
		r = io_uring_submit_and_get_events(&u->ring);
	else
		r = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, wait_ns > 0 ? &ts : NULL,
						     NULL);
	if (r >= 0)
		return 0;
	switch (r) {
	case -ETIME:
	case -EINTR:
		return 0;
	case -EAGAIN: /* no memory for requests just now */
	case -EBUSY:  /* completions are to be collected first */
		if (io_uring_cq_ready(&u->ring))
			return 0;
		ts = (struct __kernel_timespec){.tv_nsec = BACKOFF_NS};
		io_uring_wait_cqe_timeout(&u->ring, &cqe, &ts);
		return 0;
	default:
		return r;
	}
}

static int uring_round(struct loop *loop, int64_t timeout_ns)
{
	struct loop_uring *u = uring(loop);
	int r;

	while (!fill_queue(u)) {
		r = enter(u, 0);
		if (r)
			return r;
		collect(u);
	}
	if (loop->done.head)
		timeout_ns = 0;
	r = enter(u, timeout_ns);
	if (r)
		return r;
	collect(u);
	return 0;
}

static bool uring_ready(struct loop *loop)
{
	struct loop_uring *u = uring(loop);

	/* the flag: completions that wait for us to enter the kernel (IORING_SETUP_DEFER_TASKRUN)
	 */
	return io_uring_cq_ready(&u->ring) ||
	       (__atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN);
}

static int uring_start(struct loop *loop)
{
	struct loop_uring *u = uring(loop);
	int r;

	if (!u->enabled) {
		r = loop_ring_enable(&u->ring);
		if (r)
			return r;
		u->enabled = true;
	}
	/* saves a look-up of the descriptor in each enter; a refusal costs just that */
	(void)io_uring_register_ring_fd(&u->ring);

	u->wake_op.p = (struct loop_op_priv){
	    .code = OP_READ, .fd = loop->wake_fd, .buf = &u->wake_count, .len = sizeof(uint64_t)};
	requeue(u, &u->wake_op);
	return 0;
}

/* Takes every operation back from the kernel; those that did not happen are pending again. */
static int take_back(struct loop_uring *u)
{
	struct op_list later = u->loop.pending, kept = {0}, done;
	struct loop_op *op;
	int r = 0;

	u->loop.pending = (struct op_list){0};
	u->taking_back = true;
	for (op = u->kernel.head; op; op = op->p.next)
		op->p.flags |= OPF_ASKED;
	op_list_move(&u->cancels, &u->kernel);
	while (!r && (u->kernel.head || u->cancels.head)) {
		done = u->loop.done;
		u->loop.done = (struct op_list){0};

		if (!fill_queue(u))
			r = enter(u, 0);
		else
			r = enter(u, -1);
		collect(u);

		/* what fill_queue() must not submit again now */
		op_list_move(&kept, &u->loop.pending);
		while ((op = op_list_pop(&u->loop.done))) {
			if (op->p.res == -ECANCELED && !(op->p.flags & OPF_CANCEL)) {
				op->p.state = OP_PENDING;
				op_list_push(&kept, op);
			} else {
				op_list_push(&done, op);
			}
		}
		u->loop.done = done;
	}
	u->taking_back = false;
	op_list_move(&u->loop.pending, &kept);
	op_list_move(&u->loop.pending, &later);
	return r;
}

static int uring_stop(struct loop *loop)
{
	struct loop_uring *u = uring(loop);
	int r = take_back(u);

	if (u->wake_op.p.state == OP_PENDING)
		op_list_remove(&loop->pending, &u->wake_op);
	u->wake_op.p.state = OP_IDLE;
	io_uring_unregister_ring_fd(&u->ring);
	return r;
}

static bool uring_goes_on(struct loop *loop, struct loop_op *op)
{
	if (!(op->p.flags & OPF_ARMED))
		return false;
	op->p.state = OP_ACTIVE;
	op_list_push(&uring(loop)->kernel, op);
	return true;
}

static void uring_cancel(struct loop *loop, struct loop_op *op)
{
	struct loop_uring *u = uring(loop);

	op_list_remove(&u->kernel, op);
	op->p.flags |= OPF_ASKED;
	op_list_push(&u->cancels, op);
}

static void uring_forget(struct loop *loop, int fd)
{
	uint64_t count;

	/* what was told of already, and never read */
	(void)loop;
	(void)!read(fd, &count, sizeof(count));
}

/*
 * loop_run() took everything back, unless the kernel failed the loop itself; then closing the ring
 * is what ends the operations.
 */
static void uring_drain(struct loop *loop)
{
	struct loop_uring *u = uring(loop);
	struct loop_op *op;

	for (op = loop->done.head; op; op = op->p.next)
		op->p.flags &= (uint8_t)~OPF_ARMED;
	op_list_move(&u->kernel, &u->cancels);
	if (!u->kernel.head)
		return;
	io_uring_queue_exit(&u->ring);
	u->have_ring = false;
	while ((op = op_list_pop(&u->kernel))) {
		op->p.flags &= (uint8_t)~OPF_ARMED;
		if (op != &u->wake_op)
			op_finish(loop, op, -ECANCELED);
	}
}

static void uring_free(struct loop *loop)
{
	struct loop_uring *u = uring(loop);

	if (u->have_ring)
		io_uring_queue_exit(&u->ring);
	loop_fini(loop);
	free(u);
}

static const struct loop_ops uring_ops = {
    .start = uring_start,
    .stop = uring_stop,
    .round = uring_round,
    .ready = uring_ready,
    .goes_on = uring_goes_on,
    .cancel = uring_cancel,
    .forget = uring_forget,
    .drain = uring_drain,
    .free = uring_free,
};

int loop_uring_new(const struct loop_opts *opts, struct loop **ret_loop, struct err *err)
{
	struct loop_uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return err_set(err, ENOMEM, "no memory for a loop");
	r = loop_init(&u->loop, &uring_ops, LOOP_URING, opts, err);
	if (!r)
		r = loop_ring_new(&u->ring, opts->entries, opts->use, err);
	if (r) {
		uring_free(&u->loop);
		return r;
	}
	u->have_ring = true;
	*ret_loop = &u->loop;
	return 0;
}
