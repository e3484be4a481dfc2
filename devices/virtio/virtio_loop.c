/* See virtio_loop.h. */
#include "devices/virtio/virtio_loop.h"

#include "base/checked.h"

#include <sys/eventfd.h>

static void hold(struct virtio_loop *vl)
{
	vl->held++;
}

/* Chains that were taken, and notifications. */
static bool in_flight(const struct virtio_loop *vl)
{
	return vl->held != vl->watched + vl->kept;
}

static void tell_quiet(struct virtio_loop *vl)
{
	void (*quiet)(void *ctx) = vl->quiet;

	if (!quiet || in_flight(vl))
		return;
	vl->quiet = NULL;
	quiet(vl->quiet_ctx);
}

/* What waited until nothing is in flight. */
static void run_job(struct virtio_loop *vl)
{
	if (!vl->job || vl->job_runs || in_flight(vl))
		return;
	vl->job_runs = true;
	hold(vl);
	vl->job->run(vl->job);
}

static void unhold(struct virtio_loop *vl)
{
	vl->held--;
	run_job(vl);
	tell_quiet(vl);
	if (!vl->stopping || vl->held)
		return;
	vl->running = false;
	/* The caller of stop may free `vl` as soon as it sees `stopped`: nothing of it is touched
	 * after the unlock, and the loop itself outlives it. */
	if (vl->dev->loop_idle)
		loop_stop(vl->loop);
	pthread_mutex_lock(&vl->lock);
	vl->stopped = true;
	pthread_cond_signal(&vl->cond);
	pthread_mutex_unlock(&vl->lock);
}

void virtio_loop_hold(struct virtio_loop *vl)
{
	vl->kept++;
	hold(vl);
}

void virtio_loop_unhold(struct virtio_loop *vl)
{
	vl->kept--;
	unhold(vl);
}

static void notify_fn(struct loop_msg *m)
{
	struct virtio_loop_queue *q = container_of(m, struct virtio_loop_queue, notify);

	q->notify_pending = false;
	if (virtq_should_notify(q->vq))
		virtio_raise_queue(q->vl->dev, q->index);
	unhold(q->vl);
}

void virtio_loop_push(struct virtio_loop_queue *q, uint16_t head, uint32_t written_bytes)
{
	struct virtio_loop *vl = q->vl;

	virtq_push(q->vq, head, written_bytes);
	if (!q->notify_pending) {
		q->notify_pending = true;
		hold(vl);
		loop_defer(vl->loop, &q->notify);
	}
	if (q->pulled)
		vl->kept--;
	unhold(vl);
}

void virtio_loop_break(struct virtio_loop *vl)
{
	vl->broken = true;
	virtio_raise_needs_reset(vl->dev);
}

static bool takes(const struct virtio_loop *vl)
{
	return !vl->broken && !virtio_loop_paused(vl) && !vl->held_back;
}

int virtio_loop_pull(struct virtio_loop_queue *q, struct virtq_chain *chain)
{
	struct virtio_loop *vl = q->vl;
	int r;

	if (!q->vq || !takes(vl) || vl->stopping)
		return 0;
	r = virtq_pop(q->vq, chain);
	if (r == 1)
		virtio_loop_hold(vl);
	else if (r == 0)
		q->hungry = true;
	else
		virtio_loop_break(vl);
	return r;
}

void virtio_loop_forget(struct virtio_loop_queue *q)
{
	virtio_loop_unhold(q->vl);
}

void virtio_loop_again(struct virtio_loop_queue *q)
{
	q->hungry = true;
	eventfd_write(q->vl->dev->kick_fd[q->index], 1);
}

/* Does the device want chains of this queue? */
static bool wanted(const struct virtio_loop_queue *q)
{
	return q->vq && (!q->pulled || q->hungry);
}

/*
 * Takes what waits, at most one ring full: chains that are answered at once could otherwise come in
 * as fast as they are answered, and a guest could keep the loop's thread, and a reset, for itself.
 * What is left over rings the doorbell again.
 */
static void serve(struct virtio_loop_queue *q)
{
	struct virtio_loop *vl = q->vl;
	struct virtq_chain chain = {.iov = vl->iov, .max_iov = VIRTQ_SEGS_MAX};
	unsigned budget = virtq_size(q->vq);
	int r = 0;

	if (!takes(vl))
		return;
	virtq_kick_disable(q->vq);
	q->kicks_off = true;
	if (q->pulled) {
		if (q->hungry) {
			q->hungry = false;
			vl->ops->ready(q);
		}
		return;
	}
	while (budget && !vl->broken && !vl->held_back && (r = virtq_pop(q->vq, &chain)) == 1) {
		budget--;
		hold(vl);
		r = vl->ops->take(q, &chain);
		if (r < 0) {
			unhold(vl);
			break;
		}
	}
	if (vl->broken)
		return;
	if (r < 0)
		virtio_loop_break(vl);
	else if (!budget)
		eventfd_write(vl->dev->kick_fd[q->index], 1);
}

static bool look(struct loop_spinner *s)
{
	struct virtio_loop *vl = container_of(s, struct virtio_loop, spinner);
	bool found = false;

	for (unsigned i = 0; i < vl->dev->nqueues && takes(vl); i++) {
		struct virtio_loop_queue *q = &vl->queues[i];

		if (wanted(q) && virtq_has_chains(q->vq)) {
			serve(q);
			found = true;
		}
	}
	return found;
}

static bool settle(struct loop_spinner *s)
{
	struct virtio_loop *vl = container_of(s, struct virtio_loop, spinner);
	bool found = false;

	for (unsigned i = 0; i < vl->dev->nqueues && takes(vl); i++) {
		struct virtio_loop_queue *q = &vl->queues[i];

		if (!wanted(q) || !q->kicks_off)
			continue;
		q->kicks_off = false;
		if (virtq_kick_enable(q->vq)) {
			serve(q);
			found = true;
		}
	}
	return found;
}

static void watch_fn(struct loop_watch *w)
{
	struct virtio_loop_queue *q = container_of(w, struct virtio_loop_queue, watch);

	if (!q->vl->broken && !q->vl->stopping)
		serve(q);
}

static void watch_stopped(struct loop_watch *w)
{
	struct virtio_loop *vl = container_of(w, struct virtio_loop_queue, watch)->vl;

	vl->watched--;
	unhold(vl);
}

static void start_fn(struct loop_msg *m)
{
	struct virtio_loop *vl = container_of(m, struct virtio_loop, start);

	vl->running = true;
	if (vl->ops->starting)
		vl->ops->starting(vl);
	loop_spin(vl->loop, &vl->spinner);
	for (unsigned i = 0; i < vl->dev->nqueues; i++) {
		struct virtio_loop_queue *q = &vl->queues[i];

		if (!q->vq)
			continue;
		hold(vl);
		vl->watched++;
		loop_watch(vl->loop, &q->watch, vl->dev->kick_fd[i]);
		if (!vl->broken)
			serve(q);
	}
}

static void pause_fn(struct loop_msg *m)
{
	struct virtio_loop *vl = container_of(m, struct virtio_loop, pause);

	vl->paused = true;
	vl->quiet = vl->pause_quiet;
	tell_quiet(vl);
}

/* Takes what has come meanwhile. */
static void go_on(struct virtio_loop *vl)
{
	const unsigned first = vl->first;

	for (unsigned i = 0; vl->running && !vl->stopping && i < vl->dev->nqueues; i++) {
		struct virtio_loop_queue *q = &vl->queues[(first + i) % vl->dev->nqueues];

		q->hungry = true; /* it may have asked in vain meanwhile */
		if (q->vq)
			serve(q);
	}
}

static void hold_back_over(struct loop_timer *t)
{
	struct virtio_loop *vl = container_of(t, struct virtio_loop, hold_back);

	vl->held_back = false;
	go_on(vl);
}

void virtio_loop_hold_back(struct virtio_loop *vl, const struct virtio_loop_queue *q,
			   uint64_t until_ns)
{
	if (vl->stopping)
		return;
	vl->held_back = true;
	if (q)
		vl->first = (q->index + 1) % vl->dev->nqueues;
	loop_timer_arm(vl->loop, &vl->hold_back, until_ns);
}

static void resume_fn(struct loop_msg *m)
{
	struct virtio_loop *vl = container_of(m, struct virtio_loop, resume);

	vl->paused = false;
	go_on(vl);
}

static void alone_fn(struct loop_msg *m)
{
	struct virtio_loop_job *job = container_of(m, struct virtio_loop_job, msg);

	job->vl->job = job;
	job->vl->job_runs = false;
	run_job(job->vl);
}

void virtio_loop_job_end(struct virtio_loop_job *job)
{
	struct virtio_loop *vl = job->vl;

	vl->job = NULL;
	go_on(vl);
	unhold(vl);
}

void virtio_loop_alone(struct virtio_loop *vl, struct virtio_loop_job *job)
{
	job->vl = vl;
	job->msg.fn = alone_fn;
	loop_post(vl->loop, &job->msg);
}

static void stop_fn(struct loop_msg *m)
{
	struct virtio_loop *vl = container_of(m, struct virtio_loop, stop);

	hold(vl); /* so that the last unhold() is the one below, not one in the middle */
	vl->stopping = true;
	loop_unspin(vl->loop, &vl->spinner);
	loop_timer_disarm(vl->loop, &vl->hold_back);
	vl->held_back = false;
	for (unsigned i = 0; i < vl->dev->nqueues; i++) {
		if (vl->queues[i].vq)
			loop_unwatch(&vl->queues[i].watch);
	}
	if (vl->ops->stopping)
		vl->ops->stopping(vl);
	unhold(vl);
}

void virtio_loop_init(struct virtio_loop *vl, const struct virtio_loop_ops *ops,
		      struct virtio_dev *dev, struct loop *loop)
{
	*vl = (struct virtio_loop){
	    .ops = ops,
	    .dev = dev,
	    .loop = loop,
	    .start.fn = start_fn,
	    .stop.fn = stop_fn,
	    .pause.fn = pause_fn,
	    .resume.fn = resume_fn,
	    .hold_back.fn = hold_back_over,
	    .spinner = {.look = look, .settle = settle},
	    .lock = PTHREAD_MUTEX_INITIALIZER,
	    .cond = PTHREAD_COND_INITIALIZER,
	};
	for (unsigned i = 0; i < dev->nqueues; i++) {
		vl->queues[i] = (struct virtio_loop_queue){
		    .vl = vl,
		    .index = i,
		    .watch = {.fn = watch_fn, .stopped = watch_stopped},
		    .notify.fn = notify_fn,
		    .pulled = ops->pulled >> i & 1,
		};
	}
}

void virtio_loop_fini(struct virtio_loop *vl)
{
	pthread_mutex_destroy(&vl->lock);
	pthread_cond_destroy(&vl->cond);
}

void virtio_loop_start(struct virtio_loop *vl, struct virtq *const *queues)
{
	/* Idle: the loop's thread touches none of this until it gets the message. */
	for (unsigned i = 0; i < vl->dev->nqueues; i++) {
		vl->queues[i].vq = queues[i];
		vl->queues[i].hungry = true;
	}
	vl->broken = false;
	vl->paused = false; /* a reset ended the pause */
	vl->stopping = false;
	vl->stopped = false;
	loop_post(vl->loop, &vl->start);
}

void virtio_loop_stop(struct virtio_loop *vl)
{
	loop_post(vl->loop, &vl->stop);
	if (vl->dev->loop_idle) {
		while (!vl->stopped)
			loop_run(vl->loop);
		return;
	}
	pthread_mutex_lock(&vl->lock);
	while (!vl->stopped)
		pthread_cond_wait(&vl->cond, &vl->lock);
	pthread_mutex_unlock(&vl->lock);
}

void virtio_loop_pause(struct virtio_loop *vl, void (*quiet)(void *ctx), void *ctx)
{
	/* the loop's thread looks at both from the message on */
	vl->quiet_ctx = ctx;
	vl->pause_quiet = quiet;
	loop_post(vl->loop, &vl->pause);
}

void virtio_loop_resume(struct virtio_loop *vl)
{
	loop_post(vl->loop, &vl->resume);
}
