/*
 * Threads for work. See base/loop_pool.h.
 *
 * The loop learns of results through an eventfd that it reads as long as jobs are in flight: an
 * operation like any other, which ends when the loop is freed.
 */
#include "base/loop_pool.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/loop_priv.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Decompressors use some tens of KiB; the sanitizers' own frames are what makes it this large. */
#define POOL_STACK_BYTES (512 * 1024)

struct job_list {
	struct loop_job *head, **tail;
};

struct loop_pool {
	struct loop *loop;
	struct loop_op wait;
	uint64_t count; /* what `wait` reads */
	int event_fd;
	unsigned inflight; /* the owner's, like all above */

	pthread_mutex_t lock; /* everything below */
	pthread_cond_t work;
	struct job_list todo, ended;
	bool ending;

	unsigned nthreads; /* the owner's */
	struct pool_thread {
		struct loop_pool *pool;
		unsigned index;
		pthread_t thread;
	} threads[];
};

static void job_push(struct job_list *l, struct loop_job *job)
{
	job->next = NULL;
	*l->tail = job;
	l->tail = &job->next;
}

static struct loop_job *job_pop(struct job_list *l)
{
	struct loop_job *job = l->head;

	if (job) {
		l->head = job->next;
		if (!l->head)
			l->tail = &l->head;
	}
	return job;
}

static void *pool_thread(void *arg)
{
	const struct pool_thread *t = arg;
	struct loop_pool *p = t->pool;
	static const uint64_t one = 1;

	AUTOLOCK(&p->lock);
	for (;;) {
		struct loop_job *job;
		bool was_empty;

		while (!p->todo.head && !p->ending)
			pthread_cond_wait(&p->work, &p->lock);
		job = job_pop(&p->todo);
		if (!job)
			return NULL;
		pthread_mutex_unlock(&p->lock);
		job->run(job, t->index);
		pthread_mutex_lock(&p->lock);
		was_empty = !p->ended.head;
		job_push(&p->ended, job);
		if (was_empty) /* cannot fail: the counter is far from its end */
			(void)!write(p->event_fd, &one, sizeof(one));
	}
}

/* Ends all threads once nothing is left to do. */
static void join(struct loop_pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	while (p->nthreads)
		pthread_join(p->threads[--p->nthreads].thread, NULL);
}

static struct job_list take_ended(struct loop_pool *p)
{
	struct job_list l;

	AUTOLOCK(&p->lock);
	l = p->ended;
	p->ended = (struct job_list){.tail = &p->ended.head};
	return l;
}

static void listen(struct loop_pool *p)
{
	loop_read(p->loop, &p->wait, p->event_fd, &p->count, sizeof(p->count));
}

static void event(struct loop_op *op, int res)
{
	struct loop_pool *p = container_of(op, struct loop_pool, wait);
	struct loop_job *job, *next;

	if (res < 0) /* the loop is freed */
		join(p);
	job = take_ended(p).head;
	for (struct loop_job *j = job; j; j = j->next)
		p->inflight--;
	/* before the callbacks: the last of them may free the pool */
	if (p->inflight)
		listen(p);
	for (; job; job = next) {
		next = job->next;
		job->done(job);
	}
}

static int start(struct loop_pool *p, unsigned threads, struct err *err)
{
	const struct thread_opts opts = {.name = "loop-pool",
					 .role = THREAD_WORKER,
					 .hook = p->loop->threads,
					 .stack_bytes = POOL_STACK_BYTES};
	int r = 0;

	while (!r && p->nthreads < threads) {
		struct pool_thread *t = &p->threads[p->nthreads];

		t->pool = p;
		t->index = p->nthreads;
		r = thread_start(&opts, pool_thread, t, &t->thread, err);
		p->nthreads += !r;
	}
	return r;
}

int loop_pool_new(struct loop *loop, unsigned threads, struct loop_pool **ret_pool, struct err *err)
{
	struct loop_pool *p = calloc(1, sizeof(*p) + threads * sizeof(p->threads[0]));
	int r;

	if (!p)
		return err_set(err, ENOMEM, "no memory for threads");
	p->loop = loop;
	p->wait.done = event;
	p->todo.tail = &p->todo.head;
	p->ended.tail = &p->ended.head;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	p->event_fd = eventfd(0, EFD_CLOEXEC);
	r = p->event_fd < 0 ? err_sys(err, errno, "eventfd for threads") : start(p, threads, err);
	if (r) {
		loop_pool_free(p);
		return r;
	}
	*ret_pool = p;
	return 0;
}

void loop_pool_free(struct loop_pool *p)
{
	if (!p)
		return;
	assert(!p->inflight);
	join(p);
	if (p->event_fd >= 0)
		close(p->event_fd);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void loop_pool_submit(struct loop_pool *p, struct loop_job *job)
{
	if (!p->nthreads) { /* the loop is being freed: what is begun now is done here */
		job->run(job, 0);
		job_push(&p->ended, job);
		if (!p->inflight++)
			listen(p);
		return;
	}
	if (!p->inflight++)
		listen(p);
	AUTOLOCK(&p->lock);
	job_push(&p->todo, job);
	pthread_cond_signal(&p->work);
}
