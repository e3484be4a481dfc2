/*
 * The split virtqueue, device side. virtio 1.2 §2.7.
 *
 * Invariants
 *  1. Ring addresses are resolved and bounds-checked once; nothing that the guest writes later
 * moves them.
 *  2. Everything in the rings is read once: the copy is checked and the copy is used.
 *  3. At most `size` chains are out (popped, not yet pushed), whatever the available index claims;
 *     so a device with `size` request objects for each queue never runs out of them.
 *  4. After the first breach of the protocol the queue is broken: it gives no chains any more.
 *
 * Threads: one at a time; the other party is the guest, which may do anything at any moment.
 */
#include "devices/virtio/virtq.h"

#include "base/checked.h"
#include "devices/virtio/virtio.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* §2.7.5 */
#define DESC_F_NEXT	1
#define DESC_F_WRITE	2
#define DESC_F_INDIRECT 4

#define AVAIL_F_NO_INTERRUPT 1 /* §2.7.6 */
#define USED_F_NO_NOTIFY     1 /* §2.7.8 */

/*
 * Descriptor (§2.7.5)
 *   0  8  addr   guest-physical
 *   8  4  len    bytes
 *  12  2  flags
 *  14  2  next   index in the same table
 */
struct vring_desc {
	struct le64 addr;
	struct le32 len;
	struct le16 flags;
	struct le16 next;
};
_Static_assert(sizeof(struct vring_desc) == 16, "descriptor");
_Static_assert(offsetof(struct vring_desc, len) == 8, "descriptor length");
_Static_assert(offsetof(struct vring_desc, next) == 14, "descriptor link");

/* Element of the used ring (§2.7.8). */
struct vring_used_elem {
	struct le32 id;
	struct le32 len;
};
_Static_assert(sizeof(struct vring_used_elem) == 8, "used element");

/* Both rings: flags (2 bytes), index (2 bytes), elements, event index (2 bytes). */
#define RING_FLAGS     0
#define RING_IDX       2
#define RING_ELEMS     4
#define DESC_BYTES(n)  ((uint64_t)(n) * sizeof(struct vring_desc))
#define AVAIL_EVENT(n) (RING_ELEMS + 2 * (size_t)(n))
#define AVAIL_BYTES(n) (AVAIL_EVENT(n) + 2)
#define USED_EVENT(n)  (RING_ELEMS + sizeof(struct vring_used_elem) * (size_t)(n))
#define USED_BYTES(n)  (USED_EVENT(n) + 2)

struct virtq {
	const struct gmem *mem;
	const uint8_t *desc;
	const uint8_t *avail;
	uint8_t *used;
	uint16_t size;
	uint16_t index;
	bool indirect;
	bool event_idx;

	bool broken;
	uint16_t next_avail;	 /* the available element that is taken next */
	uint16_t seen_avail_idx; /* the available index when it was last read */
	uint16_t used_idx;
	uint16_t notified_idx; /* used_idx when should_notify was last asked */
	uint16_t out;	       /* chains popped and not pushed */
};

/* The rings' 16-bit fields are naturally aligned: virtq_new() refuses a ring that is not. */
static uint16_t ring_load(const uint8_t *p, memory_order order)
{
	return le16toh(atomic_load_explicit((const _Atomic uint16_t *)(const void *)p, order));
}

static void ring_store(uint8_t *p, uint16_t v, memory_order order)
{
	atomic_store_explicit((_Atomic uint16_t *)(void *)p, htole16(v), order);
}

int virtq_new(const struct gmem *mem, const struct virtq_config *config, uint64_t features,
	      unsigned index, struct virtq **ret_vq)
{
	const uint16_t size = config->size;
	struct virtq *vq;

	if (!is_pow2(size) || size > VIRTQ_SIZE_MAX)
		return -EINVAL;
	if (!is_aligned(config->desc, 16) || !is_aligned(config->avail, 2) ||
	    !is_aligned(config->used, 4))
		return -EINVAL;

	vq = calloc(1, sizeof(*vq));
	if (!vq)
		return -ENOMEM;
	vq->mem = mem;
	vq->desc = gmem_ro(mem, config->desc, DESC_BYTES(size));
	vq->avail = gmem_ro(mem, config->avail, AVAIL_BYTES(size));
	vq->used = gmem_rw(mem, config->used, USED_BYTES(size));
	if (!vq->desc || !vq->avail || !vq->used) {
		free(vq);
		return -EFAULT;
	}
	/* A region whose host address is less aligned than its guest address would make the ring
	 * fields straddle; the platform maps whole pages, so this is only a safety net. */
	if (!is_aligned((uintptr_t)vq->avail, 2) || !is_aligned((uintptr_t)vq->used, 4)) {
		free(vq);
		return -EINVAL;
	}
	vq->size = size;
	vq->index = (uint16_t)index;
	vq->indirect = features & VIRTIO_F_INDIRECT_DESC;
	vq->event_idx = features & VIRTIO_F_EVENT_IDX;
	*ret_vq = vq;
	return 0;
}

void virtq_free(struct virtq *vq)
{
	free(vq);
}

unsigned virtq_index(const struct virtq *vq)
{
	return vq->index;
}

unsigned virtq_size(const struct virtq *vq)
{
	return vq->size;
}

struct virtq_rings virtq_rings(const struct virtq *vq)
{
	return (struct virtq_rings){.desc = vq->desc, .avail = vq->avail, .used = vq->used};
}

/* A descriptor, copied once out of memory that the guest may change meanwhile. */
struct desc_copy {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

static struct desc_copy desc_load(const uint8_t *table, uint32_t i)
{
	struct vring_desc d;

	memcpy(&d, table + DESC_BYTES(i), sizeof(d));
	/* Without this the compiler may read guest memory again instead of keeping the copy. */
	atomic_signal_fence(memory_order_seq_cst);
	return (struct desc_copy){
	    .addr = le64_get(d.addr),
	    .len = le32_get(d.len),
	    .flags = le16_get(d.flags),
	    .next = le16_get(d.next),
	};
}

/* Appends one buffer. Readable buffers come before writable ones (§2.7.4.2). */
static bool chain_add(const struct virtq *vq, struct virtq_chain *chain, const struct desc_copy *d)
{
	const bool write = d->flags & DESC_F_WRITE;
	const unsigned n = chain->nread + chain->nwrite;
	uint32_t *bytes = write ? &chain->write_bytes : &chain->read_bytes;
	const void *host;

	if (!write && chain->nwrite)
		return false;
	/* Nothing forbids an empty buffer; it carries nothing, so it takes no iovec. */
	if (!d->len)
		return true;
	if (n >= chain->max_iov || __builtin_add_overflow(*bytes, d->len, bytes))
		return false;
	host = write ? gmem_rw(vq->mem, d->addr, d->len) : gmem_ro(vq->mem, d->addr, d->len);
	if (!host)
		return false;
	/* iovecs know no const; that the readable ones are only read is the device's part. */
	memcpy(&chain->iov[n].iov_base, &host, sizeof(host));
	chain->iov[n].iov_len = d->len;
	if (write)
		chain->nwrite++;
	else
		chain->nread++;
	return true;
}

/*
 * Where the walk stands: a table and how many descriptors may still be visited. The ring's table
 * allows `size` of them, which no chain without a loop exceeds. An indirect table allows as many as
 * it holds, at most VIRTQ_SIZE_MAX: Linux makes tables longer than the queue when memory was too
 * short for a queue of full size, so the queue's own size is not the limit there.
 */
struct walk {
	const uint8_t *table;
	uint32_t entries;
	uint32_t left;
	bool nested;
};

/* Steps into an indirect table (§2.7.5.3); its own WRITE flag is ignored (§2.7.5.3.2). */
static bool walk_indirect(const struct virtq *vq, struct walk *w, const struct desc_copy *d)
{
	if (!vq->indirect || w->nested || (d->flags & DESC_F_NEXT))
		return false;
	if (!d->len || d->len % sizeof(struct vring_desc))
		return false;
	w->entries = d->len / sizeof(struct vring_desc);
	if (w->entries > VIRTQ_SIZE_MAX)
		return false;
	w->table = gmem_ro(vq->mem, d->addr, d->len);
	w->left = w->entries;
	w->nested = true;
	return w->table;
}

static bool walk_chain(const struct virtq *vq, struct virtq_chain *chain)
{
	struct walk w = {.table = vq->desc, .entries = vq->size, .left = vq->size};
	struct desc_copy d;
	uint32_t i = chain->head;

	for (;;) {
		if (i >= w.entries || !w.left--)
			return false;
		d = desc_load(w.table, i);
		if (d.flags & DESC_F_INDIRECT) {
			if (!walk_indirect(vq, &w, &d))
				return false;
			i = 0;
			continue;
		}
		if (!chain_add(vq, chain, &d))
			return false;
		if (!(d.flags & DESC_F_NEXT))
			return true;
		i = d.next;
	}
}

/* The number of chains that wait, or -EPROTO. */
static int virtq_waiting(struct virtq *vq)
{
	uint16_t waiting = (uint16_t)(vq->seen_avail_idx - vq->next_avail);

	if (!waiting) {
		/* Partner: the driver's write barrier between filling the element and its
		 * descriptors and moving the index (§2.7.13.3). Without it we could see the index
		 * move and still read what the element held before. */
		vq->seen_avail_idx = ring_load(vq->avail + RING_IDX, memory_order_acquire);
		waiting = (uint16_t)(vq->seen_avail_idx - vq->next_avail);
	}
	return waiting > vq->size ? -EPROTO : waiting;
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain)
{
	const uint16_t slot = vq->next_avail & (uint16_t)(vq->size - 1);
	int r;

	if (vq->broken)
		return -EPROTO;
	r = virtq_waiting(vq);
	if (!r)
		return 0;

	chain->nread = chain->nwrite = 0;
	chain->read_bytes = chain->write_bytes = 0;
	if (r > 0) {
		chain->head =
		    ring_load(vq->avail + RING_ELEMS + 2 * (size_t)slot, memory_order_relaxed);
		if (vq->out < vq->size && chain->head < vq->size && walk_chain(vq, chain)) {
			vq->next_avail++;
			vq->out++;
			return 1;
		}
	}
	vq->broken = true;
	return -EPROTO;
}

void virtq_push(struct virtq *vq, uint16_t head, uint32_t written_bytes)
{
	const size_t slot = vq->used_idx & (vq->size - 1u);
	const struct vring_used_elem elem = {
	    .id = le32_put(head),
	    .len = le32_put(written_bytes),
	};

	memcpy(vq->used + RING_ELEMS + slot * sizeof(elem), &elem, sizeof(elem));
	vq->used_idx++;
	vq->out--;
	/* Partner: the driver's read barrier between reading the index and the element (§2.7.14).
	 * Without it the driver could see the index move before the element, or before the data
	 * that the device wrote. */
	ring_store(vq->used + RING_IDX, vq->used_idx, memory_order_release);
}

bool virtq_should_notify(struct virtq *vq)
{
	const uint16_t now = vq->used_idx, before = vq->notified_idx;
	uint16_t event;

	if (now == before)
		return false;
	vq->notified_idx = now;
	/* Partner: the driver's full barrier between asking for interrupts (flags, used_event) and
	 * looking at the used index again (§2.7.7.1). Without it our index store and this load
	 * could pass each other: the driver sees no work, we see no wish for an interrupt, and the
	 * completion is never noticed. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!vq->event_idx) {
		return !(ring_load(vq->avail + RING_FLAGS, memory_order_relaxed) &
			 AVAIL_F_NO_INTERRUPT);
	}
	event = ring_load(vq->avail + AVAIL_EVENT(vq->size), memory_order_relaxed);
	/* Has the index gone past `event` in (before, now]? All modulo 2^16. */
	return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

bool virtq_has_chains(const struct virtq *vq)
{
	return !vq->broken &&
	       ring_load(vq->avail + RING_IDX, memory_order_relaxed) != vq->next_avail;
}

void virtq_kick_disable(struct virtq *vq)
{
	/* With event index the driver kicks when it passes avail_event, which stays behind until
	 * virtq_kick_enable(): nothing to do. */
	if (!vq->event_idx)
		ring_store(vq->used + RING_FLAGS, USED_F_NO_NOTIFY, memory_order_relaxed);
}

bool virtq_kick_enable(struct virtq *vq)
{
	if (vq->broken)
		return false;
	if (vq->event_idx)
		ring_store(vq->used + USED_EVENT(vq->size), vq->next_avail, memory_order_relaxed);
	else
		ring_store(vq->used + RING_FLAGS, 0, memory_order_relaxed);
	/* Partner: the driver's full barrier between moving the available index and looking whether
	 * a kick is wanted (§2.7.13.4). Without it the driver could see no wish for a kick while we
	 * still see the old index, and the chain would wait for ever. */
	atomic_thread_fence(memory_order_seq_cst);
	vq->seen_avail_idx = ring_load(vq->avail + RING_IDX, memory_order_acquire);
	return vq->seen_avail_idx != vq->next_avail;
}
