/*
 * Child processes of the agent and their streams: programs, and functions of the agent itself.
 *
 *	start --> runs --> exited: what it has written is delivered --> ended --> gone
 *	   \-> failed before it ran: ended, with the error
 *
 * Invariants
 *  1. Every process that was started is reaped, and its `ended` called exactly once, unless it is
 *     let go before.
 *  2. At most WINDOW_BYTES wait for a process that does not read; what a process writes stays in
 *     its pipe or terminal until the client has room for it.
 *  3. A process id is only signalled while it is not reaped, so it is never another's.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_AGENT_PROCESS_H
#define GUEST_AGENT_PROCESS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

struct agent;
struct process;

enum { PROCESS_OUT, PROCESS_ERR, PROCESS_OUTS };

/* Descriptor of the child on which it says what went wrong; closed when it executes a program. */
#define PROCESS_STATUS_FD 3

struct process_ops {
	/* A program was executed. Optional. */
	void (*started)(void *ctx);
	/* May CHUNK_BYTES be delivered now? If not, process_go_on() says when. */
	bool (*room)(void *ctx);
	void (*output)(void *ctx, int which, const uint8_t *data, size_t len_bytes);
	/* So much of its input was taken. Optional. */
	void (*taken)(void *ctx, size_t len_bytes);
	/* `wait_status` as of waitpid(2). err->code is set where the child said what went wrong;
	 * else 0. The process is gone. */
	void (*ended)(void *ctx, int wait_status, const struct err *err);
};

struct process_spec {
	/* In the child. Returns 0, or -errno and the message; or executes a program. */
	int (*run)(const void *arg, struct err *err);
	const void *arg;
	bool in, out, err;		/* by pipes; what it has not is /dev/null */
	bool merge;			/* standard error goes where standard output goes */
	const struct winsize *terminal; /* in place of pipes */
};

/* Takes care of SIGCHLD. 0 or -errno. */
int processes_init(struct agent *agent, struct err *err);

/* `ctx` for the ops. -EAGAIN: PROCESSES_MAX run; other -errno. */
int process_start(struct agent *agent, const struct process_spec *spec,
		  const struct process_ops *ops, void *ctx, struct process **ret_process,
		  struct err *err);

pid_t process_id(const struct process *p);

/* Input. -ENOBUFS: more than WINDOW_BYTES wait. What a process does not want is dropped. */
int process_write(struct process *p, const void *data, size_t len_bytes);
void process_write_end(struct process *p);

/* There is room again. */
void process_go_on(struct process *p);

/* To its group, and to the one in the foreground of its terminal. 0 or -errno. */
int process_signal(struct process *p, int sig);
void process_resize(struct process *p, const struct winsize *size);

/* No more callbacks. The process goes on without its streams, or is killed with its group. */
void process_let_go(struct process *p, bool kill_it);

#endif
