/*
 * The raw driver's engine: each request is a few operations of the loop, one after the other.
 *
 *   READ, WRITE         transfer until all is done -> (WRITE with FUA: flush)
 *     unaligned, direct wait for a bounce buffer -> transfer through it, piece by piece
 *   DISCARD             punch a hole; where the host cannot, nothing
 *   WRITE_ZEROES        punch a hole (may unmap), else zero the range, else write zeroes
 *   FLUSH               disk/raw_sync.c
 *
 * Invariants
 *  1. Nothing is allocated here.
 *  2. req.p.done_bytes counts what surely was transferred; under O_DIRECT it is always a multiple
 *     of the offset alignment, so that the rest stays aligned.
 *  3. A host's refusal (EOPNOTSUPP) is remembered and never seen by a guest.
 */
#include "disk/raw_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <string.h>

/* Attempts without progress before an error is believed. */
#define RETRIES_MAX 64

enum step {
	STEP_TRANSFER,
	STEP_BOUNCE,
	STEP_DISCARD,
	STEP_ZERO_PUNCH,
	STEP_ZERO_RANGE,
	STEP_ZERO_WRITE,
};

static const uint8_t zero_page[RAW_ZERO_BYTES] __attribute__((aligned(RAW_ZERO_BYTES)));

static void step_done(struct loop_op *op, int res);
static void transfer(struct raw *raw, struct image_req *req);
static void bounce(struct raw *raw, struct image_req *req);
static void zero(struct raw *raw, struct image_req *req);

/* Faults for tests */

int raw_take_fault(struct raw *raw)
{
	if (!raw->fault_in || --raw->fault_in)
		return 0;
	return raw->fault_errnum ? raw->fault_errnum : -1;
}

static void run_faulted(struct loop_msg *m)
{
	struct raw *raw = container_of(m, struct raw, fault_msg);
	struct image_queue faulted = raw->faulted;
	bool sync_faulted = raw->sync_faulted;
	struct image_req *req;

	raw->faulted = (struct image_queue){0};
	raw->sync_faulted = false;
	while ((req = image_queue_pop(&faulted)))
		step_done(&req->p.op, req->p.res);
	if (sync_faulted)
		raw_sync_done(&raw->sync_op, raw->sync_op.p.res);
}

/* True when the operation that is due fails instead of being carried out. */
static bool faulted(struct raw *raw, struct image_req *req, bool *ret_cut)
{
	int fault = raw_take_fault(raw);

	*ret_cut = fault < 0;
	if (fault <= 0)
		return false;
	req->p.res = -fault;
	image_queue_push(&raw->faulted, req);
	loop_defer(raw->img.loop, &raw->fault_msg);
	return true;
}

/* Operations */

static uint64_t remaining(const struct image_req *req)
{
	return req->len_bytes - req->p.done_bytes;
}

static void finish(struct raw *raw, struct image_req *req)
{
	if (req->op != IMAGE_READ && req->flags & IMAGE_FUA)
		raw_sync(raw, req);
	else
		image_complete(req, 0);
}

/* Moves iov[0..niov) at the request's position, or only a part of it when a test cuts it. */
static void submit_rw(struct raw *raw, struct image_req *req, const struct iovec *iov,
		      unsigned niov)
{
	uint64_t offset = req->offset_bytes + req->p.done_bytes;
	uint64_t align = MAX(raw->file.dio_offset_align, 1U);
	bool cut;

	if (faulted(raw, req, &cut))
		return;
	if (cut && align_down(iov->iov_len / 2, align)) {
		req->p.part = (struct iovec){iov->iov_base, align_down(iov->iov_len / 2, align)};
		iov = &req->p.part;
		niov = 1;
	}
	if (req->op == IMAGE_READ)
		loop_readv(raw->img.loop, &req->p.op, raw->file.fd, iov, niov, offset);
	else
		loop_writev(raw->img.loop, &req->p.op, raw->file.fd, iov, niov, offset);
}

static void submit_fallocate(struct raw *raw, struct image_req *req, enum step step, int mode)
{
	bool cut;

	req->p.step = (uint8_t)step;
	if (!faulted(raw, req, &cut))
		loop_fallocate(raw->img.loop, &req->p.op, raw->file.fd, mode | FALLOC_FL_KEEP_SIZE,
			       req->offset_bytes, req->len_bytes);
}

static void transfer(struct raw *raw, struct image_req *req)
{
	uint64_t skip = req->p.done_bytes;
	unsigned i = 0;

	/* the position is within the iovecs: they hold len_bytes, and less than that is done */
	while (skip >= req->iov[i].iov_len)
		skip -= req->iov[i++].iov_len;
	req->p.step = STEP_TRANSFER;
	if (!skip) {
		submit_rw(raw, req, &req->iov[i], MIN(req->niov - i, (unsigned)IOV_MAX));
		return;
	}
	/* a short transfer ended within this one: the rest of it, then whole ones again */
	req->p.part =
	    (struct iovec){(char *)req->iov[i].iov_base + skip, req->iov[i].iov_len - skip};
	submit_rw(raw, req, &req->p.part, 1);
}

/* Bounce buffers */

static bool needs_bounce(const struct raw *raw, const struct image_req *req)
{
	if (!raw->file.dio_mem_align)
		return false;
	for (unsigned i = 0; i < req->niov; i++) {
		const struct iovec *v = &req->iov[i];

		if (!is_aligned((uintptr_t)v->iov_base, raw->file.dio_mem_align) ||
		    !is_aligned(v->iov_len, raw->file.dio_offset_align))
			return true;
	}
	return false;
}

static void bounce_get(struct raw *raw, struct image_req *req)
{
	req->p.step = STEP_BOUNCE;
	if (!raw->bounce_nfree) {
		image_queue_push(&raw->bounce_waiting, req);
		return;
	}
	req->p.bounce = raw->bounce_free[--raw->bounce_nfree];
	bounce(raw, req);
}

/* Gives the buffer to whoever waits longest. */
static void bounce_put(struct raw *raw, struct image_req *req)
{
	struct image_req *next = image_queue_pop(&raw->bounce_waiting);

	if (next) {
		next->p.bounce = req->p.bounce;
		bounce(raw, next);
	} else {
		raw->bounce_free[raw->bounce_nfree++] = req->p.bounce;
	}
	req->p.bounce = NULL;
}

/* Copies `len` bytes at the request's position between its memory and the bounce buffer. */
static void bounce_copy(const struct image_req *req, size_t len)
{
	uint64_t skip = req->p.done_bytes;
	char *b = req->p.bounce;

	for (unsigned i = 0; len; i++) {
		const struct iovec *v = &req->iov[i];
		char *base = v->iov_base;
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = MIN(len, v->iov_len - (size_t)skip);
		if (req->op == IMAGE_READ)
			memcpy(base + skip, b, n);
		else
			memcpy(b, base + skip, n);
		skip = 0;
		b += n;
		len -= n;
	}
}

static void bounce(struct raw *raw, struct image_req *req)
{
	size_t len = (size_t)MIN(remaining(req), (uint64_t)RAW_BOUNCE_BYTES);

	if (req->op == IMAGE_WRITE)
		bounce_copy(req, len);
	req->p.part = (struct iovec){req->p.bounce, len};
	submit_rw(raw, req, &req->p.part, 1);
}

/* Zeroes and discards */

static void zero_write(struct raw *raw, struct image_req *req)
{
	uint64_t pages = remaining(req) / RAW_ZERO_BYTES;

	req->p.step = STEP_ZERO_WRITE;
	if (pages) {
		submit_rw(raw, req, raw->zero_iov, (unsigned)MIN(pages, (uint64_t)RAW_ZERO_IOVS));
		return;
	}
	req->p.part = (struct iovec){raw->zero_iov[0].iov_base, (size_t)remaining(req)};
	submit_rw(raw, req, &req->p.part, 1);
}

static void zero(struct raw *raw, struct image_req *req)
{
	if (req->flags & IMAGE_MAY_UNMAP && !raw->no_discard && raw->can_punch)
		submit_fallocate(raw, req, STEP_ZERO_PUNCH, FALLOC_FL_PUNCH_HOLE);
	else if (raw->can_zero_range)
		submit_fallocate(raw, req, STEP_ZERO_RANGE, FALLOC_FL_ZERO_RANGE);
	else
		zero_write(raw, req);
}

static void discard(struct raw *raw, struct image_req *req)
{
	if (raw->no_discard || !raw->can_punch)
		image_complete_later(req, 0);
	else
		submit_fallocate(raw, req, STEP_DISCARD, FALLOC_FL_PUNCH_HOLE);
}

/* Completion */

static void submit_step(struct raw *raw, struct image_req *req)
{
	switch (req->p.step) {
	case STEP_TRANSFER:
		transfer(raw, req);
		break;
	case STEP_BOUNCE:
		bounce(raw, req);
		break;
	case STEP_DISCARD:
		discard(raw, req);
		break;
	case STEP_ZERO_PUNCH:
	case STEP_ZERO_RANGE:
		zero(raw, req);
		break;
	case STEP_ZERO_WRITE:
		zero_write(raw, req);
		break;
	}
}

static void fail(struct raw *raw, struct image_req *req, int res)
{
	if (req->p.bounce)
		bounce_put(raw, req);
	image_complete(req, res);
}

static bool is_refusal(int res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || res == -ENOTTY;
}

/* The host cannot do this kind of operation: from now on the next best. */
static void refused(struct raw *raw, struct image_req *req)
{
	if (req->p.step == STEP_ZERO_RANGE)
		raw->can_zero_range = false;
	else
		raw->can_punch = false;
	if (req->op == IMAGE_DISCARD)
		image_complete(req, 0); /* old data is a right answer */
	else
		zero(raw, req);
}

/* A container reads as zeroes past its end. */
static void read_past_end(struct raw *raw, struct image_req *req, uint64_t from)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < req->niov; i++) {
		const struct iovec *v = &req->iov[i];
		uint64_t skip = from > at ? MIN(from - at, (uint64_t)v->iov_len) : 0;

		memset((char *)v->iov_base + skip, 0, v->iov_len - (size_t)skip);
		at += v->iov_len;
	}
	if (req->p.bounce)
		bounce_put(raw, req);
	image_complete(req, 0);
}

static void transferred(struct raw *raw, struct image_req *req, uint64_t n)
{
	uint64_t before = req->p.done_bytes, align = MAX(raw->file.dio_offset_align, 1U);

	if (req->p.step == STEP_BOUNCE && req->op == IMAGE_READ)
		bounce_copy(req, (size_t)n);
	/* direct I/O that does not end on a block has met the end of the file */
	if (raw->container && req->op == IMAGE_READ && !is_aligned(before + n, align)) {
		read_past_end(raw, req, before + n);
		return;
	}
	req->p.done_bytes = align_down(before + n, align);
	if (req->p.done_bytes == req->len_bytes) {
		if (req->p.bounce)
			bounce_put(raw, req);
		finish(raw, req);
		return;
	}
	if (req->p.done_bytes != before)
		req->p.retries = 0;
	else if (req->p.retries++ >= RETRIES_MAX) {
		fail(raw, req, -EIO);
		return;
	}
	submit_step(raw, req);
}

static void step_done(struct loop_op *op, int res)
{
	struct image_req *req = container_of(op, struct image_req, p.op);
	struct raw *raw = raw_of(req->p.img);
	bool fallocated = req->p.step >= STEP_DISCARD && req->p.step <= STEP_ZERO_RANGE;

	if ((res == -EINTR || res == -EAGAIN) && req->p.retries++ < RETRIES_MAX)
		submit_step(raw, req);
	else if (fallocated && is_refusal(res))
		refused(raw, req);
	else if (res < 0)
		fail(raw, req, res);
	else if (fallocated)
		finish(raw, req);
	else if (!res && raw->container && req->op == IMAGE_READ)
		read_past_end(raw, req, req->p.done_bytes);
	else if (!res)
		fail(raw, req, -EIO); /* the end of the file: it was made shorter under us */
	else
		transferred(raw, req, (uint64_t)res);
}

void raw_submit(struct image *img, struct image_req *req)
{
	struct raw *raw = raw_of(img);

	req->p.op = (struct loop_op){.done = step_done};
	req->p.done_bytes = 0;
	req->p.bounce = NULL;
	req->p.retries = 0;
	switch (req->op) {
	case IMAGE_READ:
	case IMAGE_WRITE:
		if (needs_bounce(raw, req))
			bounce_get(raw, req);
		else
			transfer(raw, req);
		break;
	case IMAGE_FLUSH:
		raw_sync(raw, req);
		break;
	case IMAGE_DISCARD:
		discard(raw, req);
		break;
	case IMAGE_WRITE_ZEROES:
		zero(raw, req);
		break;
	}
}

void raw_io_init(struct raw *raw)
{
	/* an iovec's base is not const although a write only reads it */
	const void *page = zero_page;

	for (size_t i = 0; i < RAW_ZERO_IOVS; i++) {
		memcpy(&raw->zero_iov[i].iov_base, &page, sizeof(page));
		raw->zero_iov[i].iov_len = sizeof(zero_page);
	}
	raw->sync_op.done = raw_sync_done;
	raw->fault_msg.fn = run_faulted;
}
