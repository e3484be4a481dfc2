/*
 * Threads of a machine: named, with small stacks, deaf to the process's signals (those are the main
 * thread's).
 */
#ifndef VMM_THREAD_H
#define VMM_THREAD_H

#include "base/err.h"

#include <pthread.h>

/* The deepest path is a device access that logs: a few KiB. Sanitizers want several times that. */
#define THREAD_STACK_BYTES (256 * 1024)

/* `name` has at most 15 bytes. */
int thread_start(const char *name, void *(*fn)(void *), void *arg, pthread_t *ret_thread,
		 struct err *err);

#endif
