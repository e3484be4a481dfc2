/*
 * Reading compressed clusters: slots for what was unpacked last, and threads that unpack.
 *
 *   empty --take--> busy (packed data is read, then unpacked) --end--> valid, or empty after an
 * error
 *
 * One operation reads a cluster; others that want it meanwhile wait at its slot, so that small
 * pieces of one cluster unpack it once. A cluster that is alone is unpacked by the loop's thread;
 * where several are busy, threads do it, which are started when that first happens: most images
 * have no compressed cluster. The images of a chain share the threads of the topmost.
 */
#include "disk/qcow2/engine.h"

#include "base/log.h"
#include "base/loop_pool.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

/* Unpacked clusters of one image in memory: by number, and by size beyond a least number. */
#define SLOTS_MAX   16
#define SLOTS_MIN   4
#define SLOTS_BYTES (4u << 20)
#define THREADS_MAX 4 /* as QEMU has it */

enum slot_state {
	SLOT_EMPTY,
	SLOT_BUSY,
	SLOT_VALID,
};

struct q2_slot {
	struct loop_job job;
	struct q2_op *op; /* that fills it */
	enum slot_state state;
	uint64_t host; /* with len: the packed data, as the L2 entry says */
	uint32_t len;
	uint32_t skip; /* of what is read, before the packed data begins */
	int res;
	uint8_t *cluster, *packed;
	struct q2_ops waiting;
};

struct q2_inflate {
	struct q2_slot slots[SLOTS_MAX];
	unsigned nslots, hand, busy;
	struct q2_ops waiting;			 /* for a slot */
	struct q2_inflate *owner;		 /* of threads and codecs: the topmost image's */
	struct q2_codec codecs[THREADS_MAX + 1]; /* one for each thread, the last the loop's */
	struct loop_pool *pool;
	bool no_pool;
};

int q2_inflate_init(struct qcow2 *q)
{
	struct q2_inflate *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->nslots =
	    MAX(MIN(SLOTS_BYTES / q->cluster_bytes, (uint32_t)SLOTS_MAX), (uint32_t)SLOTS_MIN);
	c->owner = c;
	q->inflate = c;
	return 0;
}

void q2_inflate_free(struct qcow2 *q)
{
	struct q2_inflate *c = q->inflate;

	if (!c)
		return;
	for (unsigned i = 0; i < c->nslots; i++) {
		free(c->slots[i].cluster);
		free(c->slots[i].packed);
	}
	for (unsigned i = 0; i <= THREADS_MAX; i++)
		q2_codec_free(&c->codecs[i]);
	free(c);
	q->inflate = NULL;
}

void q2_inflate_attach(struct qcow2 *top)
{
	struct q2_inflate *owner = top->inflate;

	for (struct image *b = top->backing; b && b->driver == top->img.driver;
	     b = image_backing(b))
		qcow2_of(b)->inflate->owner = owner;
}

void q2_inflate_detach(struct qcow2 *q)
{
	loop_pool_free(q->inflate->pool);
	q->inflate->pool = NULL;
	q->inflate->owner = q->inflate;
}

void q2_inflate_forget(struct qcow2 *q)
{
	for (unsigned i = 0; i < q->inflate->nslots; i++)
		q->inflate->slots[i].state = SLOT_EMPTY;
}

static struct q2_slot *find(struct q2_inflate *c, uint64_t host, uint32_t len)
{
	for (unsigned i = 0; i < c->nslots; i++) {
		struct q2_slot *s = &c->slots[i];

		if (s->state != SLOT_EMPTY && s->host == host && s->len == len)
			return s;
	}
	return NULL;
}

/* The slot that was filled longest ago. */
static struct q2_slot *take(struct q2_inflate *c)
{
	for (unsigned i = 0; i < c->nslots; i++) {
		struct q2_slot *s = &c->slots[c->hand];

		c->hand = (c->hand + 1) % c->nslots;
		if (s->state != SLOT_BUSY)
			return s;
	}
	return NULL;
}

static void end(struct qcow2 *q, struct q2_slot *s, int res)
{
	s->state = res ? SLOT_EMPTY : SLOT_VALID;
	q->inflate->busy--;
	q2_wake(q, &s->waiting, 0); /* after a failure they try for themselves */
	q2_wake(q, &q->inflate->waiting, 0);
}

static void unpack(struct loop_job *job, unsigned thread)
{
	struct q2_slot *s = container_of(job, struct q2_slot, job);
	struct qcow2 *q = s->op->q;

	s->res = q2_unpack(&q->inflate->owner->codecs[thread], q->h.compression,
			   s->packed + s->skip, s->len, s->cluster, q->cluster_bytes);
}

static void unpacked(struct loop_job *job)
{
	struct q2_slot *s = container_of(job, struct q2_slot, job);
	struct q2_op *op = s->op;
	struct qcow2 *q = op->q;

	op->res = s->res;
	q2_ops_push(&q->engine->ready, op);
	q2_run(q, false);
}

static struct loop_pool *pool_of(struct qcow2 *q)
{
	struct q2_inflate *c = q->inflate->owner;
	int cpus;
	cpu_set_t set;
	struct err err = ERR_INIT;

	if (c->pool || c->no_pool)
		return c->pool;
	/* not sysconf(), which reads files */
	cpus = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
	c->no_pool = cpus < 2 ||
		     loop_pool_new(q->img.loop, (unsigned)MIN(cpus, THREADS_MAX), &c->pool, &err);
	if (err.code)
		log_info("disk image %s: unpacks compressed clusters without threads: %s",
			 q->img.path, err.msg);
	return c->pool;
}

/* What the operation's step finds in its slot: the cluster, or op->res. */
static void filled(struct q2_op *op)
{
	struct q2_slot *s = op->slot;
	int res = op->res;

	op->slot = NULL;
	if (!res)
		op->inflated(op, s->cluster);
	end(op->q, s, res);
	op->res = res;
	op->resume(op);
}

static void packed_read(struct q2_op *op)
{
	struct q2_slot *s = op->slot;
	struct q2_inflate *c = op->q->inflate;
	struct loop_pool *pool = op->res || c->busy == 1 ? NULL : pool_of(op->q);

	op->step = filled;
	if (pool) {
		s->job.run = unpack;
		s->job.done = unpacked;
		loop_pool_submit(pool, &s->job);
		return;
	}
	if (!op->res) {
		unpack(&s->job, THREADS_MAX);
		op->res = s->res;
	}
	filled(op);
}

/* Packed data has at most twice a cluster: what an L2 entry can say. */
static int make_room(struct qcow2 *q, struct q2_slot *s)
{
	size_t align = MAX(q->file.align_bytes, (uint32_t)IMAGE_SECTOR_BYTES);

	if (!s->packed)
		s->packed = q2_buffer(&q->file, 2 * (size_t)q->cluster_bytes + 2 * align);
	if (!s->cluster)
		s->cluster = malloc(q->cluster_bytes);
	return s->packed && s->cluster ? 0 : -ENOMEM;
}

int q2_inflate(struct q2_op *op, const struct q2_extent *ext,
	       void (*use)(struct q2_op *op, const uint8_t *cluster),
	       void (*step)(struct q2_op *op))
{
	struct qcow2 *q = op->q;
	struct q2_inflate *c = q->inflate;
	uint64_t align = MAX(q->file.align_bytes, (uint32_t)IMAGE_SECTOR_BYTES), from, to;
	struct q2_slot *s = find(c, ext->host, ext->host_len);

	if (s && s->state == SLOT_VALID) {
		use(op, s->cluster);
		return 0;
	}
	if (s) {
		q2_wait(op, &s->waiting, step);
		return 1;
	}
	s = take(c);
	if (!s) {
		q2_wait(op, &c->waiting, step);
		return 1;
	}
	s->state = SLOT_EMPTY;
	if (make_room(q, s))
		return -ENOMEM;
	from = align_down(ext->host, align);
	to = align_up(ext->host + ext->host_len, align);
	s->op = op;
	s->state = SLOT_BUSY;
	s->host = ext->host;
	s->len = ext->host_len;
	s->skip = (uint32_t)(ext->host - from);
	c->busy++;
	op->slot = s;
	op->inflated = use;
	op->resume = step;
	q2_iov_one(op, s->packed, (size_t)(to - from));
	q2_io_file(op, IMAGE_READ, from, to - from, packed_read);
	return 1;
}
