/* virtio-blk on a real file: data against a flat model, failing hosts, resets in mid-flight. */
#include "base/checked.h"
#include "tests/unit/blk_rig.h"
#include "tests/unit/loop_barrier.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define DISK_BYTES   (2 * MIB)
#define DISK_SECTORS (DISK_BYTES / 512)
#define SLOT_BYTES   (128 * KIB) /* of guest memory, for the data of one request */
#define SLOTS	     16
#define QUEUES	     4

struct fixture {
	struct blk_rig rig;
	struct image *img;
	int fd;
	char path[64];
	uint8_t model[DISK_BYTES];
	bool sector_any[DISK_SECTORS]; /* discarded: contents are undefined */
	uint64_t rng;
};

static uint64_t rnd(struct fixture *f, uint64_t n)
{
	f->rng ^= f->rng << 13;
	f->rng ^= f->rng >> 7;
	f->rng ^= f->rng << 17;
	return (f->rng >> 11) % n;
}

static void plug(struct fixture *f, enum vdrv_kind kind, enum loop_backend backend)
{
	const struct virtio_blk_config config = {.serial = "raw", .queues = QUEUES};
	const struct image_opts opts = {.path = f->path, .format = IMAGE_RAW};

	assert_int_equal(image_open(&opts, &f->img, NULL), 0);
	rig_init(&f->rig, kind, backend, f->img, &config);
}

static int setup(void **state, enum vdrv_kind kind, enum loop_backend backend)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.rng = 0x9e3779b97f4a7c15;
	/* in memory: what a disk takes for each flush would only make the test slow */
	f.fd = memfd_create("disk", MFD_CLOEXEC);
	assert_true(f.fd >= 0);
	assert_int_equal(ftruncate(f.fd, DISK_BYTES), 0);
	snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
	plug(&f, kind, backend);
	*state = &f;
	return 0;
}

static int setup_mmio_uring(void **state)
{
	return setup(state, VDRV_MMIO, LOOP_AUTO);
}

static int setup_pci_uring(void **state)
{
	return setup(state, VDRV_PCI, LOOP_AUTO);
}

static int setup_mmio_epoll(void **state)
{
	return setup(state, VDRV_MMIO, LOOP_EPOLL);
}

static int setup_pci_epoll(void **state)
{
	return setup(state, VDRV_PCI, LOOP_EPOLL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_fini(&f->rig);
	image_close(f->img);
	close(f->fd);
	return 0;
}

struct flight {
	uint32_t type;
	uint64_t sector;
	uint32_t sectors;
	gpa_t data, header;
};

static gpa_t slot(unsigned i)
{
	return RIG_DATA_GPA + i * SLOT_BYTES;
}

/* Requests of one batch touch different parts of the disk, as those in flight have no order. */
static void launch(struct fixture *f, unsigned q, struct flight *fl, unsigned i)
{
	const uint64_t part = DISK_SECTORS / SLOTS;
	const uint64_t off = rnd(f, part);
	uint8_t *p = fake_mem(&f->rig.fp, slot(i), SLOT_BYTES);
	static const uint32_t types[] = {T_IN, T_OUT, T_OUT, T_WRITE_ZEROES, T_DISCARD, T_FLUSH};

	fl->type = types[rnd(f, ARRAY_LEN(types))];
	fl->sector = i * part + off;
	fl->sectors = (uint32_t)(1 + rnd(f, MIN(part - off, (uint64_t)100)));
	fl->data = slot(i);
	if (fl->type == T_OUT)
		for (unsigned k = 0; k < fl->sectors * 512; k += 8)
			le64_store(p + k, rnd(f, UINT64_MAX));
	if (fl->type == T_FLUSH) {
		fl->header = rig_add(&f->rig, q, T_FLUSH, 0, 0, 0);
	} else if (fl->type == T_IN || fl->type == T_OUT) {
		fl->header = rig_add(&f->rig, q, fl->type, fl->sector, fl->data, fl->sectors * 512);
	} else {
		rig_range(&f->rig, fl->data, 0, fl->sector, fl->sectors,
			  fl->type == T_WRITE_ZEROES ? (uint32_t)rnd(f, 2) : 0);
		fl->header = rig_add(&f->rig, q, fl->type, 0, fl->data, 16);
	}
	assert_true(fl->header);
}

static void land(struct fixture *f, const struct flight *fl)
{
	const uint8_t *p = fake_mem(&f->rig.fp, fl->data, SLOT_BYTES);
	uint8_t *m = f->model + fl->sector * 512;

	assert_int_equal(rig_status(&f->rig, fl->header), S_OK);
	for (unsigned i = 0; i < fl->sectors && fl->type != T_FLUSH; i++) {
		bool *any = &f->sector_any[fl->sector + i];

		if (fl->type == T_IN && !*any)
			assert_memory_equal(p + 512 * i, m + 512 * i, 512);
		else if (fl->type == T_OUT)
			memcpy(m + 512 * i, p + 512 * i, 512);
		else if (fl->type == T_WRITE_ZEROES)
			memset(m + 512 * i, 0, 512);
		if (fl->type != T_IN)
			*any = fl->type == T_DISCARD;
	}
}

static void check_file(struct fixture *f)
{
	static uint8_t buf[DISK_BYTES];

	assert_int_equal(pread(f->fd, buf, sizeof(buf), 0), sizeof(buf));
	for (unsigned i = 0; i < DISK_SECTORS; i++)
		if (!f->sector_any[i])
			assert_memory_equal(buf + 512 * i, f->model + 512 * i, 512);
}

static void test_data_against_a_model(void **state)
{
	struct fixture *f = *state;
	struct flight flights[SLOTS];

	loop_thread_start(&f->rig.lt);
	for (unsigned nqueues = 1; nqueues <= QUEUES; nqueues++) {
		const uint64_t ring =
		    (nqueues & 1 ? VDRV_EVENT : 0) | (nqueues & 2 ? VDRV_INDIRECT : 0);

		rig_start(&f->rig, F_ALL | ring, nqueues);
		for (unsigned round = 0; round < 60; round++) {
			unsigned per_queue[QUEUES] = {0};

			for (unsigned i = 0; i < SLOTS; i++) {
				const unsigned q = (unsigned)rnd(f, nqueues);

				launch(f, q, &flights[i], i);
				per_queue[q]++;
			}
			for (unsigned q = 0; q < nqueues; q++)
				vdrv_kick(&f->rig.d, q);
			for (unsigned q = 0; q < nqueues; q++)
				rig_finish(&f->rig, q, per_queue[q]);
			for (unsigned i = 0; i < SLOTS; i++)
				land(f, &flights[i]);
		}
	}
	vdrv_reset(&f->rig.d);
	check_file(f);
}

static void test_failing_host(void **state)
{
	struct fixture *f = *state;
	static const int errors[] = {EIO, ENOSPC};

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		if (i) {
			rig_fini(&f->rig);
			image_close(f->img);
			plug(f, f->rig.d.kind, LOOP_AUTO);
		}
		image_inject_fault(f->img, 2, errors[i]); /* before the loop runs */
		loop_thread_start(&f->rig.lt);
		rig_start(&f->rig, F_ALL, 1);
		assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, slot(0), 4096), S_OK);
		assert_int_equal(rig_do(&f->rig, 0, T_OUT, 8, slot(0), 4096), S_IOERR);
		assert_int_equal(rig_do(&f->rig, 0, T_OUT, 8, slot(0), 4096), S_OK);
		assert_int_equal(vdrv_status(&f->rig.d), STATUS_OK);
	}
}

static void test_short_transfers_are_continued(void **state)
{
	struct fixture *f = *state;

	image_inject_fault(f->img, 1, 0);
	loop_thread_start(&f->rig.lt);
	rig_start(&f->rig, F_ALL, 1);
	memset(fake_mem(&f->rig.fp, slot(0), 8192), 0x3c, 8192);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, slot(0), 8192), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, slot(1), 8192), S_OK);
	assert_memory_equal(fake_mem(&f->rig.fp, slot(1), 8192),
			    fake_mem(&f->rig.fp, slot(0), 8192), 8192);
}

/* What the guest wrote and flushed before the reset is there, and the device works afterwards. */
static void test_reset_in_flight(void **state)
{
	struct fixture *f = *state;
	uint8_t *p;

	loop_thread_start(&f->rig.lt);
	for (unsigned i = 0; i < 150; i++) {
		const unsigned nqueues = i % QUEUES + 1;

		rig_start(&f->rig, F_ALL | VDRV_EVENT | (i & 1 ? VDRV_INDIRECT : 0), nqueues);
		p = fake_mem(&f->rig.fp, slot(0), 4096);
		memset(p, (int)(i + 1), 4096);
		assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, slot(0), 4096), S_OK);
		for (unsigned q = 0; q < nqueues; q++) {
			for (unsigned k = 1; k < SLOTS; k++)
				rig_add(&f->rig, q, k & 1 ? T_OUT : T_IN, 256 * k,
					slot(q * SLOTS + k), 64 * KIB);
			rig_add(&f->rig, q, T_FLUSH, 0, 0, 0);
			vdrv_kick(&f->rig.d, q);
		}
		if (i % 4 == 0)
			assert_true(vdrv_wait(&f->rig.d, 0, 1));
		vdrv_reset(&f->rig.d);
		/* the memory is the guest's again */
		memset(fake_mem(&f->rig.fp, slot(1), (QUEUES * SLOTS - 1) * SLOT_BYTES), 0xff,
		       (QUEUES * SLOTS - 1) * SLOT_BYTES);
		rig_start(&f->rig, F_ALL, 1);
		assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, slot(1), 4096), S_OK);
		assert_memory_equal(fake_mem(&f->rig.fp, slot(1), 4096),
				    fake_mem(&f->rig.fp, slot(0), 4096), 4096);
	}
}

/* One thread for everything: the reset runs the loop itself. */
static void test_reset_without_another_thread(void **state)
{
	struct fixture *f = *state;
	uint16_t used;

	f->rig.dev->loop_idle = true;
	for (unsigned i = 0; i < 20; i++) {
		rig_start(&f->rig, F_ALL, 2);
		for (unsigned k = 0; k < SLOTS; k++)
			rig_add(&f->rig, 1, k & 1 ? T_OUT : T_IN, 8 * k, slot(k), 4096);
		vdrv_kick(&f->rig.d, 1);
		/* one round: requests are taken, and some of them done */
		loop_stop(f->rig.lt.loop);
		assert_int_equal(loop_run(f->rig.lt.loop), 0);
		vdrv_reset(&f->rig.d);
		used = vring_used_waiting(&f->rig.d.rings[1]);
		assert_true(used == 0 || used == SLOTS);
		assert_int_equal(image_inflight(f->img), 0);
	}
}

/* ---- size, pause ---- */

struct resize {
	struct virtio_blk_resize blk;
	struct news news;
};

static void resize_done(struct virtio_blk_resize *blk)
{
	news_tell(&container_of(blk, struct resize, blk)->news);
}

static int resize(struct fixture *f, uint64_t size_bytes)
{
	struct resize r = {.blk.done = resize_done, .news = NEWS_INIT};

	r.blk.grow.size_bytes = size_bytes;
	virtio_blk_resize(f->rig.dev, &r.blk);
	news_wait(&r.news);
	return r.blk.grow.err.code;
}

static void test_resize(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->rig.d;
	uint32_t generation;
	uint64_t irqs;
	gpa_t header;

	loop_thread_start(&f->rig.lt);
	rig_start(&f->rig, F_ALL, 1);
	generation = vdrv_generation(d);
	irqs = vdrv_config_irqs(d);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, DISK_SECTORS, slot(0), 512), S_IOERR);
	header = rig_add(&f->rig, 0, T_OUT, 0, slot(0), 4096);
	vdrv_kick(d, 0);
	assert_int_equal(resize(f, DISK_BYTES + 4096), 0);
	/* the guest learns of it when it is told, and not before */
	assert_int_equal(vdrv_config(d, 0, 8), DISK_SECTORS);
	assert_int_equal(vdrv_generation(d), generation);
	virtio_blk_resized(f->rig.dev);
	assert_int_equal(vdrv_config(d, 0, 8), DISK_SECTORS + 8);
	assert_int_not_equal(vdrv_generation(d), generation);
	assert_true(vdrv_wait_config(d));
	assert_true(vdrv_config_irqs(d) >= irqs);
	rig_finish(&f->rig, 0, 1);
	assert_int_equal(rig_status(&f->rig, header), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, DISK_SECTORS, slot(0), 4096), S_OK);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, DISK_SECTORS + 8, slot(0), 512), S_IOERR);
}

static void test_resize_of_an_inactive_device(void **state)
{
	struct fixture *f = *state;

	loop_thread_start(&f->rig.lt);
	rig_start(&f->rig, F_ALL, 1);
	vdrv_reset(&f->rig.d);
	assert_int_equal(resize(f, 2 * DISK_BYTES), 0);
	virtio_blk_resized(f->rig.dev);
	rig_start(&f->rig, F_ALL, 1);
	assert_int_equal(vdrv_config(&f->rig.d, 0, 8), 2 * DISK_SECTORS);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 2 * DISK_SECTORS - 1, slot(0), 512), S_OK);
}

static void test_resize_that_is_refused(void **state)
{
	struct fixture *f = *state;

	loop_thread_start(&f->rig.lt);
	rig_start(&f->rig, F_ALL, 1);
	assert_int_equal(resize(f, DISK_BYTES), EINVAL);
	assert_int_equal(resize(f, DISK_BYTES - 512), EINVAL);
	assert_int_equal(resize(f, DISK_BYTES + 1), EINVAL);
	assert_int_equal(resize(f, (uint64_t)INT64_MAX + 1), EFBIG);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, slot(0), 512), S_OK);
}

static void test_pause(void **state)
{
	struct fixture *f = *state;
	struct news quiet = NEWS_INIT;
	gpa_t header;

	loop_thread_start(&f->rig.lt);
	rig_start(&f->rig, F_ALL, 1);
	for (int i = 0; i < 20; i++) {
		rig_add(&f->rig, 0, T_OUT, 0, slot(0), 4096);
		vdrv_kick(&f->rig.d, 0);
		assert_true(virtio_transport_pause(f->rig.t, news_tell, &quiet));
		news_wait(&quiet);
		/* what was taken is finished, and what comes is not taken */
		rig_add(&f->rig, 0, T_OUT, 8, slot(1), 4096);
		vdrv_kick(&f->rig.d, 0);
		assert_int_equal(resize(f, DISK_BYTES + 512 * (unsigned)(i + 1)), 0);
		assert_in_range(vring_used_waiting(&f->rig.d.rings[0]), 0, 1);
		virtio_transport_resume(f->rig.t);
		rig_finish(&f->rig, 0, 2);
	}
	header = rig_add(&f->rig, 0, T_OUT, 0, slot(0), 4096);
	rig_finish(&f->rig, 0, 1);
	assert_int_equal(rig_status(&f->rig, header), S_OK);
}

/* The end of the machine. */
static void test_reset_while_paused(void **state)
{
	struct fixture *f = *state;
	struct news quiet = NEWS_INIT;

	loop_thread_start(&f->rig.lt);
	rig_start(&f->rig, F_ALL, 1);
	rig_add(&f->rig, 0, T_OUT, 0, slot(0), 4096);
	assert_true(virtio_transport_pause(f->rig.t, news_tell, &quiet));
	news_wait(&quiet);
	vdrv_kick(&f->rig.d, 0);
	vdrv_reset(&f->rig.d);
	assert_false(virtio_transport_pause(f->rig.t, news_tell, &quiet));
}

int main(void)
{
#define ALL(f)                                                              \
	cmocka_unit_test_setup_teardown(f, setup_mmio_uring, teardown),     \
	    cmocka_unit_test_setup_teardown(f, setup_pci_uring, teardown),  \
	    cmocka_unit_test_setup_teardown(f, setup_mmio_epoll, teardown), \
	    cmocka_unit_test_setup_teardown(f, setup_pci_epoll, teardown)
	const struct CMUnitTest tests[] = {
	    ALL(test_data_against_a_model),
	    ALL(test_failing_host),
	    ALL(test_short_transfers_are_continued),
	    ALL(test_reset_in_flight),
	    ALL(test_reset_without_another_thread),
	    ALL(test_resize),
	    ALL(test_resize_of_an_inactive_device),
	    ALL(test_resize_that_is_refused),
	    ALL(test_pause),
	    ALL(test_reset_while_paused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
