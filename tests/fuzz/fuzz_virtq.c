/*
 * The split virtqueue on ring memory that is as hostile as the fuzzer can make it.
 *
 * Input: a configuration (16 bytes), then the start of guest memory, in which the rings lie;
 * between the pops the "driver" moves its index and rewrites memory from the rest of the input.
 * Whatever it does, a chain that is given out lies within guest memory, is bounded, and adds up.
 */
#include "base/checked.h"
#include "devices/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOW_BYTES  (32 * KIB)
#define HIGH_GPA   (4 * GIB)
#define HIGH_BYTES (8 * KIB)
#define STEPS_MAX  256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(cond)                       \
	do {                              \
		if (!(cond))              \
			__builtin_trap(); \
	} while (0)

static uint8_t *low, *high;
static struct gmem *mem;

static void set_up(void)
{
	struct gmem_region r = {.fd = -1};

	/* from the heap, so that the sanitizer watches the ends */
	low = aligned_alloc(4096, LOW_BYTES);
	high = aligned_alloc(4096, HIGH_BYTES);
	CHECK(low && high && gmem_new(&mem) == 0);
	r.host = low;
	r.len_bytes = LOW_BYTES;
	CHECK(gmem_add(mem, &r, NULL) == 0);
	r.host = high;
	r.gpa = HIGH_GPA;
	r.len_bytes = HIGH_BYTES;
	CHECK(gmem_add(mem, &r, NULL) == 0);
}

static bool within(const struct iovec *iov, const uint8_t *base, size_t len)
{
	const uintptr_t p = (uintptr_t)iov->iov_base, b = (uintptr_t)base;

	return p >= b && ck_range(p - b, iov->iov_len, len);
}

static void check_chain(const struct virtq_chain *c, unsigned queue_size)
{
	uint64_t read_bytes = 0, write_bytes = 0;

	CHECK(c->head < queue_size);
	CHECK((unsigned)c->nread + c->nwrite <= c->max_iov);
	for (unsigned i = 0; i < (unsigned)c->nread + c->nwrite; i++) {
		CHECK(c->iov[i].iov_len);
		CHECK(within(&c->iov[i], low, LOW_BYTES) || within(&c->iov[i], high, HIGH_BYTES));
		*(i < c->nread ? &read_bytes : &write_bytes) += c->iov[i].iov_len;
	}
	CHECK(read_bytes == c->read_bytes && write_bytes == c->write_bytes);
}

/* Low addresses mostly, so that the rings often exist; the rest is as it comes. */
static gpa_t pick_gpa(const uint8_t *p)
{
	const uint16_t v = le16_load(p);

	if (v >= 0xff00)
		return HIGH_GPA + (v & 0xff) * 64;
	return (v & 0x8000) ? (gpa_t)v << 40 | v : (gpa_t)(v & 0x3fff) << 1;
}

struct script {
	const uint8_t *p, *end;
};

static uint8_t next(struct script *s)
{
	return s->p < s->end ? *s->p++ : 0;
}

static void driver_acts(struct script *s, const struct virtq_config *c)
{
	uint8_t *idx = gmem_rw(mem, c->avail + 2, 2);
	const uint8_t what = next(s);

	if (what & 0x80)
		low[(uint16_t)(next(s) | next(s) << 8) % LOW_BYTES] = next(s);
	if (idx)
		le16_store(idx, (uint16_t)(le16_load(idx) + (what & 0x40 ? next(s) : what & 3)));
}

static void run(struct virtq *vq, const struct virtq_config *c, struct script *s, unsigned max_iov)
{
	static struct iovec iov[VIRTQ_SEGS_MAX];
	struct virtq_chain chain = {.iov = iov, .max_iov = (uint16_t)max_iov};
	uint16_t out[VIRTQ_SIZE_MAX];
	unsigned nout = 0;
	bool broken = false;

	for (unsigned step = 0; step < STEPS_MAX && s->p < s->end; step++) {
		int r;

		driver_acts(s, c);
		virtq_kick_disable(vq);
		r = virtq_pop(vq, &chain);
		CHECK(r == 1 || r == 0 || r == -EPROTO);
		CHECK(!broken || r == -EPROTO);
		broken = r < 0;
		if (r == 1) {
			check_chain(&chain, c->size);
			CHECK(nout < c->size);
			out[nout++] = chain.head;
		}
		while (nout && (step & 1 || nout == c->size)) {
			virtq_push(vq, out[--nout], chain.write_bytes);
			if (step & 2)
				break;
		}
		virtq_should_notify(vq);
		CHECK(!(virtq_kick_enable(vq) && broken));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtq_config c = {.enabled = true};
	struct script s;
	struct virtq *vq;
	uint64_t features;
	unsigned max_iov;
	size_t n;

	if (!mem)
		set_up();
	if (size < 16)
		return 0;
	c.size = data[0] & 0x80 ? le16_load(data) : (uint16_t)(1u << (data[0] % 12));
	c.desc = pick_gpa(data + 2);
	c.avail = pick_gpa(data + 4);
	c.used = pick_gpa(data + 6);
	if (!(data[8] & 0x80))
		c.desc &= ~15ull;
	if (!(data[8] & 0x40))
		c.used &= ~3ull;
	features =
	    (data[9] & 1 ? VIRTIO_F_INDIRECT_DESC : 0) | (data[9] & 2 ? VIRTIO_F_EVENT_IDX : 0);
	max_iov = 1 + data[10] % VIRTQ_SEGS_MAX;
	data += 16;
	size -= 16;

	memset(low, 0, LOW_BYTES);
	memset(high, 0, HIGH_BYTES);
	n = MIN(size / 2, (size_t)LOW_BYTES);
	memcpy(low, data, n);
	s = (struct script){.p = data + n, .end = data + size};
	if (virtq_new(mem, &c, features, 0, &vq) == 0) {
		run(vq, &c, &s, max_iov);
		virtq_free(vq);
	}
	return 0;
}
