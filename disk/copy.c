/* Copying from image to image. See disk/copy.h. */
#include "disk/copy.h"

#include "base/checked.h"
#include "disk/image_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of one request that writes zeroes, which needs no memory. */
#define ZERO_PIECE_BYTES (256 * MIB)

struct range {
	uint64_t offset_bytes, len_bytes;
	enum copy_kind kind;
};

/* What comes next. */
enum slot_step {
	SLOT_TAKE,
	SLOT_COMPARE,
	SLOT_WRITE,
};

/* One piece on its way. */
struct slot {
	struct copy *copy;
	struct image_req req;
	struct iovec iov;
	enum slot_step step;
	enum copy_kind kind;
	bool parked; /* waits until nothing of the target is in flight */
	uint64_t offset_bytes;
	uint64_t len_bytes;
	uint64_t at; /* the next run, from offset_bytes */
	uint8_t *data, *compare;
};

struct copy {
	struct copy_opts o;
	struct err err; /* the first; its code is the result */
	struct copy_stats stats;

	/* the batch */
	struct range ranges[COPY_BATCH_RANGES];
	unsigned nranges;
	unsigned range;	   /* the next to take from */
	uint64_t taken_to; /* within it */
	uint64_t planned_to;

	unsigned active; /* slots at work */
	uint8_t *memory;
	size_t memory_bytes, piece_bytes;
	struct slot slots[COPY_SLOTS];
};

static void fail(struct copy *c, int res, const char *what, const struct image *img,
		 uint64_t offset_bytes)
{
	err_sys(&c->err, -res, "%s %s at byte %llu", what, image_path(img),
		(unsigned long long)offset_bytes);
}

/* ---- plan -------------------------------------------------------------------------------------
 */

/* A unit of which the plan says several things is data: what it reads as is right for all. */
static int plan_unit(struct copy *c, uint64_t offset, uint64_t end, enum copy_kind *ret_kind)
{
	enum copy_kind kind, first = COPY_DATA;
	uint64_t len;

	for (uint64_t at = offset; at < end; at += len) {
		int r = c->o.plan(c->o.ctx, at, end - at, &kind, &len, &c->err);

		if (r)
			return r;
		assert(len && len <= end - at);
		if (at == offset)
			first = kind;
		else if (kind != first)
			first = COPY_DATA;
		if (first == COPY_DATA)
			break;
	}
	*ret_kind = first;
	return 0;
}

static void add_range(struct copy *c, uint64_t offset, uint64_t end, enum copy_kind kind)
{
	struct range *last = c->nranges ? &c->ranges[c->nranges - 1] : NULL;

	if (kind == COPY_SKIP || (kind == COPY_ZERO && c->o.skip_zeroes))
		return;
	if (last && last->kind == kind && last->offset_bytes + last->len_bytes == offset)
		last->len_bytes = end - last->offset_bytes;
	else
		c->ranges[c->nranges++] = (struct range){offset, end - offset, kind};
}

/* The next batch: ranges of whole units, but for the end of the last. */
static int plan_batch(struct copy *c)
{
	const uint64_t unit = c->o.unit_bytes, size = c->o.len_bytes;

	c->nranges = c->range = 0;
	while (c->planned_to < size && c->nranges < COPY_BATCH_RANGES) {
		uint64_t at = c->planned_to, len, end;
		enum copy_kind kind;
		int r = c->o.plan(c->o.ctx, at, size - at, &kind, &len, &c->err);

		if (r)
			return r;
		assert(len && len <= size - at);
		end = at + len == size ? size : align_down(at + len, unit);
		if (end <= at) {
			end = MIN(at + unit, size);
			r = plan_unit(c, at, end, &kind);
			if (r)
				return r;
		}
		add_range(c, at, end, kind);
		c->planned_to = end;
	}
	if (c->nranges)
		c->taken_to = c->ranges[0].offset_bytes;
	return 0;
}

/* ---- slots ------------------------------------------------------------------------------------
 */

static bool needs_memory(const struct copy *c, enum copy_kind kind)
{
	return kind == COPY_DATA || c->o.compare;
}

/* The next piece of the batch; false: there is none. */
static bool take_piece(struct slot *s)
{
	struct copy *c = s->copy;
	const struct range *r;
	uint64_t piece, end;

	if (c->err.code || c->range == c->nranges)
		return false;
	r = &c->ranges[c->range];
	end = r->offset_bytes + r->len_bytes;
	piece = needs_memory(c, r->kind) ? c->piece_bytes : ZERO_PIECE_BYTES;
	s->kind = r->kind;
	s->offset_bytes = c->taken_to;
	s->len_bytes = MIN(align_down(c->taken_to, piece) + piece, end) - c->taken_to;
	s->at = 0;
	c->taken_to += s->len_bytes;
	if (c->taken_to == end && ++c->range < c->nranges)
		c->taken_to = c->ranges[c->range].offset_bytes;
	return true;
}

static void slot_idle(struct slot *s)
{
	struct copy *c = s->copy;

	if (--c->active == 0)
		loop_stop(c->o.loop);
}

static void submit(struct slot *s, struct image *img, enum image_op op, uint64_t offset,
		   uint64_t len, void *data)
{
	s->iov = (struct iovec){data, data ? len : 0};
	s->req.op = op;
	s->req.flags = op != IMAGE_WRITE_ZEROES	    ? 0
		       : s->copy->o.explicit_zeroes ? IMAGE_MAY_UNMAP | IMAGE_EXPLICIT
						    : IMAGE_MAY_UNMAP;
	s->req.offset_bytes = offset;
	s->req.len_bytes = len;
	s->req.iov = data ? &s->iov : NULL;
	s->req.niov = data ? 1 : 0;
	image_submit(img, &s->req);
}

/* Data in place of a write request. */
static int store(struct slot *s, uint64_t at, uint64_t len)
{
	struct copy *c = s->copy;
	uint64_t whole = align_up(len, c->o.unit_bytes);

	/* only the disk's last unit is not whole */
	memset(s->data + at + len, 0, whole - len);
	return c->o.store(c->o.ctx, s->offset_bytes + at, s->data + at, whole, &c->err);
}

/* Submits what is to be written of the run that begins at s->at; false: nothing is. A run that has
 * to wait has the length 0. */
static bool write_run(struct slot *s, uint64_t *ret_len)
{
	struct copy *c = s->copy;
	enum copy_run_kind kind = COPY_RUN_ZERO;
	uint64_t at = s->at, offset = s->offset_bytes + at;
	size_t len = 0;

	if (needs_memory(c, s->kind))
		kind = copy_next_run(s->data, c->o.compare ? s->compare : NULL, at, s->len_bytes,
				     c->o.unit_bytes, &len);
	else
		len = s->len_bytes;
	*ret_len = len;
	if (kind == COPY_RUN_EQUAL || (kind == COPY_RUN_ZERO && c->o.skip_zeroes) ||
	    (kind == COPY_RUN_DATA && c->o.skip_data))
		return false;
	if (kind == COPY_RUN_ZERO) {
		c->stats.zeroed_bytes += len;
		submit(s, c->o.dst, IMAGE_WRITE_ZEROES, offset, len, NULL);
		return true;
	}
	if (c->o.store && image_inflight(c->o.dst)) {
		s->parked = true;
		*ret_len = 0;
		return true;
	}
	c->stats.written_bytes += len;
	if (!c->o.store) {
		submit(s, c->o.dst, IMAGE_WRITE, offset, len, s->data + at);
		return true;
	}
	(void)store(s, at, len); /* a failure is in c->err */
	return false;
}

/* Each step submits a request and is true, or has nothing to ask for. */

static bool take_step(struct slot *s)
{
	struct copy *c = s->copy;

	if (c->o.progress)
		c->o.progress(c->o.progress_ctx, s->offset_bytes);
	s->step = SLOT_COMPARE;
	if (s->kind == COPY_DATA) {
		submit(s, c->o.src, IMAGE_READ, s->offset_bytes, s->len_bytes, s->data);
		return true;
	}
	if (needs_memory(c, s->kind))
		memset(s->data, 0, s->len_bytes);
	return false;
}

static bool compare_step(struct slot *s)
{
	const struct copy *c = s->copy;
	uint64_t size, len;

	s->step = SLOT_WRITE;
	if (!c->o.compare)
		return false;
	size = image_info(c->o.compare)->size_bytes;
	len = size > s->offset_bytes ? MIN(s->len_bytes, size - s->offset_bytes) : 0;
	memset(s->compare + len, 0, s->len_bytes - len);
	if (!len)
		return false;
	submit(s, c->o.compare, IMAGE_READ, s->offset_bytes, len, s->compare);
	return true;
}

/* One run after the other. */
static bool write_step(struct slot *s)
{
	uint64_t len;
	bool submitted;

	if (s->at == s->len_bytes) {
		s->step = SLOT_TAKE;
		return false;
	}
	submitted = write_run(s, &len);
	s->at += len;
	return submitted;
}

/* Goes on until a request is in flight or there is nothing left to do. */
static void slot_run(struct slot *s)
{
	bool submitted = false;

	while (!submitted) {
		if (s->copy->err.code || (s->step == SLOT_TAKE && !take_piece(s))) {
			slot_idle(s);
			return;
		}
		if (s->step == SLOT_TAKE)
			submitted = take_step(s);
		else if (s->step == SLOT_COMPARE)
			submitted = compare_step(s);
		else
			submitted = write_step(s);
	}
}

/* Goes on with those that waited for the target. */
static void unpark(struct copy *c)
{
	for (unsigned i = 0; i < COPY_SLOTS; i++) {
		struct slot *s = &c->slots[i];

		/* one of them may begin to write zeroes again */
		if (!s->parked || (image_inflight(c->o.dst) && !c->err.code))
			continue;
		s->parked = false;
		slot_run(s);
	}
}

static void slot_done(struct image_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);
	struct copy *c = s->copy;

	if (res) /* the step that comes next tells which it was */
		fail(c, res, req->op == IMAGE_READ ? "reading" : "writing",
		     req->op != IMAGE_READ     ? c->o.dst
		     : s->step == SLOT_COMPARE ? c->o.src
					       : c->o.compare,
		     req->offset_bytes);
	if (c->o.store)
		unpark(c);
	slot_run(s);
}

/* ---- the whole --------------------------------------------------------------------------------
 */

static int run_loop(struct copy *c)
{
	int r = 0;

	/* someone else's stop may come before all is done */
	while (c->active && !r)
		r = loop_run(c->o.loop);
	if (r)
		err_sys(&c->err, -r, "the event loop failed");
	return r;
}

static int run_batch(struct copy *c)
{
	int r;

	/* `active` counts this loop, too: a slot that ends within it does not end the batch */
	c->active = 1;
	for (unsigned i = 0; i < COPY_SLOTS; i++) {
		c->active++;
		c->slots[i].step = SLOT_TAKE;
		slot_run(&c->slots[i]);
	}
	if (--c->active == 0)
		return -c->err.code;
	r = run_loop(c);
	return r ? r : -c->err.code;
}

static void flush_done(struct image_req *req, int res)
{
	struct copy *c = container_of(req, struct slot, req)->copy;

	if (res)
		err_sys(&c->err, -res, "writing %s", image_path(c->o.dst));
	slot_idle(&c->slots[0]);
}

static int flush(struct copy *c)
{
	struct slot *s = &c->slots[0];

	c->active = 1;
	s->req.done = flush_done;
	submit(s, c->o.dst, IMAGE_FLUSH, 0, 0, NULL);
	(void)run_loop(c); /* a failure is in c->err */
	return -c->err.code;
}

int copy_run(struct copy *c, struct copy_stats *ret_stats, struct err *err)
{
	int r = -c->err.code;

	while (!r && c->planned_to < c->o.len_bytes) {
		r = plan_batch(c);
		if (!r)
			r = run_batch(c);
		if (c->o.progress && !r)
			c->o.progress(c->o.progress_ctx, c->planned_to);
	}
	if (!r)
		r = flush(c);
	if (r)
		return err_set(err, c->err.code, "%s", c->err.msg);
	*ret_stats = c->stats;
	return 0;
}

void copy_cancel(struct copy *c)
{
	err_set(&c->err, ECANCELED, "interrupted");
}

int copy_new(const struct copy_opts *opts, struct copy **ret_copy, struct err *err)
{
	size_t piece = MAX((size_t)COPY_PIECE_BYTES, (size_t)opts->unit_bytes);
	struct copy *c;

	assert(is_pow2(opts->unit_bytes) && opts->unit_bytes <= COPY_UNIT_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, ENOMEM, "no memory to copy with");
	c->o = *opts;
	c->piece_bytes = piece;
	c->memory_bytes = COPY_SLOTS * piece * (opts->compare ? 2 : 1);
	/* pages: aligned for O_DIRECT, and taken from the host as they are used */
	c->memory =
	    mmap(NULL, c->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->memory == MAP_FAILED)
		c->memory = NULL;
	if (!c->memory) {
		copy_free(c);
		return err_set(err, ENOMEM, "no memory to copy with");
	}
	for (unsigned i = 0; i < COPY_SLOTS; i++) {
		struct slot *s = &c->slots[i];

		s->copy = c;
		s->data = c->memory + i * piece;
		s->compare = opts->compare ? c->memory + (COPY_SLOTS + i) * piece : NULL;
		s->req.done = slot_done;
	}
	*ret_copy = c;
	return 0;
}

void copy_free(struct copy *c)
{
	if (!c)
		return;
	assert(!c->active);
	if (c->memory)
		munmap(c->memory, c->memory_bytes);
	free(c);
}
