/* A gate for threads. See vmm/gate.h. */
#include "vmm/gate.h"

#include "base/cleanup.h"

void gate_init(struct gate *gate)
{
	pthread_mutex_init(&gate->lock, NULL);
	pthread_cond_init(&gate->changed, NULL);
	gate->open = gate->closed = false;
	gate->waiting = 0;
}

void gate_fini(struct gate *gate)
{
	pthread_cond_destroy(&gate->changed);
	pthread_mutex_destroy(&gate->lock);
}

bool gate_pass(struct gate *gate)
{
	AUTOLOCK(&gate->lock);
	gate->waiting++;
	pthread_cond_broadcast(&gate->changed);
	while (!gate->open && !gate->closed)
		pthread_cond_wait(&gate->changed, &gate->lock);
	return gate->open;
}

void gate_await(struct gate *gate, unsigned nthreads)
{
	AUTOLOCK(&gate->lock);
	while (gate->waiting < nthreads)
		pthread_cond_wait(&gate->changed, &gate->lock);
}

static void set(struct gate *gate, bool *flag)
{
	AUTOLOCK(&gate->lock);
	*flag = true;
	pthread_cond_broadcast(&gate->changed);
}

void gate_open(struct gate *gate)
{
	set(gate, &gate->open);
}

void gate_close(struct gate *gate)
{
	set(gate, &gate->closed);
}
