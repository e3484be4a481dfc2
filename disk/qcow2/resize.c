/* Growing and shrinking the disk of an image that nobody uses, and growing one that is in use. */
#include "disk/qcow2/tools.h"

#include <errno.h>

typedef unsigned long long ull;

#define BACKING_SHOWS                                                               \
	"has a backing file of %llu bytes that would show behind the old end, and " \
	"version 2 cannot hide it; convert it to version 3"

/* A request that is waited for, on a loop of its own. */
struct waited {
	struct image_req req;
	struct loop *loop;
	int res;
};

static void waited_done(struct image_req *req, int res)
{
	struct waited *w = container_of(req, struct waited, req);

	w->res = res;
	loop_stop(w->loop);
}

static int write_zeroes(struct qcow2 *q, uint64_t from, uint64_t to, struct err *err)
{
	struct waited w = {.req = {.op = IMAGE_WRITE_ZEROES,
				   .flags = IMAGE_MAY_UNMAP,
				   .offset_bytes = from,
				   .len_bytes = to - from,
				   .done = waited_done}};
	int r = loop_new(&(struct loop_opts){.entries = 8}, &w.loop, err);

	if (r)
		return r;
	r = image_attach(&q->img, w.loop, err);
	if (r) {
		loop_free(w.loop);
		return r;
	}
	image_submit(&q->img, &w.req);
	r = loop_run(w.loop);
	loop_free(w.loop); /* ends the request if the loop could not */
	image_detach(&q->img);
	r = r ? r : w.res;
	return r ? err_sys(err, -r, "its new part cannot be cleared") : 0;
}

/*
 * The new part reads as zeroes: neither what the backing file has there shows, nor what lies behind
 * the old end in its cluster (left by a disk that was made smaller). The backing files are opened
 * when they reach that far: the rest of a cluster may have to be copied.
 */
static int clear_new(struct qcow2 *q, uint64_t old, uint64_t size, struct err *err)
{
	static const struct image_opts allow = {.backing = true};
	uint64_t from = align_up(old, IMAGE_SECTOR_BYTES), backing = 0;
	uint64_t to = MIN(size, align_up(old, q->cluster_bytes));
	int r = 0;

	if (q->h.backing[0])
		r = q2_backing_size(q, &backing, err);
	if (!r && backing > old) {
		if (q->h.version < 3)
			return err_set(err, ENOTSUP, BACKING_SHOWS, (ull)backing);
		to = MIN(size, align_up(backing, q->cluster_bytes));
		r = q2_backing_open(q, &allow, err);
	} else if (!r && q->h.backing[0] && to > from) {
		r = q2_backing_open(q, &allow, err);
	}
	return r || to <= from ? r : write_zeroes(q, from, to, err);
}

/* Gives up the tables that map nothing any more. */
static void drop_tables(struct qcow2 *q, uint64_t size)
{
	uint64_t first = (size + q2_l2_span(q) - 1) / q2_l2_span(q);

	for (uint64_t i = first; i < q->h.l1_entries; i++) {
		uint64_t table = q->l1[i] & Q2_OFFSET_MASK;

		if (!table)
			continue;
		q->l1[i] = 0;
		q->l1_dirty[i * 8 / q->unit_bytes] = 1;
		q->l1_any_dirty = true;
		q2_release_table(q, table, q->cluster_bytes);
	}
}

/* Nothing is mapped any more from `size` to `end`, which is the end of all. */
static int give_up(struct qcow2 *q, uint64_t size, uint64_t end)
{
	uint64_t len;
	int r = 0;

	for (uint64_t pos = align_up(size, q->cluster_bytes); !r && pos < end; pos += len) {
		struct q2_table *t;

		len = MIN(end - pos, q2_l2_span(q) - (pos & (q2_l2_span(q) - 1)));
		r = Q2_SYNC(q, q2_l2_get(q, pos, &t));
		if (r || !t)
			continue;
		r = q2_tool_table(q, pos);
		if (!r)
			r = Q2_SYNC(q, q2_zero_range(q, pos, end, Q2_ZERO_EMPTY, &len));
	}
	if (!r)
		r = q2_tool_commit(q);
	if (!r) {
		drop_tables(q, size);
		r = q2_tool_commit(q);
	}
	return r;
}

/* All that can be refused, and the L1 table. */
static int grow_begin(struct qcow2 *q, uint64_t size, struct err *err)
{
	uint64_t entries;
	int r;

	if (size > INT64_MAX || !q2_header_l1_needed(q->cluster_bits, q->extl2, size, &entries))
		return err_set(err, EFBIG, "%llu bytes are more than clusters of %u can address",
			       (ull)size, q->cluster_bytes);
	if (q->h.snapshots && q->h.version < 3)
		return err_set(
		    err, ENOTSUP,
		    "has internal snapshots, whose size version 2 does not state; delete them "
		    "first");
	r = q2_grow_l1(q, entries);
	return r ? err_sys(err, -r, "its L1 table cannot be made longer") : 0;
}

/* What is mapped in the new part is written, then the header says how long it is. */
static int grow_end(struct qcow2 *q, uint64_t size, struct err *err)
{
	int r = q2_tool_commit(q);

	q->h.size_bytes = size;
	if (!r)
		r = q2_header_write(q);
	return r ? err_sys(err, -r, "cannot be written") : 0;
}

static int grow(struct qcow2 *q, uint64_t size, enum qcow2_prealloc prealloc,
		const struct tool_progress *progress, struct err *err)
{
	uint64_t old = q->h.size_bytes;
	int r;

	if (prealloc != QCOW2_PREALLOC_OFF && q->h.backing[0])
		return err_set(err, EINVAL,
			       "space cannot be allocated in advance with a backing file, which it "
			       "would hide");
	r = grow_begin(q, size, err);
	if (r)
		return r;
	q->img.info.size_bytes = size;
	/* tables reach further than the disk for a moment, which is harmless */
	r = clear_new(q, old, size, err);
	if (!r)
		r = q2_preallocate(q, old, size, prealloc, progress, err);
	if (r) {
		q->img.info.size_bytes = old;
		(void)give_up(q, old, size); /* or it is lost space, which a check finds */
		return r;
	}
	return grow_end(q, size, err);
}

int q2_image_grow_begin(struct image *img, uint64_t size_bytes, uint64_t *ret_from,
			uint64_t *ret_to, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t old = q->h.size_bytes, hidden = q->backing ? q->backing_bytes : 0;
	int r;

	if (q->broken)
		return err_set(err, EIO, "its metadata contradicts itself; check it");
	if (hidden > old && q->h.version < 3)
		return err_set(err, ENOTSUP, BACKING_SHOWS, (ull)hidden);
	r = grow_begin(q, size_bytes, err);
	if (r)
		return r;
	*ret_from = align_up(old, IMAGE_SECTOR_BYTES);
	*ret_to = MIN(size_bytes, align_up(MAX(old, hidden), q->cluster_bytes));
	return 0;
}

int q2_image_grow_end(struct image *img, uint64_t old_bytes, int failed, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t size = img->info.size_bytes;

	if (!failed)
		return grow_end(q, size, err);
	(void)give_up(q, old_bytes, size);
	return -failed;
}

static int shrink(struct qcow2 *q, uint64_t size, struct err *err)
{
	uint64_t old = q->h.size_bytes;
	int r;

	if (q->h.snapshots)
		return err_set(err, ENOTSUP,
			       "has internal snapshots; delete them before shrinking");
	/* first the disk ends there, then what is behind is given up */
	q->h.size_bytes = size;
	r = q2_header_write(q);
	if (!r)
		r = give_up(q, size, old);
	q->img.info.size_bytes = size;
	return r ? err_sys(err, -r, "cannot be written") : 0;
}

int qcow2_resize(const char *path, uint64_t size_bytes, bool may_shrink,
		 enum qcow2_prealloc prealloc, const struct tool_progress *progress,
		 struct err *err)
{
	struct qcow2 *q;
	uint64_t old;
	int r;

	if (!is_aligned(size_bytes, IMAGE_SECTOR_BYTES))
		return err_set(err, EINVAL, "disk image %s: %llu is not a multiple of %d", path,
			       (ull)size_bytes, IMAGE_SECTOR_BYTES);
	r = q2_tool_open(path, false, false, &q, err);
	if (r)
		return r;
	old = q->h.size_bytes;
	if (size_bytes > old)
		r = grow(q, size_bytes, prealloc, progress, err);
	else if (size_bytes < old && may_shrink)
		r = shrink(q, size_bytes, err);
	else if (size_bytes < old)
		r = err_set(
		    err, EINVAL,
		    "has %llu bytes, and making it smaller destroys what is behind %llu; say "
		    "--shrink to do that",
		    (ull)old, (ull)size_bytes);
	return q2_tool_close(q, r, err);
}
