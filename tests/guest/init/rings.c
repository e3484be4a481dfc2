/*
 * Drivers that do not behave, on a device driven from user space.
 *
 *   rings:vdb[,CASE]
 *       the cases of ring_cases.c one after another; after each the device must reset, and must
 *       then serve a proper request
 *   garbage:vdb,ROUNDS,SEED
 *       rings full of nonsense (vdb or rng)
 *   inflight:vdb,ROUNDS,SEED
 *       resets while requests are in flight: nothing may be written afterwards
 */
#include "guest.h"
#include "rig.h"

#include <string.h>

/* A set of features that was not offered must not be accepted. */
static int unknown_features(struct rig *rig)
{
	vdev_reset(&rig->dev);
	if (!vdev_negotiate(&rig->dev, UINT64_MAX))
		return fail("the device accepts features that it did not offer");
	vdev_reset(&rig->dev);
	if (!vdev_negotiate(&rig->dev, 0))
		return fail("the device accepts a driver without VERSION_1");
	return 0;
}

int cmd_rings(const struct args *args)
{
	static struct rig rig;
	int res;

	if (rig_new(&rig, args->n ? args->v[0] : "vdb"))
		return -1;
	res = unknown_features(&rig);
	for (const struct ring_case *c = ring_cases; c->name; c++) {
		enum outcome outcome;

		if (args->n > 1 && strcmp(args->v[1], c->name))
			continue;
		if (rig_start(&rig))
			return -1;
		rig.silent_ok = c->allowed & SILENT;
		c->run(&rig);
		outcome = rig_await(&rig);
		say("case %s %s", c->name, outcome_name(outcome));
		if (!(c->allowed & outcome))
			res = fail("case %s gives %s", c->name, outcome_name(outcome));
		if (rig_sane(&rig, c->name))
			return -1;
	}
	if (vdev_close(&rig.dev))
		return -1;
	say("rings done");
	return res;
}

/* An address that is one of our pages, or in no memory. */
static uint64_t garbage_addr(struct rig *rig)
{
	uint64_t r = random_next(&rig->random);

	switch (r >> 61) {
	case 0:
		return UINT64_MAX - (r & 0xffff);
	case 1:
		return 0xe0000000 + (r & 0xffffff);
	case 2:
		return (UINT64_C(1) << 46) + (r & 0xffffffff);
	case 3:
		return rig->ring_gpa;
	case 4:
		return rig->table_gpa;
	default:
		return rig->data_gpa[r % PAGES];
	}
}

/* Within the page where the address is ours; of any size elsewhere. */
static void garbage_desc(struct rig *rig, volatile struct vring_desc *d)
{
	uint64_t r = random_next(&rig->random), addr = garbage_addr(rig);
	bool ours = addr % PAGE == 0 && addr != 0xe0000000 && addr < UINT64_C(1) << 46;
	uint32_t offset = ours ? (uint32_t)(r >> 32) % PAGE : 0;
	uint32_t len = ours ? (uint32_t)r % (PAGE - offset + 1) : (uint32_t)r;

	if (ours && r % 4 == 0) {
		offset = 0;
		len = r % 8 ? 16 : SECTOR;
	}
	set_desc(d, addr + offset, len, (r >> 50) & 7,
		 r % 16 ? (uint16_t)(r >> 40) % QSIZE : (uint16_t)(r >> 40));
}

int cmd_garbage(const struct args *args)
{
	uint64_t rounds = arg_number(args, 1, 100);
	static struct rig rig;

	if (rig_new(&rig, args->n ? args->v[0] : "vdb"))
		return -1;
	rig.random = arg_number(args, 2, 1);
	for (uint64_t round = 0; round < rounds; round++) {
		if (rig_start(&rig))
			return -1;
		set_header(&rig, (uint32_t)(random_next(&rig.random) % 16),
			   random_next(&rig.random) % 64);
		for (unsigned i = 0; i < QSIZE; i++)
			garbage_desc(&rig, rig_desc(&rig, i));
		for (unsigned i = 0; i < PAGE / sizeof(struct vring_desc); i++)
			garbage_desc(&rig, (volatile struct vring_desc *)rig.table + i);
		for (unsigned i = 0; i < 1 + random_next(&rig.random) % 8; i++)
			rig_submit(&rig, (uint16_t)(random_next(&rig.random) % (QSIZE + 1)));
		/* change what the device may be reading at this moment */
		for (unsigned i = 0; i < 32; i++) {
			garbage_desc(&rig,
				     rig_desc(&rig, (unsigned)random_next(&rig.random) % QSIZE));
			vdev_kick(&rig.dev, 0);
		}
	}
	if (rig_sane(&rig, "garbage") || vdev_close(&rig.dev))
		return -1;
	say("garbage done %llu", (unsigned long long)rounds);
	return 0;
}

/* As many reads as the queue holds, each of the whole buffer. */
static void submit_many(struct rig *rig)
{
	volatile struct vring_desc *t = (volatile struct vring_desc *)rig->table;

	set_header(rig, REQ_READ, 0);
	set_desc(&t[0], rig->head_gpa, 16, DESC_NEXT, 1);
	for (uint16_t i = 1; i < PAGES; i++)
		set_desc(&t[i], rig->data_gpa[i], PAGE, DESC_NEXT | DESC_WRITE, i + 1);
	set_desc(&t[PAGES], rig->head_gpa + STATUS_OFFSET, 1, DESC_WRITE, 0);
	for (uint16_t i = 0; i < QSIZE; i++) {
		set_desc(rig_desc(rig, i), rig->table_gpa, (PAGES + 1) * sizeof(*t), DESC_INDIRECT,
			 0);
		*rig_avail(rig, 2u + i) = i;
	}
	__sync_synchronize();
	rig->avail_idx = QSIZE;
	*rig_avail(rig, 1) = QSIZE;
	__sync_synchronize();
	vdev_kick(&rig->dev, 0);
}

int cmd_inflight(const struct args *args)
{
	uint64_t rounds = arg_number(args, 1, 20), cut = 0;
	static struct rig rig;

	if (rig_new(&rig, args->n ? args->v[0] : "vdb"))
		return -1;
	rig.random = arg_number(args, 2, 1);
	for (uint64_t round = 0; round < rounds; round++) {
		uint64_t delay = random_next(&rig.random) % 200000;

		if (rig_start(&rig))
			return -1;
		submit_many(&rig);
		for (volatile uint64_t i = 0; i < delay; i++)
			;
		if (vdev_reset(&rig.dev))
			return -1;
		cut += rig_used_idx(&rig) < QSIZE;
		for (unsigned i = 1; i < PAGES; i++)
			memset(rig.data[i], 0xa5, PAGE);
		/* a request that is served now comes after whatever was left of the old ones */
		if (rig_sane(&rig, "a reset in flight"))
			return -1;
		for (unsigned i = 1; i < PAGES; i++)
			for (unsigned at = 0; at < PAGE; at++)
				if (rig.data[i][at] != 0xa5)
					return fail("round %llu: written after the reset",
						    (unsigned long long)round);
	}
	if (vdev_close(&rig.dev))
		return -1;
	say("inflight done %llu, %llu cut short", (unsigned long long)rounds,
	    (unsigned long long)cut);
	return 0;
}
