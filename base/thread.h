/*
 * Threads: named, with small stacks, deaf to the process's signals (those are the main thread's).
 *
 * A thread has a role, what it is there for. Whoever locks threads in (control/sandbox/) is told of
 * each new one, on it and before anything else, by a hook that is handed down to where threads are
 * made.
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include "base/err.h"

#include <pthread.h>
#include <stddef.h>

enum thread_role {
	THREAD_CONTROL, /* signals, calls, the console; builds and takes down the machine */
	THREAD_VCPU,	/* runs the guest and answers its accesses to devices */
	THREAD_IO,	/* a loop of disks */
	THREAD_WORKER,	/* takes single system calls or unpacking off a loop */
	NTHREAD_ROLES,
};

struct thread_hook {
	/* On the new thread, as its first act. */
	void (*begin)(const struct thread_hook *hook, enum thread_role role);
};

/* The deepest path is a device access that logs: a few KiB. Sanitizers want several times that. */
#define THREAD_STACK_BYTES (256 * 1024)

struct thread_opts {
	const char *name; /* at most 15 bytes */
	enum thread_role role;
	const struct thread_hook *hook; /* NULL: none. Outlives the thread */
	size_t stack_bytes;		/* 0: THREAD_STACK_BYTES */
};

/* -EAGAIN, -EPERM, ...: the host allows no thread. */
int thread_start(const struct thread_opts *opts, void *(*fn)(void *), void *arg,
		 pthread_t *ret_thread, struct err *err);

#endif
