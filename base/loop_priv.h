/*
 * What the loop and its two backends share. For base/loop*.c only.
 *
 * Life of an operation:
 *
 *   idle --submit--> pending --backend--> active --result--> done --callback--> idle
 *                       |                   |                  ^
 *                       +---- loop_cancel --+------------------+
 *
 * Invariants
 *  1. An operation that is not idle is on exactly one list: loop.pending, loop.done, or one of the
 *     backend's.
 *  2. Callbacks run only in loop_run() and loop_free(), from loop.done.
 *
 * Threads: everything belongs to the loop's owner but `posted`, `stop`, `may_sleep` and `wake_fd`.
 */
#ifndef BASE_LOOP_PRIV_H
#define BASE_LOOP_PRIV_H

#include "base/loop.h"

#include <stdatomic.h>

enum op_code {
	/* streams */
	OP_READ,
	OP_WRITE,
	OP_RECVMSG,
	OP_SENDMSG,
	OP_ACCEPT,
	OP_POLL,
	/* positioned */
	OP_READV,
	OP_WRITEV,
	OP_FDATASYNC,
	OP_FALLOCATE,
};

enum op_state {
	OP_IDLE,
	OP_PENDING,
	OP_ACTIVE,
	OP_DONE,
};

#define OPF_WATCH   (1u << 0) /* of a loop_watch */
#define OPF_CANCEL  (1u << 1) /* loop_cancel() was called */
#define OPF_POLL    (1u << 2) /* io_uring: the descriptor is non-blocking, poll it first */
#define OPF_POLLING (1u << 3) /* io_uring: what the kernel has is that poll */
#define OPF_ASKED   (1u << 4) /* io_uring: waits for its cancellation to be submitted */
#define OPF_ARMED   (1u << 5) /* io_uring: a watch that the kernel has, whatever its state is */
#define OPF_FIRED   (1u << 6) /* io_uring: armed and cancelled, with an event before that */

struct op_list {
	struct loop_op *head, *tail;
};

struct loop_ops {
	/* The owner's thread begins and ends to run; nothing is left with the kernel after stop. */
	int (*start)(struct loop *loop);
	int (*stop)(struct loop *loop);
	/*
	 * Hands what is pending to the kernel, waits up to timeout_ns (< 0: for ever, 0: not at
	 * all) and puts what has completed on loop->done. -errno when the kernel fails the loop.
	 */
	int (*round)(struct loop *loop, int64_t timeout_ns);
	/* Would a round(0) find something? Cheap, without a system call; NULL: cannot be told. */
	bool (*ready)(struct loop *loop);
	/* Does the kernel have this watch still, whose event was told? Then it is active again. */
	bool (*goes_on)(struct loop *loop, struct loop_op *op);
	/* Cancels an active operation. */
	void (*cancel)(struct loop *loop, struct loop_op *op);
	/* A watch ends whose operation is idle: no event of the descriptor may arrive any more. */
	void (*forget)(struct loop *loop, int fd);
	/* Ends every active operation, while the loop does not run: all are on loop->done after. */
	void (*drain)(struct loop *loop);
	void (*free)(struct loop *loop);
};

/* Head of each backend's own struct. */
struct loop {
	const struct loop_ops *ops;
	enum loop_backend backend;
	int wake_fd; /* blocking eventfd, owned: ends the owner's sleep */
	bool closing;
	struct thread_hook *threads;

	struct op_list pending;
	struct op_list done;
	struct loop_timer *timers; /* ascending by deadline */
	struct loop_msg *deferred, **deferred_tail;

	struct loop_spinner *spinners;
	bool can_spin;
	uint64_t spin_ns; /* the window now */

	_Atomic(struct loop_msg *) posted; /* newest first */
	atomic_bool stop;
	/*
	 * Set by the owner before it looks for messages a last time and sleeps. Who posts writes to
	 * wake_fd only when it takes this flag away. Pairs with the push of a message: one of the
	 * two sides sees the other, or a message would lie there while the owner sleeps.
	 */
	atomic_bool may_sleep;
};

/* Any thread: makes a sleeping owner go round once more. */
void loop_wake(struct loop *loop);

static inline void op_list_push(struct op_list *l, struct loop_op *op)
{
	op->p.next = NULL;
	op->p.prev = l->tail;
	if (l->tail)
		l->tail->p.next = op;
	else
		l->head = op;
	l->tail = op;
}

static inline void op_list_remove(struct op_list *l, struct loop_op *op)
{
	if (op->p.prev)
		op->p.prev->p.next = op->p.next;
	else
		l->head = op->p.next;
	if (op->p.next)
		op->p.next->p.prev = op->p.prev;
	else
		l->tail = op->p.prev;
}

static inline struct loop_op *op_list_pop(struct op_list *l)
{
	struct loop_op *op = l->head;

	if (op)
		op_list_remove(l, op);
	return op;
}

/* Moves all of `from` to the end of `to`. */
static inline void op_list_move(struct op_list *to, struct op_list *from)
{
	if (!from->head)
		return;
	from->head->p.prev = to->tail;
	if (to->tail)
		to->tail->p.next = from->head;
	else
		to->head = from->head;
	to->tail = from->tail;
	from->head = from->tail = NULL;
}

/* Gives an operation that is on no list its result; its callback runs later in the round. */
static inline void op_finish(struct loop *loop, struct loop_op *op, int res)
{
	op->p.state = OP_DONE;
	op->p.res = res;
	op_list_push(&loop->done, op);
}

static inline bool op_is_stream(const struct loop_op *op)
{
	return op->p.code <= OP_POLL;
}

/* The poll events that a stream operation waits for. */
static inline short op_poll_events(const struct loop_op *op)
{
	switch (op->p.code) {
	case OP_WRITE:
	case OP_SENDMSG:
		return POLLOUT;
	case OP_POLL:
		return (short)op->p.mode;
	default:
		return POLLIN;
	}
}

/* For rounds that do not sleep: was there something to do? */
bool loop_spin_look(struct loop *loop);

/* Looks, then settles. 1: something was found, 0: sleep, -errno: the kernel fails the loop. */
int loop_spin_before_sleep(struct loop *loop, int64_t timeout_ns);

/* How long it took from wanting to sleep to the next event. */
void loop_spin_learn(struct loop *loop, uint64_t waited_ns);

int loop_uring_new(const struct loop_opts *opts, struct loop **ret_loop, struct err *err);
int loop_epoll_new(const struct loop_opts *opts, struct loop **ret_loop, struct err *err);

/* Common part of both: the wake eventfd and the lists. */
int loop_init(struct loop *loop, const struct loop_ops *ops, enum loop_backend backend,
	      const struct loop_opts *opts, struct err *err);
void loop_fini(struct loop *loop);

#endif
