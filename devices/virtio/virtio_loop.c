/* See virtio_loop.h. */
#include "devices/virtio/virtio_loop.h"

#include "base/checked.h"

#include <sys/eventfd.h>

static void hold(struct virtio_loop *vl)
{
	vl->held++;
}

static void tell_quiet(struct virtio_loop *vl)
{
	void (*quiet)(void *ctx) = vl->quiet;

	if (!quiet || vl->held != vl->watched)
		return;
	vl->quiet = NULL;
	quiet(vl->quiet_ctx);
}

static void unhold(struct virtio_loop *vl)
{
	vl->held--;
	tell_quiet(vl);
	if (!vl->stopping || vl->held)
		return;
	/* The caller of stop may free `vl` as soon as it sees `stopped`: nothing of it is touched
	 * after the unlock, and the loop itself outlives it. */
	if (vl->dev->loop_idle)
		loop_stop(vl->loop);
	pthread_mutex_lock(&vl->lock);
	vl->stopped = true;
	pthread_cond_signal(&vl->cond);
	pthread_mutex_unlock(&vl->lock);
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
	unhold(vl);
}

static void protocol_broken(struct virtio_loop *vl)
{
	vl->broken = true;
	virtio_raise_needs_reset(vl->dev);
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

	if (vl->paused)
		return;
	virtq_kick_disable(q->vq);
	q->kicks_off = true;
	while (budget && !vl->broken && (r = virtq_pop(q->vq, &chain)) == 1) {
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
		protocol_broken(vl);
	else if (!budget)
		eventfd_write(vl->dev->kick_fd[q->index], 1);
}

static bool look(struct loop_spinner *s)
{
	struct virtio_loop *vl = container_of(s, struct virtio_loop, spinner);
	bool found = false;

	for (unsigned i = 0; i < vl->dev->nqueues && !vl->broken && !vl->paused; i++) {
		struct virtio_loop_queue *q = &vl->queues[i];

		if (q->vq && virtq_has_chains(q->vq)) {
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

	for (unsigned i = 0; i < vl->dev->nqueues && !vl->broken && !vl->paused; i++) {
		struct virtio_loop_queue *q = &vl->queues[i];

		if (!q->vq || !q->kicks_off)
			continue;
		q->kicks_off = false;
		if (virtq_kick_enable(q->vq)) {
			serve(q);
			found = true;
		}
	}
	return found;
}

static void watch_fn(struct loop_watch *w, uint64_t count)
{
	struct virtio_loop_queue *q = container_of(w, struct virtio_loop_queue, watch);

	(void)count;
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

static void resume_fn(struct loop_msg *m)
{
	struct virtio_loop *vl = container_of(m, struct virtio_loop, resume);

	vl->paused = false;
	for (unsigned i = 0; i < vl->dev->nqueues && !vl->broken; i++) {
		if (vl->queues[i].vq)
			serve(&vl->queues[i]);
	}
}

static void stop_fn(struct loop_msg *m)
{
	struct virtio_loop *vl = container_of(m, struct virtio_loop, stop);

	hold(vl); /* so that the last unhold() is the one below, not one in the middle */
	vl->stopping = true;
	loop_unspin(vl->loop, &vl->spinner);
	for (unsigned i = 0; i < vl->dev->nqueues; i++) {
		if (vl->queues[i].vq)
			loop_unwatch(&vl->queues[i].watch);
	}
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
	for (unsigned i = 0; i < vl->dev->nqueues; i++)
		vl->queues[i].vq = queues[i];
	vl->broken = false;
	vl->stopping = false;
	vl->stopped = false;
	vl->paused = false;
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
