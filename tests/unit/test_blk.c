/* virtio-blk: what it says of itself, reads and writes. */
#include "tests/unit/blk_fixture.h"

#include <sys/resource.h>
#include <unistd.h>

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

/* Out of descriptors: an error with a message, and the image is the caller's again. */
static void test_without_descriptors(void **state)
{
	struct fixture *f = *state;
	struct virtio_dev *dev = NULL;
	struct err err = ERR_INIT;
	struct rlimit saved, tight;
	struct fake_image fi;
	int free_fd = dup(0), r;

	fake_image_init(&fi, DISK_BYTES, &plain_disk);
	assert_true(free_fd >= 0);
	close(free_fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &saved), 0);
	tight = saved;
	tight.rlim_cur = (rlim_t)free_fd + QUEUES - 1; /* one too few */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
	r = virtio_blk_new(&plain_config, &f->rig.fp.plat, &fi.img, f->rig.lt.loop, &dev, &err);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &saved), 0);
	assert_int_equal(r, -EMFILE);
	assert_true(err.msg[0]);
	assert_null(dev);
	assert_null(fi.img.loop);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_configuration),
	    BOTH(test_features_follow_the_image),
	    BOTH(test_refuses_bad_configuration),
	    BOTH(test_without_descriptors),
	    BOTH(test_write_and_read_back),
	    BOTH(test_used_length),
	    BOTH(test_any_layout),
	    BOTH(test_neighbouring_pieces_are_one_for_the_image),
	    BOTH(test_many_pieces),
	    BOTH(test_bad_ranges_are_io_errors),
	    BOTH(test_edges_of_the_disk),
	    BOTH(test_blocks_of_4_kib),
	    BOTH(test_read_only),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
