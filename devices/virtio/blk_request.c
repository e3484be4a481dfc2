/*
 * One virtio-blk request, from the chain to the status byte. virtio 1.2 §5.2.6.
 *
 *   readable: header (16 bytes), then data to write or ranges
 *   writable: data to read or the serial number, then the status (the last byte)
 *
 * How the driver cuts this into descriptors is its own affair (§2.7.4): the header may lie in
 * several, the status share one with data. Only the boundary of readable and writable counts.
 *
 * No header or no status byte: the driver broke the protocol. Anything else that is wrong is told
 * in the status, and the device goes on.
 *
 * Threads: the loop's thread.
 */
#include "base/checked.h"
#include "devices/virtio/blk_priv.h"

#include <errno.h>
#include <string.h>

enum blk_status {
	BLK_S_OK = 0,
	BLK_S_IOERR = 1,
	BLK_S_UNSUPP = 2,
};

/* Request header (§5.2.6): type, reserved, first sector. */
struct blk_header {
	struct le32 type;
	struct le32 reserved;
	struct le64 sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "request header");
_Static_assert(offsetof(struct blk_header, sector) == 8, "request header");

/* A range to discard or to zero (§5.2.6). */
struct blk_range_wire {
	struct le64 sector;
	struct le32 sectors;
	struct le32 flags;
};
_Static_assert(sizeof(struct blk_range_wire) == 16, "range");
_Static_assert(offsetof(struct blk_range_wire, flags) == 12, "range");

#define RANGE_F_UNMAP 1u

static void request_next(struct blk_request *r);

/* ---- pool ---- */

static struct blk_request *request_get(struct blk_pool *pool)
{
	struct blk_request *r = pool->free;

	if (r)
		pool->free = r->next_free;
	else
		r = &pool->requests[pool->fresh++];
	return r;
}

static void request_put(struct blk_pool *pool, struct blk_request *r)
{
	r->next_free = pool->free;
	pool->free = r;
}

/* ---- end of a request ---- */

static void request_end(struct blk_request *r, enum blk_status status)
{
	struct virtio_loop_queue *q = r->q;
	struct virtio_blk *blk = r->blk;
	const uint16_t head = r->head;
	const uint32_t written = status == BLK_S_OK ? r->written_ok : r->written_failed;

	blk_count_done(blk, r, status == BLK_S_OK);
	*r->status = (uint8_t)status;
	request_put(&blk->pools[q->index], r);
	/* Last: with the last chain pushed, a reset that waits may go on. */
	virtio_loop_push(q, head, written);
}

static void request_done(struct image_req *req, int res)
{
	struct blk_request *r = container_of(req, struct blk_request, req);

	if (res < 0)
		request_end(r, BLK_S_IOERR);
	else
		request_next(r);
}

static void request_submit(struct blk_request *r)
{
	r->req.done = request_done;
	image_submit(r->blk->img, &r->req);
}

/* ---- the chain's parts ---- */

/* Copies the readable bytes from `skip` on, once; the caller has checked that they are there. */
static void chain_copy_out(const struct virtq_chain *chain, size_t skip, void *buf, size_t len)
{
	uint8_t *dst = buf;

	for (unsigned i = 0; i < chain->nread && len; i++) {
		const struct iovec *iov = &chain->iov[i];
		size_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = MIN(iov->iov_len - skip, len);
		memcpy(dst, (const uint8_t *)iov->iov_base + skip, n);
		dst += n;
		len -= n;
		skip = 0;
	}
	/* Keeps the compiler from reading guest memory again instead of the copy. */
	atomic_signal_fence(memory_order_seq_cst);
}

/*
 * The iovecs of `len` bytes from `skip` on, with neighbours in memory joined, written over the
 * chain's own array from its start. Returns how many.
 */
static unsigned cut_iovs(struct iovec *out, const struct iovec *in, unsigned n, size_t skip,
			 size_t len)
{
	unsigned nout = 0;

	for (unsigned i = 0; i < n && len; i++) {
		uint8_t *base = in[i].iov_base;
		size_t bytes = in[i].iov_len;

		if (skip >= bytes) {
			skip -= bytes;
			continue;
		}
		base += skip;
		bytes = MIN(bytes - skip, len);
		skip = 0;
		len -= bytes;
		if (nout && (uint8_t *)out[nout - 1].iov_base + out[nout - 1].iov_len == base)
			out[nout - 1].iov_len += bytes;
		else
			out[nout++] = (struct iovec){.iov_base = base, .iov_len = bytes};
	}
	return nout;
}

/* ---- read, write ---- */

/* Out of range, or not in whole blocks of the size that the device states (§5.2.4)? */
static bool range_ok(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
	uint64_t offset;

	return ck_mul(sector, IMAGE_SECTOR_BYTES, &offset) &&
	       ck_range(offset, bytes, blk->info->size_bytes) &&
	       is_aligned(offset | bytes, blk->info->logical_block_bytes);
}

/* Is a write to be durable when it completes (§5.2.6.2)? */
static bool write_through(const struct virtio_blk *blk)
{
	return !(blk->features & (BLK_F_FLUSH | BLK_F_CONFIG_WCE)) ||
	       !atomic_load_explicit(&blk->writeback, memory_order_relaxed);
}

static void start_io(struct blk_request *r, const struct virtq_chain *chain, uint64_t sector)
{
	struct virtio_blk *blk = r->blk;
	struct blk_pool *pool = &blk->pools[r->q->index];
	const bool in = r->type == BLK_T_IN;
	struct iovec *iov = r->iov;
	unsigned n;

	r->data_bytes =
	    in ? chain->write_bytes - 1 : chain->read_bytes - (uint32_t)sizeof(struct blk_header);
	if (in)
		r->written_ok = chain->write_bytes;
	if (!range_ok(blk, sector, r->data_bytes) || (!in && blk->info->read_only)) {
		request_end(r, BLK_S_IOERR);
		return;
	}
	if (!r->data_bytes) {
		request_end(r, BLK_S_OK);
		return;
	}
	if (in)
		n = cut_iovs(chain->iov, chain->iov + chain->nread, chain->nwrite, 0,
			     r->data_bytes);
	else
		n = cut_iovs(chain->iov, chain->iov, chain->nread, sizeof(struct blk_header),
			     r->data_bytes);
	if (n > BLK_IOVS_INLINE)
		iov = pool->slabs[r - pool->requests];
	memcpy(iov, chain->iov, n * sizeof(*iov));

	r->req.op = in ? IMAGE_READ : IMAGE_WRITE;
	r->req.flags = !in && write_through(blk) ? IMAGE_FUA : 0;
	r->req.offset_bytes = sector * IMAGE_SECTOR_BYTES;
	r->req.len_bytes = r->data_bytes;
	r->req.iov = iov;
	r->req.niov = n;
	request_submit(r);
}

/* ---- flush ---- */

static void submit_flush(struct blk_request *r)
{
	r->req.op = IMAGE_FLUSH;
	r->req.flags = 0;
	r->req.offset_bytes = 0;
	r->req.len_bytes = 0;
	r->req.iov = NULL;
	r->req.niov = 0;
	request_submit(r);
}

static void start_flush(struct blk_request *r)
{
	if (!(r->blk->features & BLK_F_FLUSH))
		request_end(r, BLK_S_UNSUPP);
	else if (r->blk->info->read_only)
		request_end(r, BLK_S_OK);
	else
		submit_flush(r);
}

/* ---- discard, write zeroes ---- */

static enum blk_status check_range(const struct blk_request *r, const struct blk_range *range)
{
	const uint32_t allowed = r->type == BLK_T_WRITE_ZEROES ? RANGE_F_UNMAP : 0;

	/* §5.2.6.2: unknown flags, and unmap on a discard, are unsupported rather than an error. */
	if (range->flags & ~allowed)
		return BLK_S_UNSUPP;
	if (range->sectors > BLK_RANGE_SECTORS_MAX ||
	    !range_ok(r->blk, range->sector, (uint64_t)range->sectors * IMAGE_SECTOR_BYTES))
		return BLK_S_IOERR;
	return BLK_S_OK;
}

static void start_ranges(struct blk_request *r, const struct virtq_chain *chain)
{
	const bool discard = r->type == BLK_T_DISCARD;
	const uint32_t bytes = chain->read_bytes - (uint32_t)sizeof(struct blk_header);
	const uint32_t n = bytes / sizeof(struct blk_range_wire);
	struct blk_range_wire wire[BLK_RANGE_SEGS_MAX];

	if (!(r->blk->features & (discard ? BLK_F_DISCARD : BLK_F_WRITE_ZEROES))) {
		request_end(r, BLK_S_UNSUPP);
		return;
	}
	if (!n || bytes % sizeof(wire[0]) || n > BLK_RANGE_SEGS_MAX || r->blk->info->read_only) {
		request_end(r, BLK_S_IOERR);
		return;
	}
	chain_copy_out(chain, sizeof(struct blk_header), wire, bytes);
	/* All are checked before the first is carried out. */
	for (unsigned i = 0; i < n; i++) {
		enum blk_status status;

		r->ranges[i] = (struct blk_range){
		    .sector = le64_get(wire[i].sector),
		    .sectors = le32_get(wire[i].sectors),
		    .flags = le32_get(wire[i].flags),
		};
		r->data_bytes += (uint64_t)r->ranges[i].sectors * IMAGE_SECTOR_BYTES;
		status = check_range(r, &r->ranges[i]);
		if (status != BLK_S_OK) {
			request_end(r, status);
			return;
		}
	}
	r->nranges = (uint8_t)n;
	r->range = 0;
	request_next(r);
}

/*
 * Goes on after a step: the next range; after the last, with the write cache off, a flush, for the
 * zeroes are as much a write as any other; and then the end.
 */
static void request_next(struct blk_request *r)
{
	while (r->range < r->nranges) {
		const struct blk_range *range = &r->ranges[r->range++];

		if (!range->sectors)
			continue;
		r->req.op = r->type == BLK_T_DISCARD ? IMAGE_DISCARD : IMAGE_WRITE_ZEROES;
		r->req.flags = range->flags & RANGE_F_UNMAP ? IMAGE_MAY_UNMAP : 0;
		r->req.offset_bytes = range->sector * IMAGE_SECTOR_BYTES;
		r->req.len_bytes = (uint64_t)range->sectors * IMAGE_SECTOR_BYTES;
		r->req.iov = NULL;
		r->req.niov = 0;
		request_submit(r);
		return;
	}
	if (r->nranges && r->type == BLK_T_WRITE_ZEROES && write_through(r->blk)) {
		r->nranges = r->range = 0;
		submit_flush(r);
		return;
	}
	request_end(r, BLK_S_OK);
}

/* ---- serial number ---- */

/* §5.2.6: 20 bytes, padded with zeroes, without a terminator when it is that long. */
static void start_get_id(struct blk_request *r, const struct virtq_chain *chain)
{
	const char *src = r->blk->serial;
	const uint32_t room = chain->write_bytes - 1;
	uint32_t left = MIN(room, (uint32_t)VIRTIO_BLK_SERIAL_BYTES);

	r->written_ok = room > left ? left : left + 1;
	for (unsigned i = 0; left; i++) {
		const struct iovec *iov = &chain->iov[chain->nread + i];
		const uint32_t n = (uint32_t)MIN(iov->iov_len, (size_t)left);

		memcpy(iov->iov_base, src, n);
		src += n;
		left -= n;
	}
	request_end(r, BLK_S_OK);
}

/* ---- limits ---- */

void blk_hold_back(struct virtio_blk *blk, const struct virtio_loop_queue *q, uint64_t wait_ns,
		   uint64_t now_ns)
{
	uint64_t until_ns;

	if (!wait_ns)
		return;
	if (!ck_add(now_ns, wait_ns, &until_ns))
		until_ns = UINT64_MAX;
	virtio_loop_hold_back(&blk->vl, q, until_ns);
}

/* Also for what will be refused: a guest must not keep the loop busy with that. */
static void spend(struct blk_request *r, const struct virtq_chain *chain)
{
	struct virtio_blk *blk = r->blk;
	uint64_t bytes = 0;

	if (r->type == BLK_T_IN)
		bytes = chain->write_bytes - 1;
	else if (r->type == BLK_T_OUT)
		bytes = chain->read_bytes - sizeof(struct blk_header);
	blk_hold_back(blk, r->q, blk_limit_spend(&blk->limit, bytes, r->taken_ns), r->taken_ns);
}

/* ---- start ---- */

int blk_take(struct virtio_loop_queue *q, const struct virtq_chain *chain)
{
	struct virtio_blk *blk = container_of(q->vl, struct virtio_blk, vl);
	struct blk_header header;
	const struct iovec *last;
	struct blk_request *r;

	if (chain->read_bytes < sizeof(header) || !chain->write_bytes)
		return -EPROTO;
	chain_copy_out(chain, 0, &header, sizeof(header));
	last = &chain->iov[chain->nread + chain->nwrite - 1];

	r = request_get(&blk->pools[q->index]);
	r->blk = blk;
	r->q = q;
	r->head = chain->head;
	r->type = le32_get(header.type);
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	r->nranges = r->range = 0;
	r->data_bytes = 0;
	blk_count_taken(blk, r);
	if (blk->limit.on)
		spend(r, chain);
	/* The used length counts from the first writable byte (§2.7.8.2); the status is the last.
	 */
	r->written_ok = r->written_failed = chain->write_bytes == 1;

	switch (r->type) {
	case BLK_T_IN:
	case BLK_T_OUT:
		start_io(r, chain, le64_get(header.sector));
		break;
	case BLK_T_FLUSH:
		start_flush(r);
		break;
	case BLK_T_GET_ID:
		start_get_id(r, chain);
		break;
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES:
		start_ranges(r, chain);
		break;
	default:
		request_end(r, BLK_S_UNSUPP);
		break;
	}
	return 0;
}
