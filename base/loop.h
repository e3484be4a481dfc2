/*
 * The event loop: doorbells, disk I/O, sockets, timers and cross-thread calls of one thread.
 *
 * Two backends behind one interface: io_uring (one io_uring_enter for submissions, completions
 * and waiting together) and, where the kernel refuses io_uring, epoll with a small pool of threads
 * for disk I/O. Each ring is restricted to the opcodes that it needs
 * (IORING_REGISTER_RESTRICTIONS).
 *
 * Invariants
 *  1. Every operation that is submitted completes through its callback exactly once, on the
 *     loop's thread, never from inside the submitting call.
 *  2. The objects (loop_op, loop_watch, loop_timer, loop_msg) belong to the caller, stay where they
 *     are until they complete, and carry no allocation: submitting never fails. What does not fit
 *     into the ring waits in a list and follows in order.
 *  3. Submissions made by callbacks of one round go to the kernel together.
 *
 * Threads: a loop is run by one thread, its owner from loop_run() on. Only loop_post() and
 * loop_stop() may be called from others; before loop_run() the creating thread may call all.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include "base/err.h"
#include "base/thread.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct loop;

enum loop_backend {
	LOOP_AUTO,  /* io_uring where the kernel allows it, else epoll */
	LOOP_URING, /* or fail with the reason */
	LOOP_EPOLL,
};

/* What else an io_uring may not be asked for: it can do what a seccomp filter forbids. */
enum loop_use {
	LOOP_USE_ALL,
	LOOP_USE_FILES,	  /* positioned I/O and events */
	LOOP_USE_STREAMS, /* streams and events */
};

#define LOOP_ENTRIES_DEFAULT 256
#define LOOP_WORKERS_DEFAULT 4

struct loop_opts {
	enum loop_backend backend;
	unsigned entries; /* submission queue, power of two; 0: LOOP_ENTRIES_DEFAULT */
	unsigned workers; /* epoll backend: threads for disk I/O; 0: LOOP_WORKERS_DEFAULT */
	enum loop_use use;
	struct thread_hook *threads; /* of those that the loop and its pools make; or NULL */
};

/* "auto", "io_uring" or "epoll"; -EINVAL for any other name. */
int loop_backend_parse(const char *name, enum loop_backend *ret_backend);

/* `opts` may be NULL. -ENOSYS, -EPERM: the backend asked for is refused by this kernel. */
int loop_new(const struct loop_opts *opts, struct loop **ret_loop, struct err *err);

/*
 * Frees a loop that does not run, from any thread. Messages that are posted or deferred run first;
 * operations that did not start complete with -ECANCELED, those under way as they end, and so does
 * whatever these callbacks submit. Watches end (`stopped` is called where loop_unwatch() was),
 * timers are forgotten. No other thread may be within loop_post() or loop_stop() any more. NULL is
 * accepted.
 */
void loop_free(struct loop *loop);

enum loop_backend loop_backend(const struct loop *loop);

/*
 * Runs callbacks until loop_stop(), always in the same thread. 0, or -errno when the kernel fails
 * the loop itself. A stop that came before is not lost: then one round runs. When it returns,
 * nothing of this loop is left with the kernel but what the epoll backend's workers have begun;
 * running it again continues the operations that were in flight.
 */
int loop_run(struct loop *loop);

/*
 * Any thread, any number of times; also from callbacks. The current round is finished first, and
 * messages that this thread posted before are run.
 */
void loop_stop(struct loop *loop);

/*
 * One I/O operation. `done` gets a byte count or 0, or -errno. The descriptor stays open and the
 * memory stays in place until then. Zeroed before its first use, so that loop_cancel() can tell
 * that it is not in flight.
 */
struct loop_op {
	void (*done)(struct loop_op *op, int res);
	struct loop_op_priv {
		uint8_t code;
		uint8_t state;
		uint8_t flags;
		uint8_t begun;
		int fd;
		int mode; /* fallocate mode, fsync flags, poll events, accept flags */
		union {
			const struct iovec *iov;
			void *buf;
			struct msghdr *msg;
		};
		size_t len; /* iovecs, or bytes */
		uint64_t offset;
		uint64_t range; /* fallocate length */
		int res;
		struct loop_op *next;
		struct loop_op *prev;
	} p;
};

/* Positioned I/O on files and block devices. Short counts are passed on as they are. */
void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		unsigned niov, uint64_t offset_bytes);
void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
		 unsigned niov, uint64_t offset_bytes);
void loop_fdatasync(struct loop *loop, struct loop_op *op, int fd);
void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset_bytes,
		    uint64_t len_bytes);

/*
 * Streams (pipes, terminals, sockets, tap): one read or write, as soon as the descriptor allows,
 * whether it is O_NONBLOCK or not. A write to a pipe or socket without a reader raises SIGPIPE as
 * write(2) does: main() ignores that signal.
 */
void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buf, size_t len_bytes);
void loop_write(struct loop *loop, struct loop_op *op, int fd, const void *buf, size_t len_bytes);
void loop_recvmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg);
void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, struct msghdr *msg);

/* Completes with the new descriptor (close-on-exec). */
void loop_accept(struct loop *loop, struct loop_op *op, int fd);

/* Completes once with the ready events (POLLIN, ...) of the descriptor. */
void loop_poll(struct loop *loop, struct loop_op *op, int fd, short events);

/*
 * Asks for an early end: the operation completes with -ECANCELED, or as it would have. Does nothing
 * to an operation that is not in flight.
 */
void loop_cancel(struct loop *loop, struct loop_op *op);

/*
 * An eventfd (EFD_NONBLOCK) that is watched: after a write to it `fn` runs, once for several that
 * come together. The counter is the loop's; a watch that begins on one that is not 0 is told of it.
 */
struct loop_watch {
	void (*fn)(struct loop_watch *w);
	void (*stopped)(struct loop_watch *w); /* after loop_unwatch(): w is the caller's again */
	struct loop_watch_priv {
		struct loop_op op;
		struct loop *loop;
		uint64_t count;
		bool stopping;
		bool in_fn;
	} p;
};

void loop_watch(struct loop *loop, struct loop_watch *w, int eventfd);

/* `stopped` follows, never from inside this call; `fn` does not run any more. */
void loop_unwatch(struct loop_watch *w);

/* A one-shot timer on CLOCK_MONOTONIC; arming it again moves it. Zeroed before its first use. */
struct loop_timer {
	void (*fn)(struct loop_timer *t);
	struct loop_timer_priv {
		uint64_t deadline_ns;
		struct loop_timer *next;
		bool armed;
	} p;
};

uint64_t loop_now_ns(void);
void loop_timer_arm(struct loop *loop, struct loop_timer *t, uint64_t deadline_ns);
void loop_timer_disarm(struct loop *loop, struct loop_timer *t);

/*
 * What the loop looks at before it sleeps, and, while events follow each other within microseconds,
 * again and again in place of sleeping (base/loop_spin.c).
 */
struct loop_spinner {
	/* Cheap. true: there was something to do, and it is done or submitted. */
	bool (*look)(struct loop_spinner *s);
	/* The loop is about to sleep: from now on an event must wake it. true: one had come before.
	 */
	bool (*settle)(struct loop_spinner *s);
	struct loop_spinner *next; /* private */
};

/* Owner only; not from within look() or settle(). */
void loop_spin(struct loop *loop, struct loop_spinner *s);
void loop_unspin(struct loop *loop, struct loop_spinner *s);

/* A call into the loop's thread. The message is the loop's from posting until `fn` is called. */
struct loop_msg {
	void (*fn)(struct loop_msg *m);
	struct loop_msg *next; /* private */
	bool queued;	       /* private; false at first */
};

/* Any thread. Messages arrive in order where one post happened before the other. A message is
 * posted or deferred, not both. */
void loop_post(struct loop *loop, struct loop_msg *m);

/*
 * Owner only: runs `m` once after the completions at hand are handled, before the loop submits and
 * waits; deferring a message that is deferred already does nothing. This is how a device signals
 * the guest once for a whole batch.
 */
void loop_defer(struct loop *loop, struct loop_msg *m);

#endif
