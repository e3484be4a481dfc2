/* The I/O threads: a loop each, "io0" and up. */
#include "vmm/machine_priv.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define IO_RETRY_NS 10000000 /* after a failure of the loop itself */

int machine_io_loop(struct machine *m, unsigned n, struct loop **ret_loop, struct err *err)
{
	struct loop_opts opts = {.backend = m->config->loop_backend,
				 .use = LOOP_USE_FILES,
				 .threads = m->callbacks.threads};
	int res;

	for (; m->nio <= n; m->nio++) {
		m->io[m->nio].machine = m;
		m->io[m->nio].index = m->nio;
		res = loop_new(&opts, &m->io[m->nio].loop, err);
		if (res)
			return res;
	}
	*ret_loop = m->io[n].loop;
	return 0;
}

/*
 * A loop that the host fails ends the machine. It is run again nevertheless: the devices' reset on
 * the way down waits for what is in flight, which only this thread can complete.
 */
static void *io_thread(void *arg)
{
	struct io_thread *io = arg;
	char reason[128];
	int res;

	if (!gate_pass(&io->machine->gate))
		return NULL;
	while ((res = loop_run(io->loop)) != 0) {
		snprintf(reason, sizeof(reason), "the I/O loop io%u failed: %s", io->index,
			 strerrordesc_np(-res));
		machine_raise(io->machine, MACHINE_FAILED, reason);
		nanosleep(&(struct timespec){.tv_nsec = IO_RETRY_NS}, NULL);
	}
	return NULL;
}

int machine_io_start(struct machine *m, struct err *err)
{
	char name[16];
	const struct thread_opts opts = {
	    .name = name, .role = THREAD_IO, .hook = m->callbacks.threads};
	int res;

	for (unsigned i = 0; i < m->nio; i++) {
		snprintf(name, sizeof(name), "io%u", i);
		res = thread_start(&opts, io_thread, &m->io[i], &m->io[i].thread, err);
		if (res)
			return res;
		m->io[i].running = true;
	}
	return 0;
}

void machine_io_free(struct machine *m)
{
	for (unsigned i = 0; i < m->nio; i++) {
		struct io_thread *io = &m->io[i];

		if (io->running) {
			loop_stop(io->loop);
			pthread_join(io->thread, NULL);
		}
		loop_free(io->loop);
	}
	m->nio = 0;
}
