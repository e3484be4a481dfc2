/* virtio-blk: every request type and every way to get one wrong, on an image that records. */
#include "devices/virtio/blk.h"

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

static void plug(struct fixture *f, const struct image_info *info,
		 const struct virtio_blk_config *config)
{
	fake_image_init(&f->fi, DISK_BYTES, info);
	rig_init(&f->rig, f->kind, LOOP_AUTO, &f->fi.img, config);
	loop_thread_start(&f->rig.lt);
}

static void unplug(struct fixture *f)
{
	rig_fini(&f->rig);
	fake_image_fini(&f->fi);
}

static const struct virtio_blk_config plain_config = {.serial = SERIAL, .queues = QUEUES};

static void replug(struct fixture *f, const struct image_info *info,
		   const struct virtio_blk_config *config)
{
	unplug(f);
	plug(f, info, config);
}

static int setup(void **state, enum vdrv_kind kind)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.kind = kind;
	plug(&f, &plain_disk, &plain_config);
	rig_start(&f.rig, DEFAULT, QUEUES);
	*state = &f;
	return 0;
}

static int setup_mmio(void **state)
{
	return setup(state, VDRV_MMIO);
}

static int setup_pci(void **state)
{
	return setup(state, VDRV_PCI);
}

static int teardown(void **state)
{
	unplug(*state);
	return 0;
}

static uint8_t *mem(struct fixture *f, gpa_t gpa, uint64_t len)
{
	return fake_mem(&f->rig.fp, gpa, len);
}

static void fill(uint8_t *p, size_t len, uint8_t seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

/* What reached the image since the last call. */
static unsigned submitted(struct fixture *f)
{
	return fake_image_take_log(&f->fi, f->log, FAKE_IMAGE_LOG);
}

static void assert_alive(struct fixture *f)
{
	assert_int_equal(vdrv_status(&f->rig.d), STATUS_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, DATA, 512), S_OK);
}

/* ---- what it says of itself ---- */

static void test_configuration(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->rig.d;

	assert_int_equal(vdrv_id(d), 2);
	assert_int_equal(vdrv_config(d, 0, 8), DISK_SECTORS);
	assert_int_equal(vdrv_config(d, 12, 4), 254); /* seg_max */
	assert_int_equal(vdrv_config(d, 20, 4), 512); /* blk_size */
	assert_int_equal(vdrv_config(d, 24, 1), 3);   /* 4096 / 512 */
	assert_int_equal(vdrv_config(d, 26, 2), 8);   /* min_io_size */
	assert_int_equal(vdrv_config(d, 28, 4), 128); /* opt_io_size */
	assert_int_equal(vdrv_config(d, 32, 1), 1);   /* writeback */
	assert_int_equal(vdrv_config(d, 34, 2), QUEUES);
	assert_int_equal(vdrv_config(d, 36, 4) % 8, 0); /* max_discard_sectors */
	assert_true(vdrv_config(d, 36, 4) >= 8);
	assert_true(vdrv_config(d, 40, 4) >= 1);
	assert_int_equal(vdrv_config(d, 44, 4), 8);
	assert_true(vdrv_config(d, 48, 4) >= 8);
	assert_true(vdrv_config(d, 52, 4) >= 1);
	assert_int_equal(vdrv_config(d, 56, 1), 1);
	assert_int_equal(vdrv_config(d, 60, 4), 0);
}

static void test_features_follow_the_image(void **state)
{
	struct fixture *f = *state;
	const struct virtio_blk_config one_queue = {.queues = 1, .queue_size = 16};
	struct image_info info = plain_disk;
	uint64_t offered = vdrv_offered(&f->rig.d);

	assert_true((offered & 0xffffff) == (F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY |
					     F_CONFIG_WCE | F_MQ | F_DISCARD | F_WRITE_ZEROES));
	info.read_only = true;
	replug(f, &info, &one_queue);
	offered = vdrv_offered(&f->rig.d);
	assert_true((offered & 0xffffff) ==
		    (F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_RO));
	assert_int_equal(vdrv_config(&f->rig.d, 12, 4), 14);
	info = plain_disk;
	info.discard_granularity_bytes = 0;
	info.can_write_zeroes = false;
	replug(f, &info, &one_queue);
	offered = vdrv_offered(&f->rig.d);
	assert_false(offered & (F_DISCARD | F_WRITE_ZEROES | F_RO | F_MQ));
	assert_int_equal(vdrv_config(&f->rig.d, 36, 4), 0);
}

static void test_refuses_bad_configuration(void **state)
{
	struct fixture *f = *state;
	static const struct virtio_blk_config bad[] = {
	    {.queues = 0},
	    {.queues = VIRTIO_BLK_QUEUES_MAX + 1},
	    {.queues = 1, .queue_size = 2},
	    {.queues = 1, .queue_size = 100},
	    {.queues = 1, .queue_size = 2048},
	};
	struct fake_image fi;
	struct virtio_dev *dev = NULL;

	fake_image_init(&fi, DISK_BYTES, &plain_disk);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(
		    virtio_blk_new(&bad[i], &f->rig.fp.plat, &fi.img, f->rig.lt.loop, &dev, &err),
		    -EINVAL);
		assert_true(err.msg[0]);
		assert_null(dev);
		assert_null(fi.img.loop);
	}
	fake_image_fini(&fi);
}

/* ---- read, write ---- */

static void write_and_read_back(struct fixture *f)
{
	struct blk_rig *rig = &f->rig;

	fill(mem(f, DATA, 8192), 8192, 1);
	assert_int_equal(rig_do(rig, 0, T_OUT, 3, DATA, 8192), S_OK);
	assert_memory_equal(f->fi.data + 3 * 512, mem(f, DATA, 8192), 8192);
	memset(mem(f, DATA + MIB, 8192), 0, 8192);
	assert_int_equal(rig_do(rig, 0, T_IN, 3, DATA + MIB, 8192), S_OK);
	assert_memory_equal(mem(f, DATA + MIB, 8192), mem(f, DATA, 8192), 8192);
	assert_int_equal(submitted(f), 2);
}

static void test_write_and_read_back(void **state)
{
	struct fixture *f = *state;
	static const uint64_t rings[] = {0, VDRV_EVENT, VDRV_INDIRECT, VDRV_EVENT | VDRV_INDIRECT};

	for (size_t i = 0; i < ARRAY_LEN(rings); i++) {
		rig_start(&f->rig, rings[i], 1);
		write_and_read_back(f);
	}
}

static void test_used_length(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	assert_true(rig_add(rig, 0, T_IN, 0, DATA, 4096));
	assert_int_equal(rig_finish(rig, 0, 1), 4097);
	assert_true(rig_add(rig, 0, T_OUT, 0, DATA, 4096));
	assert_int_equal(rig_finish(rig, 0, 1), 1);
	assert_true(rig_add(rig, 0, T_FLUSH, 0, 0, 0));
	assert_int_equal(rig_finish(rig, 0, 1), 1);
	/* none of what a failed read should have filled counts as written */
	assert_true(rig_add(rig, 0, T_IN, DISK_SECTORS, DATA, 4096));
	assert_int_equal(rig_finish(rig, 0, 1), 0);
}

/* The header in 16 pieces, data in odd pieces, the status glued to the data (§2.7.4). */
static void test_any_layout(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;
	struct vbuf bufs[40];
	uint32_t len;
	gpa_t h;
	unsigned n = 0;

	fill(f->fi.data, 2048, 9);
	h = rig_header(rig, T_IN, 1);
	for (; n < 16; n++)
		bufs[n] = (struct vbuf){h + n, 1, false};
	bufs[n++] = (struct vbuf){DATA, 3, true};
	bufs[n++] = (struct vbuf){DATA + 100, 509 + 1, true};
	bufs[n++] = (struct vbuf){DATA + 5000, 511 + 1, true};
	assert_int_equal(rig_do_bufs(rig, 0, bufs, n, DATA + 5511, &len), S_OK);
	assert_int_equal(len, 1025);
	assert_memory_equal(mem(f, DATA, 3), f->fi.data + 512, 3);
	assert_memory_equal(mem(f, DATA + 100, 510), f->fi.data + 515, 510);
	assert_memory_equal(mem(f, DATA + 5000, 511), f->fi.data + 1025, 511);

	/* header and data in one, and more to write than the status needs */
	fill(mem(f, DATA, 528), 528, 77);
	memcpy(mem(f, DATA, 16), mem(f, rig_header(rig, T_OUT, 5), 16), 16);
	bufs[0] = (struct vbuf){DATA, 528, false};
	bufs[1] = (struct vbuf){DATA + 4096, 100, true};
	assert_int_equal(rig_do_bufs(rig, 0, bufs, 2, DATA + 4195, &len), S_OK);
	assert_int_equal(len, 0);
	assert_memory_equal(f->fi.data + 5 * 512, mem(f, DATA + 16, 512), 512);
}

static void test_neighbouring_pieces_are_one_for_the_image(void **state)
{
	struct fixture *f = *state;
	struct vbuf bufs[34];
	gpa_t h;

	h = rig_header(&f->rig, T_IN, 0);
	bufs[0] = (struct vbuf){h, 16, false};
	for (unsigned i = 0; i < 32; i++)
		bufs[1 + i] = (struct vbuf){DATA + 512 * i + (i >= 16 ? 512 : 0), 512, true};
	bufs[33] = (struct vbuf){RIG_STATUS(h), 1, true};
	assert_int_equal(rig_do_bufs(&f->rig, 0, bufs, 34, RIG_STATUS(h), NULL), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(f->log[0].niov, 2);
	assert_int_equal(f->log[0].len_bytes, 16384);
}

/* As many scattered pieces as seg_max allows, beyond what a request keeps within itself. */
static void test_many_pieces(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;
	struct vbuf bufs[256];
	gpa_t h;

	for (unsigned write = 0; write < 2; write++) {
		h = rig_header(rig, write ? T_OUT : T_IN, 8);
		bufs[0] = (struct vbuf){h, 16, false};
		for (unsigned i = 0; i < 254; i++)
			bufs[1 + i] = (struct vbuf){DATA + 1024 * i, 512, !write};
		bufs[255] = (struct vbuf){RIG_STATUS(h), 1, true};
		fill(mem(f, DATA, 254 * 1024), 254 * 1024, (uint8_t)(33 + write));
		if (!write)
			fill(f->fi.data + 4096, 254 * 512, 44);
		assert_int_equal(rig_do_bufs(rig, 0, bufs, 256, RIG_STATUS(h), NULL), S_OK);
		for (unsigned i = 0; i < 254; i++)
			assert_memory_equal(f->fi.data + 4096 + 512 * i,
					    mem(f, DATA + 1024 * i, 512), 512);
	}
}

static void test_bad_ranges_are_io_errors(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint64_t sector;
		uint32_t len;
	} bad[] = {
	    {DISK_SECTORS, 512},
	    {DISK_SECTORS - 1, 1024},
	    {UINT64_MAX, 512},
	    {UINT64_MAX / 512, 512},
	    {UINT64_C(1) << 55, 512},
	    {(UINT64_C(1) << 55) - 1, 1024},
	    {0, 1},
	    {0, 511},
	    {0, 513},
	    {0, DISK_BYTES + 512},
	    {UINT64_MAX - DISK_SECTORS, 512},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(rig_do(&f->rig, 0, T_IN, bad[i].sector, DATA, bad[i].len),
				 S_IOERR);
		assert_int_equal(rig_do(&f->rig, 0, T_OUT, bad[i].sector, DATA, bad[i].len),
				 S_IOERR);
	}
	assert_int_equal(submitted(f), 0);
	assert_alive(f);
}

static void test_edges_of_the_disk(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rig_do(&f->rig, 0, T_OUT, DISK_SECTORS - 1, DATA, 512), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, DATA, DISK_BYTES), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, DISK_SECTORS, DATA, 0), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, DATA, 0), S_OK);
	assert_int_equal(submitted(f), 2);
}

/* A disk of 4 KiB blocks says so, and what is not whole blocks is an I/O error. */
static void test_blocks_of_4_kib(void **state)
{
	struct fixture *f = *state;
	struct image_info info = plain_disk;

	info.logical_block_bytes = 4096;
	replug(f, &info, &plain_config);
	rig_start(&f->rig, DEFAULT, 1);
	assert_int_equal(vdrv_config(&f->rig.d, 20, 4), 4096);
	assert_int_equal(vdrv_config(&f->rig.d, 24, 1), 0);
	assert_int_equal(vdrv_config(&f->rig.d, 0, 8), DISK_SECTORS);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 8, DATA, 4096), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 8, DATA, 512), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 1, DATA, 4096), S_IOERR);
	rig_range(&f->rig, DATA, 0, 1, 8, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_IOERR);
	assert_int_equal(submitted(f), 1);
}

static void test_read_only(void **state)
{
	struct fixture *f = *state;
	struct image_info info = plain_disk;

	info.read_only = true;
	replug(f, &info, &plain_config);
	rig_start(&f->rig, F_ALL, 1);
	rig_range(&f->rig, DATA, 0, 0, 8, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, DATA, 512), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_UNSUPP);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_UNSUPP);
	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_OK);
	assert_int_equal(submitted(f), 0);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, DATA, 512), S_OK);
}

/* ---- flush, write cache ---- */

static void test_flush(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(f->log[0].op, IMAGE_FLUSH);
	fake_image_fail(&f->fi, 1, EIO);
	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_IOERR);
	rig_start(&f->rig, 0, 1);
	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_UNSUPP);
}

static unsigned write_flags(struct fixture *f)
{
	submitted(f);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, DATA, 512), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(f->log[0].op, IMAGE_WRITE);
	return f->log[0].flags;
}

static void test_write_cache_follows_what_was_negotiated(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->rig.d;
	struct virtio_blk_config through = plain_config;

	/* a driver that cannot flush gets durable writes */
	rig_start(&f->rig, 0, 1);
	assert_int_equal(write_flags(f), IMAGE_FUA);
	rig_start(&f->rig, F_FLUSH, 1);
	assert_int_equal(write_flags(f), 0);
	rig_start(&f->rig, F_CONFIG_WCE, 1);
	assert_int_equal(vdrv_config(d, 32, 1), 0);
	assert_int_equal(write_flags(f), IMAGE_FUA);

	/* switched off and on; a reset forgets it */
	rig_start(&f->rig, F_FLUSH | F_CONFIG_WCE, 1);
	assert_int_equal(write_flags(f), 0);
	vdrv_set_config(d, 32, 1, 0);
	assert_int_equal(vdrv_config(d, 32, 1), 0);
	assert_int_equal(write_flags(f), IMAGE_FUA);
	vdrv_set_config(d, 32, 1, 1);
	assert_int_equal(write_flags(f), 0);
	vdrv_set_config(d, 32, 1, 0);
	rig_start(&f->rig, F_FLUSH | F_CONFIG_WCE, 1);
	assert_int_equal(vdrv_config(d, 32, 1), 1);

	/* not without CONFIG_WCE, and no other field */
	rig_start(&f->rig, F_FLUSH, 1);
	vdrv_set_config(d, 32, 1, 0);
	assert_int_equal(vdrv_config(d, 32, 1), 1);
	rig_start(&f->rig, F_FLUSH | F_CONFIG_WCE, 1);
	for (unsigned at = 0; at < 64; at += 4) {
		const uint64_t before = vdrv_config(d, at, 4);

		if (at == 32)
			continue;
		vdrv_set_config(d, at, 4, ~before);
		assert_int_equal(vdrv_config(d, at, 4), before);
	}

	through.write_through = true;
	replug(f, &plain_disk, &through);
	rig_start(&f->rig, F_FLUSH, 1);
	assert_int_equal(write_flags(f), IMAGE_FUA);
}

/* With the cache off, zeroes are as durable as data. */
static void test_write_zeroes_without_cache_are_flushed(void **state)
{
	struct fixture *f = *state;

	rig_start(&f->rig, F_WRITE_ZEROES, 1);
	rig_range(&f->rig, DATA, 0, 8, 8, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_OK);
	assert_int_equal(submitted(f), 2);
	assert_int_equal(f->log[0].op, IMAGE_WRITE_ZEROES);
	assert_int_equal(f->log[1].op, IMAGE_FLUSH);
	rig_start(&f->rig, F_WRITE_ZEROES | F_FLUSH, 1);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_OK);
	assert_int_equal(submitted(f), 1);
}

/* ---- discard, write zeroes ---- */

static void test_ranges_reach_the_image(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t type, flags;
		enum image_op op;
		unsigned image_flags;
	} cases[] = {
	    {T_DISCARD, 0, IMAGE_DISCARD, 0},
	    {T_WRITE_ZEROES, 0, IMAGE_WRITE_ZEROES, 0},
	    {T_WRITE_ZEROES, 1, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP},
	};
	const unsigned max = (unsigned)vdrv_config(&f->rig.d, 40, 4);

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (unsigned k = 0; k < max; k++)
			rig_range(&f->rig, DATA, k, 100 * k + 7, k + 1, cases[i].flags);
		memset(f->fi.data, 0x55, DISK_BYTES);
		assert_int_equal(rig_do(&f->rig, 0, cases[i].type, 0, DATA, 16 * max), S_OK);
		assert_int_equal(submitted(f), max);
		for (unsigned k = 0; k < max; k++) {
			assert_int_equal(f->log[k].op, cases[i].op);
			assert_int_equal(f->log[k].flags, cases[i].image_flags);
			assert_int_equal(f->log[k].offset_bytes, (100 * k + 7) * 512);
			assert_int_equal(f->log[k].len_bytes, (k + 1) * 512);
		}
	}
}

static void test_empty_ranges_are_skipped(void **state)
{
	struct fixture *f = *state;

	rig_range(&f->rig, DATA, 0, 5, 0, 0);
	rig_range(&f->rig, DATA, 1, 6, 1, 0);
	rig_range(&f->rig, DATA, 2, DISK_SECTORS, 0, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 48), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_OK);
	assert_int_equal(submitted(f), 0);
}

static void test_unknown_flags_are_unsupported(void **state)
{
	struct fixture *f = *state;

	for (unsigned bit = 0; bit < 32; bit++) {
		rig_range(&f->rig, DATA, 0, 0, 8, 0);
		rig_range(&f->rig, DATA, 1, 8, 8, 1u << bit);
		assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 32), S_UNSUPP);
		assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 32),
				 bit ? S_UNSUPP : S_OK);
	}
	assert_int_equal(submitted(f), 2); /* unmap, both ranges; of the refused ones nothing */
	assert_alive(f);
}

static void test_bad_discards_are_io_errors(void **state)
{
	struct fixture *f = *state;
	const uint32_t max = (uint32_t)vdrv_config(&f->rig.d, 36, 4);
	const uint32_t segs = (uint32_t)vdrv_config(&f->rig.d, 40, 4);
	const struct {
		uint64_t sector;
		uint32_t sectors;
	} bad[] = {
	    {DISK_SECTORS, 1},	      {DISK_SECTORS - 1, 2}, {UINT64_MAX, 1},
	    {UINT64_MAX, UINT32_MAX}, {0, max + 1},	     {0, UINT32_MAX},
	    {UINT64_C(1) << 55, 1},   {1, DISK_SECTORS},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		rig_range(&f->rig, DATA, 0, 0, 8, 0);
		rig_range(&f->rig, DATA, 1, bad[i].sector, bad[i].sectors, 0);
		assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 32), S_IOERR);
		assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 32), S_IOERR);
	}
	for (unsigned i = 0; i <= segs; i++)
		rig_range(&f->rig, DATA, i, 0, 1, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16 * (segs + 1)), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, MIB), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 15), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 17), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 0), S_IOERR);
	assert_int_equal(submitted(f), 0);
	assert_alive(f);
}

static void test_ranges_not_negotiated_are_unsupported(void **state)
{
	struct fixture *f = *state;

	rig_start(&f->rig, F_FLUSH, 1);
	rig_range(&f->rig, DATA, 0, 0, 8, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_UNSUPP);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_UNSUPP);
	assert_int_equal(submitted(f), 0);
}

static void test_failed_range_ends_the_request(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4; i++)
		rig_range(&f->rig, DATA, i, 8 * i, 8, 0);
	fake_image_fail(&f->fi, 1, ENOSPC);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 64), S_IOERR);
	assert_int_equal(submitted(f), 1);
	assert_alive(f);
}

/* ---- serial number, unknown types ---- */

static void test_serial_number(void **state)
{
	struct fixture *f = *state;
	const struct virtio_blk_config short_serial = {.serial = "s1", .queues = 1};
	static const char padded[20] = "s1";

	memset(mem(f, DATA, 64), 0xaa, 64);
	assert_int_equal(rig_do(&f->rig, 0, T_GET_ID, 0, DATA, 20), S_OK);
	assert_memory_equal(mem(f, DATA, 20), SERIAL, 20);
	assert_int_equal(*mem(f, DATA + 20, 1), 0xaa);
	/* a buffer that is too short, or too long, is filled as far as both go */
	memset(mem(f, DATA, 64), 0xaa, 64);
	assert_true(rig_add(&f->rig, 0, T_GET_ID, 0, DATA, 7));
	assert_int_equal(rig_finish(&f->rig, 0, 1), 8);
	assert_memory_equal(mem(f, DATA, 7), SERIAL, 7);
	assert_int_equal(*mem(f, DATA + 7, 1), 0xaa);
	assert_true(rig_add(&f->rig, 0, T_GET_ID, 0, DATA, 30));
	assert_int_equal(rig_finish(&f->rig, 0, 1), 20);
	assert_int_equal(*mem(f, DATA + 20, 1), 0xaa);
	assert_int_equal(rig_do(&f->rig, 0, T_GET_ID, 0, DATA, 0), S_OK);

	replug(f, &plain_disk, &short_serial);
	rig_start(&f->rig, DEFAULT, 1);
	memset(mem(f, DATA, 64), 0xaa, 64);
	assert_int_equal(rig_do(&f->rig, 0, T_GET_ID, 0, DATA, 20), S_OK);
	assert_memory_equal(mem(f, DATA, 20), padded, 20);
}

static void test_unknown_types_are_unsupported(void **state)
{
	struct fixture *f = *state;
	static const uint32_t known[] = {T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES};

	for (uint64_t type = 0; type <= UINT32_MAX; type = type < 64 ? type + 1 : type * 3) {
		bool is_known = false;

		for (size_t i = 0; i < ARRAY_LEN(known); i++)
			is_known |= known[i] == type;
		if (!is_known)
			assert_int_equal(rig_do(&f->rig, 0, (uint32_t)type, 0, DATA, 512),
					 S_UNSUPP);
	}
	assert_int_equal(submitted(f), 0);
	assert_alive(f);
}

/* ---- errors of the host ---- */

static void test_host_errors_are_io_errors(void **state)
{
	struct fixture *f = *state;
	static const int errors[] = {EIO, ENOSPC, EDQUOT, EINVAL, ENOMEM, ECANCELED};
	struct virtio_blk_stats stats;

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		fake_image_fail(&f->fi, 2, errors[i]);
		assert_int_equal(rig_do(&f->rig, 1, T_OUT, 0, DATA, 512), S_IOERR);
		assert_int_equal(rig_do(&f->rig, 2, T_IN, 0, DATA, 512), S_IOERR);
		assert_alive(f);
	}
	virtio_blk_stats(f->rig.dev, &stats);
	assert_int_equal(stats.errors, 2 * ARRAY_LEN(errors));
	assert_int_equal(stats.writes, 0);
}

static void test_statistics(void **state)
{
	struct fixture *f = *state;
	struct virtio_blk_stats s;

	rig_range(&f->rig, DATA, 0, 0, 8, 0);
	for (unsigned q = 0; q < QUEUES; q++) {
		rig_do(&f->rig, q, T_IN, 0, DATA + 4096, 512);
		rig_do(&f->rig, q, T_OUT, 0, DATA + 4096, 1024);
	}
	rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0);
	rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16);
	rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16);
	virtio_blk_stats(f->rig.dev, &s);
	assert_int_equal(s.reads, QUEUES);
	assert_int_equal(s.writes, QUEUES);
	assert_int_equal(s.read_bytes, QUEUES * 512);
	assert_int_equal(s.written_bytes, QUEUES * 1024);
	assert_int_equal(s.flushes, 1);
	assert_int_equal(s.discards, 1);
	assert_int_equal(s.write_zeroes, 1);
	assert_int_equal(s.errors, 0);
}

/* ---- breaches of the protocol ---- */

static void check_breach(struct fixture *f, const struct vbuf *bufs, unsigned n)
{
	struct blk_rig *rig = &f->rig;

	rig_start(rig, DEFAULT, QUEUES);
	vdrv_config_irqs(&rig->d);
	vring_add(&rig->d.rings[1], bufs, n, false);
	vdrv_kick(&rig->d, 1);
	assert_true(vdrv_wait_config(&rig->d));
	assert_int_equal(vdrv_status(&rig->d), STATUS_OK | STATUS_NEEDS);
	/* no queue takes anything any more */
	submitted(f);
	rig_add(rig, 0, T_IN, 0, DATA, 512);
	vring_publish(&rig->d.rings[0]);
	vdrv_notify(&rig->d, 0);
	vdrv_reset(&rig->d);
	assert_int_equal(vring_used_waiting(&rig->d.rings[0]), 0);
	assert_int_equal(submitted(f), 0);
	rig_start(rig, DEFAULT, QUEUES);
	assert_alive(f);
}

static void test_breaches_need_reset(void **state)
{
	struct fixture *f = *state;
	const gpa_t h = DATA, status = DATA + 64;
	const struct vbuf no_status[] = {{h, 16, false}, {DATA + 512, 512, false}};
	const struct vbuf no_header[] = {{DATA + 512, 512, true}, {status, 1, true}};
	const struct vbuf short_header[] = {{h, 15, false}, {status, 1, true}};
	const struct vbuf empty_status[] = {{h, 16, false}, {status, 0, true}};
	const struct vbuf outside[] = {
	    {h, 16, false}, {RIG_MEM_BYTES, 512, true}, {status, 1, true}};

	check_breach(f, no_status, 2);
	check_breach(f, no_header, 2);
	check_breach(f, short_header, 2);
	check_breach(f, empty_status, 2);
	check_breach(f, outside, 3);
}

/* ---- queues and notifications ---- */

static void test_each_queue_has_its_interrupt(void **state)
{
	struct fixture *f = *state;

	for (unsigned q = 0; q < QUEUES; q++)
		assert_int_equal(rig_do(&f->rig, q, T_OUT, q, DATA, 512), S_OK);
	assert_int_equal(submitted(f), QUEUES);
}

static void test_a_queue_may_be_left_out(void **state)
{
	struct fixture *f = *state;

	rig_start(&f->rig, DEFAULT, 2);
	vdrv_notify(&f->rig.d, 3);
	assert_int_equal(rig_do(&f->rig, 1, T_IN, 0, DATA, 512), S_OK);
}

static void test_one_interrupt_for_a_batch(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	fake_image_hold(&f->fi);
	for (unsigned i = 0; i < 32; i++)
		assert_true(rig_add(rig, 0, T_IN, i, DATA + 512 * i, 512));
	vring_irq_on(&rig->d.rings[0], 1);
	vdrv_kick(&rig->d, 0);
	assert_true(fake_image_wait_held(&f->fi, 32));
	vdrv_queue_irqs(&rig->d, 0);
	fake_image_release(&f->fi);
	/* the reset waits for them, and for their notification */
	vdrv_reset(&rig->d);
	assert_int_equal(vring_used_waiting(&rig->d.rings[0]), 32);
	assert_int_equal(vdrv_queue_irqs(&rig->d, 0), 1);
}

static void test_full_rings_of_all_queues(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;
	unsigned n = 0;

	fake_image_hold(&f->fi);
	for (unsigned q = 0; q < QUEUES; q++) {
		while (rig_add(rig, q, T_IN, n % DISK_SECTORS, DATA + 512 * (n % 1024), 512))
			n++;
		vdrv_kick(&rig->d, q);
	}
	assert_int_equal(n, QUEUES * 256);
	assert_true(fake_image_wait_held(&f->fi, n));
	fake_image_release(&f->fi);
	for (unsigned q = 0; q < QUEUES; q++)
		rig_finish(rig, q, 256);
	assert_alive(f);
}

/* A guest that answers every completion with a new request at once keeps nobody else waiting. */
static void test_busy_queue_starves_no_other(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	for (unsigned round = 0; round < 20; round++) {
		/* answered on the spot, without the image */
		while (rig_add(rig, 0, 99, 0, 0, 0))
			;
		vdrv_kick(&rig->d, 0);
		assert_int_equal(rig_do(rig, 1, T_IN, 0, DATA, 512), S_OK);
		rig_finish(rig, 0, 256);
	}
}

/* ---- reset ---- */

struct resetter {
	struct blk_rig *rig;
	_Atomic bool done;
};

static void *reset_thread(void *arg)
{
	struct resetter *r = arg;

	vdrv_reset(&r->rig->d);
	r->done = true;
	return NULL;
}

static void test_reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;
	struct resetter r = {.rig = rig};
	struct timespec until;
	pthread_t thread;
	uint16_t used;

	fake_image_hold(&f->fi);
	for (unsigned i = 0; i < 8; i++)
		assert_true(rig_add(rig, 0, T_IN, i, DATA + 512 * i, 512));
	vdrv_kick(&rig->d, 0);
	assert_true(fake_image_wait_held(&f->fi, 8));
	assert_int_equal(pthread_create(&thread, NULL, reset_thread, &r), 0);
	/* it must not come back while they are out */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 50 * 1000 * 1000;
	if (until.tv_nsec >= 1000 * 1000 * 1000) {
		until.tv_nsec -= 1000 * 1000 * 1000;
		until.tv_sec++;
	}
	assert_int_equal(pthread_timedjoin_np(thread, NULL, &until), ETIMEDOUT);
	assert_false(r.done);
	fake_image_release(&f->fi);
	assert_int_equal(pthread_join(thread, NULL), 0);

	/* and afterwards nothing moves any more */
	used = vring_used_waiting(&rig->d.rings[0]);
	assert_int_equal(used, 8);
	assert_int_equal(vdrv_status(&rig->d), 0);
	rig_start(rig, DEFAULT, QUEUES);
	assert_alive(f);
}

static void test_reset_over_and_over(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	for (unsigned i = 0; i < 300; i++) {
		const unsigned nqueues = i % QUEUES + 1;

		rig_start(rig, i & 1 ? DEFAULT : F_FLUSH, nqueues);
		for (unsigned q = 0; q < nqueues; q++) {
			for (unsigned k = 0; k < i % 50; k++)
				rig_add(rig, q, k % 7 ? T_IN : T_GET_ID, k, DATA + 512 * k, 512);
			vdrv_kick(&rig->d, q);
		}
		if (i % 3 == 0 && i % 50)
			assert_true(vdrv_wait(&rig->d, 0, 1));
		vdrv_reset(&rig->d);
		memset(mem(f, RIG_HEAP_GPA, 64 * KIB), 0, 64 * KIB);
	}
	rig_start(rig, DEFAULT, QUEUES);
	assert_alive(f);
}

/* The machine is taken down while requests are in flight. */
static void test_freed_while_in_flight(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	for (unsigned i = 0; i < 30; i++) {
		for (unsigned q = 0; q < QUEUES; q++) {
			while (rig_add(rig, q, T_OUT, 0, DATA, 4096))
				;
			vdrv_kick(&rig->d, q);
		}
		replug(f, &plain_disk, &plain_config);
		rig_start(rig, DEFAULT, QUEUES);
	}
}

int main(void)
{
#define BOTH(f)                                                   \
	cmocka_unit_test_setup_teardown(f, setup_mmio, teardown), \
	    cmocka_unit_test_setup_teardown(f, setup_pci, teardown)
	const struct CMUnitTest tests[] = {
	    BOTH(test_configuration),
	    BOTH(test_features_follow_the_image),
	    BOTH(test_refuses_bad_configuration),
	    BOTH(test_write_and_read_back),
	    BOTH(test_used_length),
	    BOTH(test_any_layout),
	    BOTH(test_neighbouring_pieces_are_one_for_the_image),
	    BOTH(test_many_pieces),
	    BOTH(test_bad_ranges_are_io_errors),
	    BOTH(test_edges_of_the_disk),
	    BOTH(test_blocks_of_4_kib),
	    BOTH(test_read_only),
	    BOTH(test_flush),
	    BOTH(test_write_cache_follows_what_was_negotiated),
	    BOTH(test_write_zeroes_without_cache_are_flushed),
	    BOTH(test_ranges_reach_the_image),
	    BOTH(test_empty_ranges_are_skipped),
	    BOTH(test_unknown_flags_are_unsupported),
	    BOTH(test_bad_discards_are_io_errors),
	    BOTH(test_ranges_not_negotiated_are_unsupported),
	    BOTH(test_failed_range_ends_the_request),
	    BOTH(test_serial_number),
	    BOTH(test_unknown_types_are_unsupported),
	    BOTH(test_host_errors_are_io_errors),
	    BOTH(test_statistics),
	    BOTH(test_breaches_need_reset),
	    BOTH(test_each_queue_has_its_interrupt),
	    BOTH(test_a_queue_may_be_left_out),
	    BOTH(test_one_interrupt_for_a_batch),
	    BOTH(test_full_rings_of_all_queues),
	    BOTH(test_busy_queue_starves_no_other),
	    BOTH(test_reset_waits_for_what_is_in_flight),
	    BOTH(test_reset_over_and_over),
	    BOTH(test_freed_while_in_flight),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
