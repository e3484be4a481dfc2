/* Threads for positioned I/O. See base/loop_workers.h. */
#include "base/loop_workers.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/loop_try.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct loop_workers {
	struct loop *loop;

	pthread_mutex_t lock; /* everything below */
	pthread_cond_t work;
	pthread_cond_t all_idle; /* at first */
	struct op_list todo;	 /* op.p.begun tells whether one is still here */
	struct op_list done;
	unsigned idle;
	bool ending;

	unsigned wanted;   /* how many threads there are to be */
	unsigned nthreads; /* the owner's */
	pthread_t threads[];
};

static void *worker(void *arg)
{
	struct loop_workers *w = arg;

	AUTOLOCK(&w->lock);
	for (;;) {
		struct loop_op *op;
		bool was_empty;
		int res;

		while (!w->todo.head && !w->ending) {
			if (++w->idle == w->wanted)
				pthread_cond_signal(&w->all_idle);
			pthread_cond_wait(&w->work, &w->lock);
			w->idle--;
		}
		if (w->ending)
			return NULL;
		op = op_list_pop(&w->todo);
		op->p.begun = true;

		pthread_mutex_unlock(&w->lock);
		res = loop_try_positioned(op);
		pthread_mutex_lock(&w->lock);

		op->p.res = res;
		was_empty = !w->done.head;
		op_list_push(&w->done, op);
		if (was_empty)
			loop_wake(w->loop);
	}
}

int loop_workers_new(struct loop *loop, unsigned count, struct loop_workers **ret_workers,
		     struct err *err)
{
	struct loop_workers *w = calloc(1, sizeof(*w) + count * sizeof(w->threads[0]));
	const struct thread_opts opts = {
	    .name = "disk-io", .role = THREAD_WORKER, .hook = loop->threads};
	int r = 0;

	if (!w)
		return err_set(err, ENOMEM, "no memory for a loop");
	w->loop = loop;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	pthread_cond_init(&w->all_idle, NULL);
	w->wanted = count;
	while (!r && w->nthreads < count) {
		r = thread_start(&opts, worker, w, &w->threads[w->nthreads], err);
		w->nthreads += !r;
	}
	if (r) {
		loop_workers_stop(w);
		loop_workers_free(w);
		return r;
	}
	/* what their hook does has been done when this returns */
	pthread_mutex_lock(&w->lock);
	while (w->idle < count)
		pthread_cond_wait(&w->all_idle, &w->lock);
	pthread_mutex_unlock(&w->lock);
	*ret_workers = w;
	return 0;
}

void loop_workers_stop(struct loop_workers *w)
{
	struct loop_op *op;

	pthread_mutex_lock(&w->lock);
	w->ending = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	while (w->nthreads)
		pthread_join(w->threads[--w->nthreads], NULL);

	while ((op = op_list_pop(&w->todo))) {
		op->p.res = -ECANCELED;
		op_list_push(&w->done, op);
	}
}

void loop_workers_free(struct loop_workers *w)
{
	if (!w)
		return;
	pthread_cond_destroy(&w->all_idle);
	pthread_cond_destroy(&w->work);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void loop_workers_submit(struct loop_workers *w, struct op_list *list)
{
	unsigned n = 0;

	for (struct loop_op *op = list->head; op; op = op->p.next) {
		op->p.begun = false;
		n++;
	}
	if (!n)
		return;

	AUTOLOCK(&w->lock);
	op_list_move(&w->todo, list);
	for (n = MIN(n, w->idle); n; n--)
		pthread_cond_signal(&w->work);
}

void loop_workers_collect(struct loop_workers *w, struct op_list *ret_list)
{
	AUTOLOCK(&w->lock);
	op_list_move(ret_list, &w->done);
}

bool loop_workers_cancel(struct loop_workers *w, struct loop_op *op)
{
	AUTOLOCK(&w->lock);
	if (op->p.begun)
		return false;
	op_list_remove(&w->todo, op);
	return true;
}
