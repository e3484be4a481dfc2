/* What process.c, streams.c and fork.c share. */
#ifndef GUEST_AGENT_PROCESS_PRIV_H
#define GUEST_AGENT_PROCESS_PRIV_H

#include "guest/agent/agent.h"
#include "guest/agent/process.h"

/* All threads: the loop's. A stream's descriptor is closed when it is over, and then -1. */

struct process_out {
	int fd;
	int which;
	bool polling;
	bool held;	   /* until process_go_on() */
	size_t left_bytes; /* SIZE_MAX: whatever comes */
	struct process *process;
	struct loop_op op;
};

struct process_in {
	int fd;
	bool writing;
	bool end;	    /* after what is in the ring */
	uint8_t *ring;	    /* of WINDOW_BYTES, made when it is needed */
	size_t head, count; /* what is to be written */
	struct loop_op op;
};

/* What the child says of a failure, as a struct err. */
struct process_status {
	int fd;
	bool reading;
	size_t have_bytes;
	struct err err;
	struct loop_op op;
};

struct process {
	struct agent *agent;
	struct process *next, **at;
	const struct process_ops *ops; /* NULL: let go */
	void *ctx;
	pid_t pid;
	int terminal_fd; /* the master, for its size; the streams have copies; -1: none */
	bool started;	 /* a program was executed */
	bool exited;
	bool linger_over;
	int wait_status;
	struct loop_timer linger;
	struct loop_msg over;
	struct process_in in;
	struct process_out out[PROCESS_OUTS];
	struct process_status status;
};

/* fork.c: the pipes or the terminal, and the child. Fills pid and the descriptors. */
int process_fork(struct process *p, const struct process_spec *spec, struct err *err);

/* streams.c */
void streams_init(struct process *p);
void streams_begin(struct process *p);
/* Nobody writes any more, as far as is known: what is there is delivered. */
void streams_exited(struct process *p);
/* Nobody reads any more. */
void streams_drop(struct process *p);

/* process.c: when it has exited and its streams are closed the process is over, and gone at the end
 * of the loop's round. */
void process_check(struct process *p);

#endif
