/* Threads. See base/thread.h. */
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define NAME_MAX_BYTES 16

struct start {
	char name[NAME_MAX_BYTES];
	enum thread_role role;
	const struct thread_hook *hook;
	void *(*fn)(void *);
	void *arg;
};

static void *begin(void *arg)
{
	struct start s = *(struct start *)arg;

	free(arg);
	/* of its own name: that of another thread is written through /proc */
	pthread_setname_np(pthread_self(), s.name);
	if (s.hook)
		s.hook->begin(s.hook, s.role);
	return s.fn(s.arg);
}

int thread_start(const struct thread_opts *opts, void *(*fn)(void *), void *arg,
		 pthread_t *ret_thread, struct err *err)
{
	struct start *s = malloc(sizeof(*s));
	pthread_attr_t attr;
	sigset_t all, old;
	int res;

	if (!s)
		return err_sys(err, ENOMEM, "cannot start the thread %s", opts->name);
	*s = (struct start){.role = opts->role, .hook = opts->hook, .fn = fn, .arg = arg};
	snprintf(s->name, sizeof(s->name), "%s", opts->name);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr,
				  opts->stack_bytes ? opts->stack_bytes : THREAD_STACK_BYTES);
	/* The new thread inherits the mask, so no signal can reach it before it sets its own. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	res = pthread_create(ret_thread, &attr, begin, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (res) {
		free(s);
		return err_sys(err, res, "cannot start the thread %s", opts->name);
	}
	return 0;
}
