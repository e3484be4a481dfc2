/*
 * Requests that break the rules of virtqueues (virtio 1.2 §2.7) or of virtio-blk (§5.2.6), and some
 * that are only unusual.
 *
 * Addresses given to the device as writable are pages of ours or no memory at all: what a device
 * writes is its guest's own business, and the guest is to live.
 */
#include "rig.h"

#include <string.h>

void case_plain(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	rig_submit(rig, 0);
}

static void case_loop(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	set_desc(rig_desc(rig, 2), rig->data_gpa[1], SECTOR, DESC_NEXT | DESC_WRITE, 1);
	rig_submit(rig, 0);
}

static void case_self_loop(struct rig *rig)
{
	set_desc(rig_desc(rig, 0), rig->head_gpa, 16, DESC_NEXT, 0);
	rig_submit(rig, 0);
}

static void case_head_range(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	rig_submit(rig, QSIZE);
}

static void case_head_far(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	rig_submit(rig, 0xffff);
}

static void case_avail_jump(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	rig->avail_idx += 1000;
	rig_submit(rig, 0);
}

static void case_next_range(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	set_desc(rig_desc(rig, 1), rig->data_gpa[0], SECTOR, DESC_NEXT | DESC_WRITE, 0x7fff);
	rig_submit(rig, 0);
}

static void data_at(struct rig *rig, uint64_t addr, uint32_t len)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	set_desc(rig_desc(rig, 1), addr, len, DESC_NEXT | DESC_WRITE, 2);
	rig_submit(rig, 0);
}

static void case_addr_wraps(struct rig *rig)
{
	data_at(rig, UINT64_MAX - PAGE + 1, 2 * PAGE);
}

static void case_addr_hole(struct rig *rig)
{
	data_at(rig, 0xe0000000, PAGE);
}

static void case_addr_null_len(struct rig *rig)
{
	data_at(rig, 0, 0);
}

static void case_addr_huge_len(struct rig *rig)
{
	data_at(rig, UINT64_C(1) << 46, 0xffffffff);
}

static void case_write_before_read(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	set_desc(rig_desc(rig, 0), rig->head_gpa + STATUS_OFFSET, 1, DESC_NEXT | DESC_WRITE, 1);
	set_desc(rig_desc(rig, 2), rig->head_gpa, 16, 0, 0);
	rig_submit(rig, 0);
}

static void case_only_header(struct rig *rig)
{
	set_header(rig, REQ_FLUSH, 0);
	set_desc(rig_desc(rig, 0), rig->head_gpa, 16, 0, 0);
	rig_submit(rig, 0);
}

static void case_only_status(struct rig *rig)
{
	set_header(rig, REQ_FLUSH, 0);
	set_desc(rig_desc(rig, 0), rig->head_gpa + STATUS_OFFSET, 1, DESC_WRITE, 0);
	rig_submit(rig, 0);
}

static void case_status_read_only(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_WRITE, 0, SECTOR);
	set_desc(rig_desc(rig, 2), rig->head_gpa + STATUS_OFFSET, 1, 0, 0);
	rig_submit(rig, 0);
}

static void case_header_short(struct rig *rig)
{
	set_header(rig, REQ_READ, 0);
	set_desc(rig_desc(rig, 0), rig->head_gpa, 8, DESC_NEXT, 1);
	set_desc(rig_desc(rig, 1), rig->head_gpa + STATUS_OFFSET, 1, DESC_WRITE, 0);
	rig_submit(rig, 0);
}

/* §2.7.4.1: a device makes no assumption about how a request is cut into descriptors. */
static void case_cut_oddly(struct rig *rig)
{
	set_header(rig, REQ_READ, 0);
	set_desc(rig_desc(rig, 0), rig->head_gpa, 1, DESC_NEXT, 9);
	set_desc(rig_desc(rig, 9), rig->head_gpa + 1, 15, DESC_NEXT, 3);
	set_desc(rig_desc(rig, 3), rig->data_gpa[0], 100, DESC_NEXT | DESC_WRITE, 60);
	set_desc(rig_desc(rig, 60), rig->data_gpa[0] + 100, SECTOR - 100, DESC_NEXT | DESC_WRITE,
		 2);
	set_desc(rig_desc(rig, 2), rig->head_gpa + STATUS_OFFSET, 1, DESC_WRITE, 0);
	rig_submit(rig, 0);
}

static void case_long_chain(struct rig *rig)
{
	set_header(rig, REQ_READ, 0);
	set_desc(rig_desc(rig, 0), rig->head_gpa, 16, DESC_NEXT, 1);
	for (uint16_t i = 1; i < QSIZE - 1; i++)
		set_desc(rig_desc(rig, i), rig->data_gpa[i % PAGES], SECTOR, DESC_NEXT | DESC_WRITE,
			 i + 1);
	set_desc(rig_desc(rig, QSIZE - 1), rig->head_gpa + STATUS_OFFSET, 1, DESC_WRITE, 0);
	rig_submit(rig, 0);
}

static void case_beyond_end(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, rig->capacity, SECTOR);
	rig_submit(rig, 0);
}

static void case_across_end(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_WRITE, rig->capacity - 1, 2 * SECTOR);
	rig_submit(rig, 0);
}

static void case_sector_overflow(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, UINT64_MAX, SECTOR);
	rig_submit(rig, 0);
}

static void case_sector_times_512(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_WRITE, (UINT64_MAX >> 9) + 1, SECTOR);
	rig_submit(rig, 0);
}

static void case_unknown_type(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), 77, 0, SECTOR);
	rig_submit(rig, 0);
}

static void case_odd_length(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, 100);
	rig_submit(rig, 0);
}

static void case_get_id(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_GET_ID, 0, 20);
	rig_submit(rig, 0);
}

static void case_get_id_short(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_GET_ID, 0, 1);
	rig_submit(rig, 0);
}

static void case_write_into_writable(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_WRITE, 0, SECTOR);
	set_desc(rig_desc(rig, 1), rig->data_gpa[0], SECTOR, DESC_NEXT | DESC_WRITE, 2);
	rig_submit(rig, 0);
}

static void case_flush_with_data(struct rig *rig)
{
	set_request(rig, rig_desc(rig, 0), REQ_FLUSH, 5, SECTOR);
	rig_submit(rig, 0);
}

/* A discard or write-zeroes request: `n` segments of sector, count, flags in data page 0. */
static void ranges(struct rig *rig, uint32_t type, uint64_t sector, uint32_t count, uint32_t flags,
		   uint32_t bytes)
{
	for (unsigned at = 0; at < PAGE; at += 16) {
		memcpy(rig->data[0] + at, &sector, 8);
		memcpy(rig->data[0] + at + 8, &count, 4);
		memcpy(rig->data[0] + at + 12, &flags, 4);
	}
	set_request(rig, rig_desc(rig, 0), REQ_WRITE, 0, bytes);
	set_header(rig, type, 0);
	rig_submit(rig, 0);
}

static void case_discard_beyond(struct rig *rig)
{
	ranges(rig, REQ_DISCARD, rig->capacity - 1, 2, 0, 16);
}

static void case_discard_overflow(struct rig *rig)
{
	ranges(rig, REQ_DISCARD, UINT64_MAX - 1, 0xffffffff, 0, 16);
}

static void case_discard_flags(struct rig *rig)
{
	ranges(rig, REQ_DISCARD, 0, 1, 0xfffffffe, 16);
}

static void case_discard_many(struct rig *rig)
{
	ranges(rig, REQ_DISCARD, 0, 1, 0, PAGE);
}

static void case_discard_cut(struct rig *rig)
{
	ranges(rig, REQ_DISCARD, 0, 1, 0, 15);
}

static void case_zeroes_beyond(struct rig *rig)
{
	ranges(rig, REQ_ZEROES, rig->capacity, 1, 0, 16);
}

static void case_zeroes_flags(struct rig *rig)
{
	ranges(rig, REQ_ZEROES, 0, 1, 0x80000000, 16);
}

static void indirect(struct rig *rig, uint64_t addr, uint32_t len, uint16_t flags)
{
	memset(rig->table, 0, PAGE);
	set_request(rig, (volatile struct vring_desc *)rig->table, REQ_READ, 0, SECTOR);
	set_desc(rig_desc(rig, 0), addr, len, DESC_INDIRECT | flags, 1);
	rig_submit(rig, 0);
}

static void case_indirect(struct rig *rig)
{
	indirect(rig, rig->table_gpa, 48, 0);
}

static void case_indirect_empty(struct rig *rig)
{
	indirect(rig, rig->table_gpa, 0, 0);
}

static void case_indirect_cut(struct rig *rig)
{
	indirect(rig, rig->table_gpa, 47, 0);
}

static void case_indirect_short(struct rig *rig)
{
	indirect(rig, rig->table_gpa, 16, 0); /* its first entry points behind it */
}

static void case_indirect_huge(struct rig *rig)
{
	indirect(rig, rig->table_gpa, 0xfffffff0, 0);
}

static void case_indirect_nowhere(struct rig *rig)
{
	indirect(rig, UINT64_MAX - 15, 48, 0);
}

static void case_indirect_next(struct rig *rig)
{
	set_desc(rig_desc(rig, 1), rig->data_gpa[0], SECTOR, DESC_WRITE, 0);
	indirect(rig, rig->table_gpa, 48, DESC_NEXT);
}

static void case_indirect_nested(struct rig *rig)
{
	volatile struct vring_desc *t = (volatile struct vring_desc *)rig->table;

	memset(rig->table, 0, PAGE);
	set_header(rig, REQ_READ, 0);
	set_desc(&t[0], rig->table_gpa, 16, DESC_INDIRECT, 0);
	set_desc(rig_desc(rig, 0), rig->table_gpa, 16, DESC_INDIRECT, 0);
	rig_submit(rig, 0);
}

static void case_indirect_loop(struct rig *rig)
{
	volatile struct vring_desc *t = (volatile struct vring_desc *)rig->table;

	memset(rig->table, 0, PAGE);
	set_header(rig, REQ_READ, 0);
	set_desc(&t[0], rig->head_gpa, 16, DESC_NEXT, 1);
	set_desc(&t[1], rig->data_gpa[0], SECTOR, DESC_NEXT | DESC_WRITE, 1);
	set_desc(rig_desc(rig, 0), rig->table_gpa, PAGE, DESC_INDIRECT, 0);
	rig_submit(rig, 0);
}

/* The device overwrites its own rings with what it reads from the disk. */
static void case_data_is_ring(struct rig *rig)
{
	data_at(rig, rig->ring_gpa, PAGE);
}

static void case_data_is_header(struct rig *rig)
{
	data_at(rig, rig->head_gpa, SECTOR);
}

/* Registers of an enabled queue are frozen (threats: a queue changed after activation). */
static void case_changed_when_active(struct rig *rig)
{
	vdev_queue(&rig->dev, 0, 0x8000, UINT64_MAX & ~0xfffull, 0xfffff000, 0xdeadbeef000);
	case_plain(rig);
}

static void restart_with(struct rig *rig, uint16_t size, uint64_t ring_desc, uint64_t ring_avail,
			 uint64_t ring_used)
{
	vdev_reset(&rig->dev);
	vdev_negotiate(&rig->dev, FEATURE_VERSION_1);
	vdev_queue(&rig->dev, 0, size, ring_desc, ring_avail, ring_used);
	vdev_set_status(&rig->dev,
			STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	set_request(rig, rig_desc(rig, 0), REQ_READ, 0, SECTOR);
	rig_submit(rig, 0);
}

static void case_ring_nowhere(struct rig *rig)
{
	restart_with(rig, QSIZE, UINT64_MAX & ~0xfffull, UINT64_MAX & ~0xfffull,
		     UINT64_MAX & ~0xfffull);
}

static void case_ring_in_hole(struct rig *rig)
{
	restart_with(rig, QSIZE, 0xe0000000, 0xe0001000, 0xe0002000);
}

static void case_ring_misaligned(struct rig *rig)
{
	restart_with(rig, QSIZE, rig->ring_gpa + 1, rig->ring_gpa + AVAIL_AT + 1,
		     rig->ring_gpa + USED_AT + 3);
}

static void case_ring_size_3(struct rig *rig)
{
	restart_with(rig, 3, rig->ring_gpa, rig->ring_gpa + AVAIL_AT, rig->ring_gpa + USED_AT);
}

static void case_ring_size_0(struct rig *rig)
{
	restart_with(rig, 0, rig->ring_gpa, rig->ring_gpa + AVAIL_AT, rig->ring_gpa + USED_AT);
}

static void case_ring_size_max(struct rig *rig)
{
	restart_with(rig, 0x8000, rig->ring_gpa, rig->ring_gpa + AVAIL_AT, rig->ring_gpa + USED_AT);
}

static void case_rings_are_one(struct rig *rig)
{
	restart_with(rig, QSIZE, rig->ring_gpa, rig->ring_gpa, rig->ring_gpa);
}

static void case_no_features_ok(struct rig *rig)
{
	vdev_reset(&rig->dev);
	vdev_queue(&rig->dev, 0, QSIZE, rig->ring_gpa, rig->ring_gpa + AVAIL_AT,
		   rig->ring_gpa + USED_AT);
	vdev_set_status(&rig->dev, STATUS_DRIVER_OK);
	case_plain(rig);
}

static void case_driver_ok_twice(struct rig *rig)
{
	vdev_set_status(&rig->dev, 0x0f);
	vdev_set_status(&rig->dev, 0x0f);
	vdev_set_status(&rig->dev, 0xff);
	case_plain(rig);
}

static void case_kick_nothing(struct rig *rig)
{
	for (unsigned queue = 0; queue < 64; queue++)
		vdev_kick(&rig->dev, queue);
	case_plain(rig);
}

const struct ring_case ring_cases[] = {
    {"plain", case_plain, OK},
    {"cut-oddly", case_cut_oddly, OK},
    {"long-chain", case_long_chain, OK},
    {"indirect", case_indirect, OK},
    {"get-id", case_get_id, OK},
    {"kick-nothing", case_kick_nothing, OK},
    {"changed-when-active", case_changed_when_active, OK},
    {"loop", case_loop, BROKEN},
    {"self-loop", case_self_loop, BROKEN},
    {"head-range", case_head_range, BROKEN},
    {"head-far", case_head_far, BROKEN},
    {"avail-jump", case_avail_jump, BROKEN},
    {"next-range", case_next_range, BROKEN},
    {"addr-wraps", case_addr_wraps, REFUSED},
    {"addr-hole", case_addr_hole, REFUSED},
    {"addr-null-len", case_addr_null_len, OK | REFUSED},
    {"addr-huge-len", case_addr_huge_len, REFUSED},
    {"write-before-read", case_write_before_read, REFUSED},
    {"only-header", case_only_header, REFUSED},
    {"only-status", case_only_status, REFUSED},
    {"status-read-only", case_status_read_only, REFUSED},
    {"header-short", case_header_short, REFUSED},
    {"beyond-end", case_beyond_end, IOERR},
    {"across-end", case_across_end, IOERR},
    {"sector-overflow", case_sector_overflow, IOERR},
    {"sector-times-512", case_sector_times_512, IOERR},
    {"unknown-type", case_unknown_type, UNSUPP},
    {"odd-length", case_odd_length, REFUSED},
    {"get-id-short", case_get_id_short, OK | REFUSED},
    {"write-into-writable", case_write_into_writable, OK | REFUSED},
    {"flush-with-data", case_flush_with_data, OK | REFUSED},
    {"discard-beyond", case_discard_beyond, REFUSED},
    {"discard-overflow", case_discard_overflow, REFUSED},
    {"discard-flags", case_discard_flags, REFUSED},
    {"discard-many", case_discard_many, OK | REFUSED},
    {"discard-cut", case_discard_cut, REFUSED},
    {"zeroes-beyond", case_zeroes_beyond, REFUSED},
    {"zeroes-flags", case_zeroes_flags, REFUSED},
    {"indirect-empty", case_indirect_empty, REFUSED},
    {"indirect-cut", case_indirect_cut, REFUSED},
    {"indirect-short", case_indirect_short, REFUSED},
    {"indirect-huge", case_indirect_huge, REFUSED},
    {"indirect-nowhere", case_indirect_nowhere, REFUSED},
    {"indirect-next", case_indirect_next, REFUSED},
    {"indirect-nested", case_indirect_nested, REFUSED},
    {"indirect-loop", case_indirect_loop, REFUSED},
    {"data-is-ring", case_data_is_ring, ALIVE},
    {"data-is-header", case_data_is_header, ALIVE},
    {"ring-nowhere", case_ring_nowhere, ALIVE & ~OK},
    {"ring-in-hole", case_ring_in_hole, ALIVE & ~OK},
    {"ring-misaligned", case_ring_misaligned, ALIVE},
    {"ring-size-3", case_ring_size_3, ALIVE},
    {"ring-size-0", case_ring_size_0, ALIVE},
    {"ring-size-max", case_ring_size_max, ALIVE},
    {"rings-are-one", case_rings_are_one, ALIVE},
    {"no-features-ok", case_no_features_ok, ALIVE},
    {"driver-ok-twice", case_driver_ok_twice, ALIVE},
    {NULL, NULL, 0},
};
