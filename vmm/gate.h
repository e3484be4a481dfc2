/*
 * Where threads wait that are made before they may run: the process locks itself in between.
 *
 * Threads: any.
 */
#ifndef VMM_GATE_H
#define VMM_GATE_H

#include <pthread.h>
#include <stdbool.h>

struct gate {
	pthread_mutex_t lock; /* innermost */
	pthread_cond_t changed;
	bool open, closed; /* under the lock, as is */
	unsigned waiting;
};

void gate_init(struct gate *gate);
void gate_fini(struct gate *gate);

/* Waits. False: the gate was closed for ever before it was opened. */
bool gate_pass(struct gate *gate);

/* Until so many threads wait there: what they do before has been done. */
void gate_await(struct gate *gate, unsigned nthreads);

void gate_open(struct gate *gate);
/* Whoever waits leaves; nobody passes who did not before, unless it was open. */
void gate_close(struct gate *gate);

#endif
