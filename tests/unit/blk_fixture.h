/* virtio-blk on an image that records, on a running loop: what the tests of requests share. */
#ifndef TESTS_UNIT_BLK_FIXTURE_H
#define TESTS_UNIT_BLK_FIXTURE_H

#include "base/checked.h"
#include "tests/unit/blk_rig.h"
#include "tests/unit/fake_image.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define DISK_BYTES   (4 * MIB)
#define DISK_SECTORS (DISK_BYTES / 512)
#define SERIAL	     "lodge-0123456789abcd" /* 20 characters: as long as it may be */
#define DATA	     RIG_DATA_GPA
#define DEFAULT	     (VDRV_EVENT | VDRV_INDIRECT | F_FLUSH | F_DISCARD | F_WRITE_ZEROES)
#define QUEUES	     4

static const struct image_info plain_disk = {
    .logical_block_bytes = 512,
    .physical_block_bytes = 4096,
    .optimal_io_bytes = 65536,
    .discard_granularity_bytes = 4096,
    .can_write_zeroes = true,
};

struct fixture {
	struct blk_rig rig;
	struct fake_image fi;
	enum vdrv_kind kind;
	struct fake_image_op log[FAKE_IMAGE_LOG];
};

static inline void plug(struct fixture *f, const struct image_info *info,
			const struct virtio_blk_config *config)
{
	fake_image_init(&f->fi, DISK_BYTES, info);
	rig_init(&f->rig, f->kind, LOOP_AUTO, &f->fi.img, config);
	loop_thread_start(&f->rig.lt);
}

static inline void unplug(struct fixture *f)
{
	rig_fini(&f->rig);
	fake_image_fini(&f->fi);
}

static const struct virtio_blk_config plain_config = {.serial = SERIAL, .queues = QUEUES};

static inline void replug(struct fixture *f, const struct image_info *info,
			  const struct virtio_blk_config *config)
{
	unplug(f);
	plug(f, info, config);
}

static inline int setup(void **state, enum vdrv_kind kind)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.kind = kind;
	plug(&f, &plain_disk, &plain_config);
	rig_start(&f.rig, DEFAULT, QUEUES);
	*state = &f;
	return 0;
}

static inline int setup_mmio(void **state)
{
	return setup(state, VDRV_MMIO);
}

static inline int setup_pci(void **state)
{
	return setup(state, VDRV_PCI);
}

static inline int teardown(void **state)
{
	unplug(*state);
	return 0;
}

static inline uint8_t *mem(struct fixture *f, gpa_t gpa, uint64_t len)
{
	return fake_mem(&f->rig.fp, gpa, len);
}

static inline void fill(uint8_t *p, size_t len, uint8_t seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

/* What reached the image since the last call. */
static inline unsigned submitted(struct fixture *f)
{
	return fake_image_take_log(&f->fi, f->log, FAKE_IMAGE_LOG);
}

static inline void assert_alive(struct fixture *f)
{
	assert_int_equal(vdrv_status(&f->rig.d), STATUS_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, DATA, 512), S_OK);
}

#define BOTH(f)                                                   \
	cmocka_unit_test_setup_teardown(f, setup_mmio, teardown), \
	    cmocka_unit_test_setup_teardown(f, setup_pci, teardown)

#endif
