/*
 * Resizing a disk: the disk's thread makes the image longer, then the control loop shows the size
 * to the guest.
 */
#include "base/checked.h"
#include "vmm/machine_priv.h"

#include <errno.h>
#include <stdlib.h>

struct machine_resize {
	struct virtio_blk_resize blk;
	struct machine *machine;
	unsigned disk;
	struct loop_msg msg;
	machine_resized_fn *done;
	void *ctx;
};

static void resized(struct loop_msg *msg)
{
	struct machine_resize *r = container_of(msg, struct machine_resize, msg);
	struct machine *m = r->machine;

	if (!r->blk.grow.err.code)
		virtio_blk_resized(m->disk_devs[r->disk]);
	m->resizes[r->disk] = NULL;
	m->nresizes--;
	r->done(r->ctx, r->blk.grow.old_bytes, &r->blk.grow.err);
	free(r);
	machine_settled(m);
}

/* The disk's thread. */
static void blk_done(struct virtio_blk_resize *blk)
{
	struct machine_resize *r = container_of(blk, struct machine_resize, blk);

	loop_post(r->machine->control, &r->msg);
}

int machine_resize_disk(struct machine *m, unsigned n, uint64_t size_bytes,
			machine_resized_fn *done, void *ctx)
{
	struct machine_resize *r;

	if (m->resizes[n])
		return -EBUSY;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->machine = m;
	r->disk = n;
	r->msg.fn = resized;
	r->done = done;
	r->ctx = ctx;
	r->blk.done = blk_done;
	r->blk.grow.size_bytes = size_bytes;
	m->resizes[n] = r;
	m->nresizes++;
	virtio_blk_resize(m->disk_devs[n], &r->blk);
	return 0;
}
