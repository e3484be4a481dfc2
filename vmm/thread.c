#include "vmm/thread.h"

#include <signal.h>

int thread_start(const char *name, void *(*fn)(void *), void *arg, pthread_t *ret_thread,
		 struct err *err)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int res;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	/* The new thread inherits the mask, so no signal can reach it before it sets its own. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	res = pthread_create(ret_thread, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (res)
		return err_sys(err, res, "cannot start the thread %s", name);
	pthread_setname_np(*ret_thread, name);
	return 0;
}
