/*
 * Flushes of a raw image, made together.
 *
 *   raw_sync() -> sync_waiting --(no fdatasync runs)--> syncing --fdatasync--> completed
 *
 * A request joins a flush only before that begins: what it wants durable was written before it
 * came. After a failure the kernel counts the pages that it could not write as clean, so a later
 * fdatasync that succeeds says nothing about them: the failure stays.
 */
#include "base/log.h"
#include "disk/raw_priv.h"

#include <errno.h>
#include <string.h>

/* A signal cannot go on interrupting one flush; it is a bound, not a tuning. */
#define SYNC_RETRIES_MAX 16

static void sync_submit(struct raw *raw)
{
	int fault = raw_take_fault(raw);

	if (fault > 0) {
		raw->sync_op.p.res = -fault;
		raw->sync_faulted = true;
		loop_defer(raw->img.loop, &raw->fault_msg);
		return;
	}
	loop_fdatasync(raw->img.loop, &raw->sync_op, raw->file.fd);
}

static void sync_begin(struct raw *raw)
{
	raw->syncing = raw->sync_waiting;
	raw->sync_waiting = (struct image_queue){0};
	raw->sync_running = true;
	raw->sync_retries = 0;
	sync_submit(raw);
}

void raw_sync(struct raw *raw, struct image_req *req)
{
	if (raw->sync_error) {
		image_complete_later(req, raw->sync_error);
		return;
	}
	image_queue_push(&raw->sync_waiting, req);
	if (!raw->sync_running)
		sync_begin(raw);
}

static void sync_failed(struct raw *raw, int res)
{
	raw->sync_error = res;
	if (res != -ECANCELED)
		log_error("disk image %s: flush failed: %s; every later flush fails until it is "
			  "opened again",
			  raw->img.path, strerror(-res));
}

void raw_sync_done(struct loop_op *op, int res)
{
	struct raw *raw = container_of(op, struct raw, sync_op);
	struct image_queue done;
	struct image_req *req;

	if ((res == -EINTR || res == -EAGAIN) && raw->sync_retries++ < SYNC_RETRIES_MAX) {
		sync_submit(raw);
		return;
	}
	if (res < 0)
		sync_failed(raw, res);

	/* all state is settled before the callbacks, which may flush again or close the image */
	done = raw->syncing;
	raw->syncing = (struct image_queue){0};
	raw->sync_running = false;
	while (raw->sync_error && (req = image_queue_pop(&raw->sync_waiting)))
		image_queue_push(&done, req);
	if (raw->sync_waiting.head)
		sync_begin(raw);
	while ((req = image_queue_pop(&done)))
		image_complete(req, res < 0 ? res : 0);
}
