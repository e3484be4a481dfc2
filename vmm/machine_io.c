/* The I/O threads: a loop each, "io0" and up. */
#include "base/log.h"
#include "vmm/machine_priv.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define IO_RETRY_NS 10000000 /* after a failure of the loop itself */

static int add_loop(struct machine *m, enum thread_role role, enum loop_use use, struct err *err)
{
	const struct loop_opts opts = {
	    .backend = m->config->loop_backend, .use = use, .threads = m->callbacks.threads};
	struct io_thread *io = &m->io[m->nio];
	int res;

	*io = (struct io_thread){.machine = m, .index = m->nio, .role = role, .dir_fd = -1};
	res = loop_new(&opts, &io->loop, err);
	if (!res)
		m->nio++;
	return res;
}

int machine_io_loop(struct machine *m, unsigned n, struct loop **ret_loop, struct err *err)
{
	int res = 0;

	while (m->nio <= n && !res)
		res = add_loop(m, THREAD_IO, LOOP_USE_FILES, err);
	if (!res)
		*ret_loop = m->io[n].loop;
	return res;
}

int machine_io_sockets(struct machine *m, int dir_fd, struct loop **ret_loop, struct err *err)
{
	int res = add_loop(m, THREAD_SOCKETS, LOOP_USE_STREAMS, err);

	if (res)
		return res;
	m->io[m->nio - 1].dir_fd = dir_fd;
	*ret_loop = m->io[m->nio - 1].loop;
	return 0;
}

/*
 * The thread of sockets connects by names: it gets the folder of the machine's own for its root
 * where it may (CAP_SYS_CHROOT), and in any case for its working directory, which stays although
 * the rest of the process loses its files.
 */
static void enter_folder(void *arg)
{
	struct io_thread *io = arg;

	if (io->dir_fd >= 0 &&
	    (unshare(CLONE_FS) || fchdir(io->dir_fd) || (chroot(".") && errno != EPERM)))
		log_warn("the thread of sockets cannot enter its folder: %s", strerror(errno));
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
	struct thread_opts opts = {
	    .name = name, .hook = m->callbacks.threads, .before = enter_folder};
	int res;

	for (unsigned i = 0; i < m->nio; i++) {
		snprintf(name, sizeof(name), "io%u", i);
		opts.role = m->io[i].role;
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
