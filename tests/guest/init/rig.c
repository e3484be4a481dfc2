/*
 * A virtqueue that a test fills by hand. See rig.h.
 */
#include "rig.h"

#include "guest.h"

#include <string.h>

#define NO_IRQ 1 /* VIRTQ_AVAIL_F_NO_INTERRUPT */

const char *outcome_name(enum outcome outcome)
{
	switch (outcome) {
	case OK:
		return "ok";
	case IOERR:
		return "ioerr";
	case UNSUPP:
		return "unsupp";
	case RETURNED:
		return "returned";
	case BROKEN:
		return "needs-reset";
	case SILENT:
		return "nothing";
	}
	return "?";
}

volatile struct vring_desc *rig_desc(struct rig *rig, unsigned i)
{
	return (volatile struct vring_desc *)(rig->ring + i * sizeof(struct vring_desc));
}

volatile uint16_t *rig_avail(struct rig *rig, unsigned i)
{
	return (volatile uint16_t *)(rig->ring + AVAIL_AT) + i;
}

uint16_t rig_used_idx(struct rig *rig)
{
	return ((volatile uint16_t *)(rig->ring + USED_AT))[1];
}

void set_desc(volatile struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags,
	      uint16_t next)
{
	d->addr = addr;
	d->len = len;
	d->flags = flags;
	d->next = next;
}

void set_header(struct rig *rig, uint32_t type, uint64_t sector)
{
	memset(rig->head, 0, PAGE);
	memcpy(rig->head, &type, sizeof(type));
	memcpy(rig->head + 8, &sector, sizeof(sector));
	rig->head[STATUS_OFFSET] = STATUS_UNSET;
}

void set_request(struct rig *rig, volatile struct vring_desc *d, uint32_t type, uint64_t sector,
		 uint32_t len)
{
	set_header(rig, type, sector);
	set_desc(&d[0], rig->head_gpa, 16, DESC_NEXT, 1);
	set_desc(&d[1], rig->data_gpa[0], len, DESC_NEXT | (type == REQ_WRITE ? 0 : DESC_WRITE), 2);
	set_desc(&d[2], rig->head_gpa + STATUS_OFFSET, 1, DESC_WRITE, 0);
}

void rig_submit(struct rig *rig, uint16_t head)
{
	*rig_avail(rig, 2 + rig->avail_idx % QSIZE) = head;
	rig->avail_idx++;
	__sync_synchronize();
	*rig_avail(rig, 1) = rig->avail_idx;
	__sync_synchronize();
	vdev_kick(&rig->dev, 0);
}

static void clear_ring(struct rig *rig)
{
	memset(rig->ring, 0, PAGE);
	*rig_avail(rig, 0) = NO_IRQ;
	rig->avail_idx = 0;
}

int rig_start(struct rig *rig)
{
	if (vdev_reset(&rig->dev))
		return -1;
	clear_ring(rig);
	if (vdev_negotiate(&rig->dev,
			   vdev_features(&rig->dev) & (FEATURE_VERSION_1 | FEATURE_INDIRECT)))
		return fail("the device refuses its own features");
	vdev_queue(&rig->dev, 0, QSIZE, rig->ring_gpa, rig->ring_gpa + AVAIL_AT,
		   rig->ring_gpa + USED_AT);
	vdev_set_status(&rig->dev,
			STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	return 0;
}

enum outcome rig_await(struct rig *rig)
{
	uint64_t deadline = now_ms() + (rig->silent_ok ? 200 : VDEV_DEADLINE_MS);

	while (rig_used_idx(rig) == 0) {
		if (vdev_status(&rig->dev) & STATUS_NEEDS_RESET)
			return BROKEN;
		if (now_ms() > deadline)
			return SILENT;
	}
	__sync_synchronize();
	switch (rig->head[STATUS_OFFSET]) {
	case STATUS_OK:
		return OK;
	case STATUS_IOERR:
		return IOERR;
	case STATUS_UNSUPP:
		return UNSUPP;
	default:
		return RETURNED;
	}
}

int rig_new(struct rig *rig, const char *what)
{
	memset(rig, 0, sizeof(*rig));
	rig->random = 1;
	if (vdev_open(&rig->dev, what))
		return -1;
	rig->ring = dma_page(&rig->ring_gpa);
	rig->head = dma_page(&rig->head_gpa);
	rig->table = dma_page(&rig->table_gpa);
	if (!rig->ring || !rig->head || !rig->table)
		return -1;
	for (unsigned i = 0; i < PAGES; i++) {
		rig->data[i] = dma_page(&rig->data_gpa[i]);
		if (!rig->data[i])
			return -1;
	}
	if (strcmp(what, "rng"))
		rig->capacity = vdev_config64(&rig->dev, 0);
	return 0;
}

int rig_sane(struct rig *rig, const char *after)
{
	enum outcome outcome;

	rig->silent_ok = false;
	if (rig_start(rig))
		return fail("after %s", after);
	if (rig->capacity) {
		case_plain(rig);
	} else {
		rig->head[STATUS_OFFSET] = STATUS_OK;
		set_desc(rig_desc(rig, 0), rig->data_gpa[0], 64, DESC_WRITE, 0);
		rig_submit(rig, 0);
	}
	outcome = rig_await(rig);
	return outcome == OK
		   ? 0
		   : fail("after %s: a proper request gives %s", after, outcome_name(outcome));
}
