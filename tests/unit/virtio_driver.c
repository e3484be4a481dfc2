#include "tests/unit/virtio_driver.h"

#include "base/checked.h"

#include <poll.h>
#include <stdatomic.h>
#include <string.h>

/* ---- the ring ---- */

static uint16_t load16(struct fake_platform *fp, gpa_t gpa)
{
	_Atomic uint16_t *p = fake_mem(fp, gpa, 2);

	return le16toh(atomic_load_explicit(p, memory_order_acquire));
}

static void store16(struct fake_platform *fp, gpa_t gpa, uint16_t v)
{
	_Atomic uint16_t *p = fake_mem(fp, gpa, 2);

	atomic_store_explicit(p, htole16(v), memory_order_release);
}

gpa_t vring_init(struct vring *r, struct fake_platform *fp, gpa_t gpa, uint16_t size,
		 uint64_t features)
{
	memset(r, 0, sizeof(*r));
	r->fp = fp;
	r->size = size;
	r->event_idx = features & VDRV_EVENT;
	r->desc = align_up(gpa, 16);
	r->avail = r->desc + 16u * size;
	r->used = align_up(r->avail + 6 + 2u * size, 4);
	r->tables = align_up(r->used + 6 + 8u * size, 16);
	r->table_max = MIN(size, VRING_TABLE_MAX);
	memset(fake_mem(fp, r->desc, r->tables - r->desc), 0, r->tables - r->desc);
	for (unsigned i = 0; i < size; i++)
		r->free[r->nfree++] = (uint16_t)(size - 1 - i);
	return r->tables + 16u * size * r->table_max;
}

void vring_desc(struct fake_platform *fp, gpa_t table, unsigned i, gpa_t addr, uint32_t len,
		uint16_t flags, uint16_t next)
{
	uint8_t *p = fake_mem(fp, table + 16u * i, 16);

	le64_store(p, addr);
	le32_store(p + 8, len);
	le16_store(p + 12, flags);
	le16_store(p + 14, next);
}

static void build_table(struct vring *r, uint16_t head, const struct vbuf *bufs, unsigned n)
{
	const gpa_t table = r->tables + 16u * r->table_max * head;

	for (unsigned i = 0; i < n; i++) {
		vring_desc(
		    r->fp, table, i, bufs[i].gpa, bufs[i].len,
		    (uint16_t)((bufs[i].write ? VDESC_WRITE : 0) | (i + 1 < n ? VDESC_NEXT : 0)),
		    (uint16_t)(i + 1 < n ? i + 1 : 0));
	}
	vring_desc(r->fp, r->desc, head, table, 16 * n, VDESC_INDIRECT, 0);
	r->chain_len[head] = 1;
}

static void build_chain(struct vring *r, uint16_t head, const struct vbuf *bufs, unsigned n)
{
	uint16_t at = head;

	for (unsigned i = 0; i < n; i++) {
		const uint16_t next = i + 1 < n ? r->free[--r->nfree] : 0;

		vring_desc(
		    r->fp, r->desc, at, bufs[i].gpa, bufs[i].len,
		    (uint16_t)((bufs[i].write ? VDESC_WRITE : 0) | (i + 1 < n ? VDESC_NEXT : 0)),
		    next);
		r->chain[at] = next;
		at = next;
	}
	r->chain_len[head] = (uint16_t)n;
}

int vring_add(struct vring *r, const struct vbuf *bufs, unsigned n, bool indirect)
{
	uint16_t head;

	if (r->nfree < (indirect ? 1 : n) || (indirect && n > r->table_max))
		return -1;
	head = r->free[--r->nfree];
	if (indirect)
		build_table(r, head, bufs, n);
	else
		build_chain(r, head, bufs, n);
	vring_add_head(r, head);
	return head;
}

void vring_add_head(struct vring *r, uint16_t head)
{
	store16(r->fp, r->avail + 4 + 2u * (r->avail_idx % r->size), head);
	r->avail_idx++;
}

void vring_publish(struct vring *r)
{
	r->published_idx = r->avail_idx;
	store16(r->fp, r->avail + 2, r->avail_idx);
}

bool vring_wants_kick(struct vring *r, uint16_t old_idx)
{
	uint16_t event;

	atomic_thread_fence(memory_order_seq_cst);
	if (!r->event_idx)
		return !(load16(r->fp, r->used) & 1);
	event = load16(r->fp, r->used + 4 + 8u * r->size);
	return (uint16_t)(r->published_idx - event - 1) < (uint16_t)(r->published_idx - old_idx);
}

uint16_t vring_used_waiting(struct vring *r)
{
	return (uint16_t)(load16(r->fp, r->used + 2) - r->used_idx);
}

bool vring_take(struct vring *r, uint16_t *ret_head, uint32_t *ret_len)
{
	const uint8_t *elem;
	uint16_t at;

	if (!vring_used_waiting(r))
		return false;
	elem = fake_mem(r->fp, r->used + 4 + 8u * (r->used_idx % r->size), 8);
	*ret_head = at = (uint16_t)le32_load(elem);
	*ret_len = le32_load(elem + 4);
	r->used_idx++;
	for (unsigned n = r->chain_len[*ret_head]; n; n--) {
		r->free[r->nfree++] = at;
		at = r->chain[at];
	}
	r->chain_len[*ret_head] = 0;
	return true;
}

void vring_irq_on(struct vring *r, uint16_t after)
{
	if (r->event_idx)
		store16(r->fp, r->avail + 4 + 2u * r->size, (uint16_t)(r->used_idx + after - 1));
	else
		store16(r->fp, r->avail, 0);
	atomic_thread_fence(memory_order_seq_cst);
}

void vring_irq_off(struct vring *r)
{
	if (r->event_idx)
		store16(r->fp, r->avail + 4 + 2u * r->size, (uint16_t)(r->used_idx - 1));
	else
		store16(r->fp, r->avail, 1);
}

/* ---- access ---- */

static uint64_t rd(struct vdrv *d, gpa_t addr, unsigned size)
{
	return fake_guest_read(d->fp, DOORBELL_MMIO, addr, size);
}

static void wr(struct vdrv *d, gpa_t addr, unsigned size, uint64_t value)
{
	fake_guest_write(d->fp, DOORBELL_MMIO, addr, size, value);
}

static void pci_select(struct vdrv *d, unsigned offset)
{
	fake_guest_write(d->fp, DOORBELL_PIO, 0xcf8, 4,
			 0x80000000u | d->slot << 11 | (offset & 0xfc));
}

uint32_t vdrv_pci_read(struct vdrv *d, unsigned offset, unsigned size)
{
	pci_select(d, offset);
	return (uint32_t)fake_guest_read(d->fp, DOORBELL_PIO, 0xcfc + (offset & 3), size);
}

void vdrv_pci_write(struct vdrv *d, unsigned offset, unsigned size, uint32_t value)
{
	pci_select(d, offset);
	fake_guest_write(d->fp, DOORBELL_PIO, 0xcfc + (offset & 3), size, value);
}

gpa_t vdrv_alloc(struct vdrv *d, uint64_t bytes, uint64_t align)
{
	const gpa_t gpa = align_up(d->heap, align);

	d->heap = gpa + bytes;
	fake_mem(d->fp, gpa, bytes);
	return gpa;
}

/* ---- finding the device ---- */

void vdrv_init_mmio(struct vdrv *d, struct fake_platform *fp, gpa_t mmio, unsigned gsi, gpa_t heap)
{
	memset(d, 0, sizeof(*d));
	d->fp = fp;
	d->kind = VDRV_MMIO;
	d->mmio = mmio;
	d->gsi = gsi;
	d->heap = heap;
}

static gpa_t bar_address(struct vdrv *d, unsigned bar)
{
	const unsigned at = 0x10 + 4 * bar;
	const uint32_t low = vdrv_pci_read(d, at, 4);
	gpa_t gpa = low & ~UINT32_C(15);

	if ((low & 6) == 4)
		gpa |= (gpa_t)vdrv_pci_read(d, at + 4, 4) << 32;
	return gpa;
}

static uint32_t msi_data(const struct vdrv *d, unsigned vector)
{
	return 0x4000 + d->slot * 64 + vector;
}

static void msix_on(struct vdrv *d, unsigned cap)
{
	const uint16_t control = (uint16_t)vdrv_pci_read(d, cap + 2, 2);
	const uint32_t where = vdrv_pci_read(d, cap + 4, 4);
	const gpa_t table = bar_address(d, where & 7) + (where & ~7u);

	d->vectors = (control & 0x7ffu) + 1;
	for (unsigned i = 0; i < d->vectors; i++) {
		wr(d, table + 16 * i, 4, 0xfee00000);
		wr(d, table + 16 * i + 4, 4, 0);
		wr(d, table + 16 * i + 8, 4, msi_data(d, i));
		wr(d, table + 16 * i + 12, 4, 0);
	}
	vdrv_pci_write(d, cap + 2, 2, control | 0x8000u);
}

static void vendor_cap(struct vdrv *d, unsigned cap)
{
	const unsigned bar = vdrv_pci_read(d, cap + 4, 1);
	const gpa_t at = bar_address(d, bar) + vdrv_pci_read(d, cap + 8, 4);

	switch (vdrv_pci_read(d, cap + 3, 1)) {
	case 1:
		d->common = at;
		break;
	case 2:
		d->notify = at;
		d->notify_multiplier = vdrv_pci_read(d, cap + 16, 4);
		break;
	case 3:
		d->isr = at;
		break;
	case 4:
		d->device = at;
		break;
	case 5:
		d->window = (uint8_t)cap;
		break;
	default:
		break;
	}
}

bool vdrv_init_pci(struct vdrv *d, struct fake_platform *fp, unsigned slot, gpa_t heap)
{
	memset(d, 0, sizeof(*d));
	d->fp = fp;
	d->kind = VDRV_PCI;
	d->slot = slot;
	d->heap = heap;
	if (vdrv_pci_read(d, 0, 2) != 0x1af4)
		return false;
	vdrv_pci_write(d, 4, 2, 6); /* memory, bus master */
	for (unsigned cap = vdrv_pci_read(d, 0x34, 1); cap; cap = vdrv_pci_read(d, cap + 1, 1)) {
		switch (vdrv_pci_read(d, cap, 1)) {
		case 0x09:
			vendor_cap(d, cap);
			break;
		case 0x11:
			msix_on(d, cap);
			break;
		default:
			break;
		}
	}
	return d->common && d->notify && d->isr && d->window;
}

/* ---- registers ---- */

uint8_t vdrv_status(struct vdrv *d)
{
	return d->kind == VDRV_MMIO ? (uint8_t)rd(d, d->mmio + 0x70, 4)
				    : (uint8_t)rd(d, d->common + 0x14, 1);
}

void vdrv_set_status(struct vdrv *d, uint8_t status)
{
	if (d->kind == VDRV_MMIO)
		wr(d, d->mmio + 0x70, 4, status);
	else
		wr(d, d->common + 0x14, 1, status);
}

static uint32_t features_half(struct vdrv *d, unsigned half)
{
	if (d->kind == VDRV_MMIO) {
		wr(d, d->mmio + 0x14, 4, half);
		return (uint32_t)rd(d, d->mmio + 0x10, 4);
	}
	wr(d, d->common, 4, half);
	return (uint32_t)rd(d, d->common + 4, 4);
}

uint64_t vdrv_offered(struct vdrv *d)
{
	const uint64_t low = features_half(d, 0);

	return (uint64_t)features_half(d, 1) << 32 | low;
}

void vdrv_accept(struct vdrv *d, uint64_t features)
{
	for (unsigned half = 0; half < 2; half++) {
		const uint32_t v = (uint32_t)(features >> (32 * half));

		if (d->kind == VDRV_MMIO) {
			wr(d, d->mmio + 0x24, 4, half);
			wr(d, d->mmio + 0x20, 4, v);
		} else {
			wr(d, d->common + 8, 4, half);
			wr(d, d->common + 12, 4, v);
		}
	}
}

uint32_t vdrv_id(struct vdrv *d)
{
	return d->kind == VDRV_MMIO ? (uint32_t)rd(d, d->mmio + 8, 4)
				    : vdrv_pci_read(d, 2, 2) - 0x1040;
}

uint32_t vdrv_isr(struct vdrv *d)
{
	uint32_t isr;

	if (d->kind == VDRV_PCI)
		return (uint32_t)rd(d, d->isr, 1);
	isr = (uint32_t)rd(d, d->mmio + 0x60, 4);
	wr(d, d->mmio + 0x64, 4, isr);
	return isr;
}

uint32_t vdrv_generation(struct vdrv *d)
{
	return d->kind == VDRV_MMIO ? (uint32_t)rd(d, d->mmio + 0xfc, 4)
				    : (uint32_t)rd(d, d->common + 0x15, 1);
}

static void queue_select(struct vdrv *d, unsigned q)
{
	if (d->kind == VDRV_MMIO)
		wr(d, d->mmio + 0x30, 4, q);
	else
		wr(d, d->common + 0x16, 2, q);
}

unsigned vdrv_queue_max(struct vdrv *d, unsigned q)
{
	queue_select(d, q);
	return d->kind == VDRV_MMIO ? (unsigned)rd(d, d->mmio + 0x34, 4)
				    : (unsigned)rd(d, d->common + 0x18, 2);
}

static void write_addr(struct vdrv *d, gpa_t reg, gpa_t value)
{
	wr(d, reg, 4, value & UINT32_MAX);
	wr(d, reg + 4, 4, value >> 32);
}

void vdrv_queue_set(struct vdrv *d, unsigned q, uint32_t size, gpa_t desc, gpa_t avail, gpa_t used)
{
	queue_select(d, q);
	if (d->kind == VDRV_MMIO) {
		wr(d, d->mmio + 0x38, 4, size);
		write_addr(d, d->mmio + 0x80, desc);
		write_addr(d, d->mmio + 0x90, avail);
		write_addr(d, d->mmio + 0xa0, used);
	} else {
		wr(d, d->common + 0x18, 2, size);
		write_addr(d, d->common + 0x20, desc);
		write_addr(d, d->common + 0x28, avail);
		write_addr(d, d->common + 0x30, used);
	}
}

void vdrv_queue_enable(struct vdrv *d, unsigned q)
{
	queue_select(d, q);
	if (d->kind == VDRV_MMIO)
		wr(d, d->mmio + 0x44, 4, 1);
	else
		wr(d, d->common + 0x1c, 2, 1);
}

bool vdrv_queue_enabled(struct vdrv *d, unsigned q)
{
	queue_select(d, q);
	return d->kind == VDRV_MMIO ? rd(d, d->mmio + 0x44, 4) : rd(d, d->common + 0x1c, 2);
}

uint64_t vdrv_config(struct vdrv *d, unsigned offset, unsigned size)
{
	return rd(d, (d->kind == VDRV_MMIO ? d->mmio + 0x100 : d->device) + offset, size);
}

void vdrv_set_config(struct vdrv *d, unsigned offset, unsigned size, uint64_t value)
{
	wr(d, (d->kind == VDRV_MMIO ? d->mmio + 0x100 : d->device) + offset, size, value);
}

uint16_t vdrv_queue_vector(struct vdrv *d, unsigned q, uint16_t vector)
{
	queue_select(d, q);
	wr(d, d->common + 0x1a, 2, vector);
	return (uint16_t)rd(d, d->common + 0x1a, 2);
}

uint16_t vdrv_config_vector(struct vdrv *d, uint16_t vector)
{
	wr(d, d->common + 0x10, 2, vector);
	return (uint16_t)rd(d, d->common + 0x10, 2);
}

/* ---- life ---- */

void vdrv_reset(struct vdrv *d)
{
	vdrv_set_status(d, 0);
}

/* False: no such queue, or no such device any more. */
static bool queue_start(struct vdrv *d, unsigned q, uint16_t size)
{
	struct vring *r = &d->rings[q];

	if (!size)
		size = (uint16_t)vdrv_queue_max(d, q);
	if (!size || size > VRING_MAX)
		return false;
	d->heap = vring_init(r, d->fp, d->heap, size, d->features);
	d->kicked_idx[q] = 0;
	vring_irq_off(r);
	vdrv_queue_set(d, q, size, r->desc, r->avail, r->used);
	if (d->kind == VDRV_PCI)
		vdrv_queue_vector(d, q, (uint16_t)(q + 1));
	vdrv_queue_enable(d, q);
	return true;
}

bool vdrv_start(struct vdrv *d, uint64_t wanted, unsigned nqueues, uint16_t size)
{
	uint8_t status = 1;

	vdrv_reset(d);
	vdrv_set_status(d, status);
	vdrv_set_status(d, status |= 2);
	d->features = vdrv_offered(d) & (wanted | VDRV_V1);
	vdrv_accept(d, d->features);
	vdrv_set_status(d, status |= 8);
	if (!(vdrv_status(d) & 8))
		return false;
	if (d->kind == VDRV_PCI)
		vdrv_config_vector(d, 0);
	d->nqueues = nqueues;
	for (unsigned q = 0; q < nqueues; q++) {
		if (!queue_start(d, q, size))
			return false;
	}
	vdrv_set_status(d, status | 4);
	return true;
}

void vdrv_notify(struct vdrv *d, unsigned q)
{
	const gpa_t addr =
	    d->kind == VDRV_MMIO ? d->mmio + 0x50 : d->notify + (gpa_t)q * d->notify_multiplier;
	const unsigned size = d->kind == VDRV_MMIO ? 4 : 2;

	if (fake_doorbell_ring(d->fp, DOORBELL_MMIO, addr, size, q)) {
		d->doorbells++;
	} else {
		d->exits++;
		bus_write(d->fp->plat.mmio, addr, size, q);
	}
}

bool vdrv_kick(struct vdrv *d, unsigned q)
{
	struct vring *r = &d->rings[q];
	const uint16_t old = d->kicked_idx[q];

	vring_publish(r);
	d->kicked_idx[q] = r->published_idx;
	if (!vring_wants_kick(r, old))
		return false;
	vdrv_notify(d, q);
	return true;
}

static int vector_number(struct vdrv *d, unsigned vector)
{
	return fake_msi_find(d->fp, msi_data(d, vector));
}

static uint64_t taken(struct vdrv *d, unsigned vector)
{
	int n;

	if (d->kind == VDRV_MMIO)
		return fake_irq_taken(d->fp, d->gsi);
	n = vector_number(d, vector);
	return n < 0 ? 0 : fake_msi_taken(d->fp, (unsigned)n);
}

uint64_t vdrv_queue_irqs(struct vdrv *d, unsigned q)
{
	return taken(d, q + 1);
}

uint64_t vdrv_config_irqs(struct vdrv *d)
{
	return taken(d, 0);
}

static bool wait_vector(struct vdrv *d, unsigned vector)
{
	struct pollfd p = {.fd = -1, .events = POLLIN};
	int n;

	if (d->kind == VDRV_MMIO) {
		p.fd = d->fp->gsi_fd[d->gsi];
	} else {
		n = vector_number(d, vector);
		if (n >= 0)
			p.fd = d->fp->msi[n].fd;
	}
	if (poll(&p, 1, VDRV_WAIT_MS) != 1)
		return false;
	taken(d, vector);
	if (d->kind == VDRV_MMIO)
		vdrv_isr(d);
	return true;
}

bool vdrv_wait(struct vdrv *d, unsigned q, unsigned n)
{
	struct vring *r = &d->rings[q];
	uint16_t have;

	for (;;) {
		have = vring_used_waiting(r);
		if (have >= n)
			return true;
		vring_irq_on(r, (uint16_t)n);
		if (vring_used_waiting(r) < n && !wait_vector(d, q + 1))
			return false;
		vring_irq_off(r);
	}
}

bool vdrv_wait_config(struct vdrv *d)
{
	return wait_vector(d, 0);
}
