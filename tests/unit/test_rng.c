/* virtio-rng on a loop of its own, over both transports. */
#include "devices/virtio/rng.h"

#include "base/checked.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/virtio_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MEM_BYTES (8 * MIB)
#define MMIO_GPA  0xd0000000
#define GSI	  4
#define OK	  0xf
#define NEEDS	  0x40

struct fixture {
	struct fake_platform fp;
	struct loop_thread lt;
	struct pci_host *host;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
};

static int setup(void **state, enum vdrv_kind kind)
{
	static struct fixture f;
	const struct pci_host_config hc = {.ports = true,
					   .ecam_gpa = 0xe0000000,
					   .mem32_gpa = 0xc0000000,
					   .mem32_len = 0x1000000,
					   .mem64_gpa = 64 * GIB,
					   .mem64_len = GIB};

	memset(&f, 0, sizeof(f));
	fake_platform_init(&f.fp, MEM_BYTES);
	loop_thread_new(&f.lt, LOOP_AUTO);
	assert_int_equal(virtio_rng_new(&f.fp.plat, f.lt.loop, &f.dev, NULL), 0);
	if (kind == VDRV_MMIO) {
		assert_int_equal(virtio_mmio_new(&f.fp.plat, MMIO_GPA, GSI, f.dev, &f.t, NULL), 0);
		vdrv_init_mmio(&f.d, &f.fp, MMIO_GPA, GSI, 0x10000);
	} else {
		assert_int_equal(pci_host_new(&f.fp.plat, &hc, &f.host, NULL), 0);
		assert_int_equal(virtio_pci_new(&f.fp.plat, f.host, f.dev, &f.t, NULL), 0);
		assert_true(vdrv_init_pci(&f.d, &f.fp, 1, 0x10000));
	}
	loop_thread_start(&f.lt);
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
	struct fixture *f = *state;

	virtio_transport_free(f->t);
	pci_host_free(f->host);
	loop_thread_free(&f->lt);
	fake_platform_fini(&f->fp);
	return 0;
}

static uint32_t request(struct fixture *f, const struct vbuf *bufs, unsigned n)
{
	uint16_t head;
	uint32_t len;

	assert_true(vring_add(&f->d.rings[0], bufs, n, false) >= 0);
	vdrv_kick(&f->d, 0);
	assert_true(vdrv_wait(&f->d, 0, 1));
	assert_true(vring_take(&f->d.rings[0], &head, &len));
	return len;
}

static void test_gives_random_bytes(void **state)
{
	struct fixture *f = *state;
	static uint8_t first[256], zero[256];
	gpa_t gpa;

	assert_int_equal(vdrv_id(&f->d), 4);
	assert_true(vdrv_start(&f->d, VDRV_EVENT, 1, 0));
	gpa = vdrv_alloc(&f->d, 4096, 4096);
	for (unsigned i = 0; i < 200; i++) {
		struct vbuf bufs[] = {{gpa, 100, true}, {gpa + 1000, 156, true}};

		memset(fake_mem(&f->fp, gpa, 4096), 0, 4096);
		assert_int_equal(request(f, bufs, 2), 256);
		assert_memory_not_equal(fake_mem(&f->fp, gpa, 100), zero, 100);
		assert_memory_not_equal(fake_mem(&f->fp, gpa + 1000, 156), zero, 156);
		assert_memory_equal(fake_mem(&f->fp, gpa + 100, 900), zero, 256);
		assert_memory_not_equal(fake_mem(&f->fp, gpa, 100), first, 100);
		memcpy(first, fake_mem(&f->fp, gpa, 100), 100);
	}
}

static void test_request_is_bounded(void **state)
{
	struct fixture *f = *state;
	struct vbuf bufs[] = {{0x400000, 3000, true}, {0x500000, 1 * MIB, true}};

	assert_true(vdrv_start(&f->d, 0, 1, 0));
	memset(fake_mem(&f->fp, 0x500000, MIB), 0x77, MIB);
	assert_int_equal(request(f, bufs, 2), RNG_REQUEST_MAX);
	for (unsigned i = RNG_REQUEST_MAX - 3000; i < MIB; i++)
		assert_int_equal(*(uint8_t *)fake_mem(&f->fp, 0x500000 + i, 1), 0x77);
}

static void test_readable_buffer_needs_reset(void **state)
{
	struct fixture *f = *state;
	struct vbuf buf = {0x400000, 64, false};

	for (unsigned i = 0; i < 3; i++) {
		f->d.heap = 0x10000;
		assert_true(vdrv_start(&f->d, 0, 1, 0));
		assert_int_equal(vdrv_status(&f->d), OK);
		vring_add(&f->d.rings[0], &buf, 1, false);
		vdrv_kick(&f->d, 0);
		assert_true(vdrv_wait_config(&f->d));
		assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
	}
	buf.write = true;
	f->d.heap = 0x10000;
	assert_true(vdrv_start(&f->d, 0, 1, 0));
	assert_int_equal(request(f, &buf, 1), 64);
}

/* After the reset the device writes nowhere any more. */
static void test_reset_with_a_full_ring(void **state)
{
	struct fixture *f = *state;
	const struct vbuf buf = {0x400000, 64, true};
	uint16_t used;

	for (unsigned i = 0; i < 300; i++) {
		f->d.heap = 0x10000;
		assert_true(vdrv_start(&f->d, i & 1 ? VDRV_EVENT : 0, 1, 0));
		while (vring_add(&f->d.rings[0], &buf, 1, false) >= 0)
			;
		vdrv_kick(&f->d, 0);
		if (i % 3 == 0)
			assert_true(vdrv_wait(&f->d, 0, 1));
		vdrv_reset(&f->d);
		used = vring_used_waiting(&f->d.rings[0]);
		memset(fake_mem(&f->fp, 0x400000, 64), 0, 64);
		assert_int_equal(vring_used_waiting(&f->d.rings[0]), used);
		assert_int_equal(vdrv_status(&f->d), 0);
	}
}

static void test_has_no_configuration(void **state)
{
	struct fixture *f = *state;

	if (f->d.kind == VDRV_PCI) {
		assert_false(f->d.device); /* no such capability */
		return;
	}
	for (unsigned at = 0; at < 16; at++) {
		vdrv_set_config(&f->d, at, 4, UINT32_MAX);
		assert_int_equal(vdrv_config(&f->d, at, 8), 0);
	}
}

int main(void)
{
#define BOTH(f)                                                   \
	cmocka_unit_test_setup_teardown(f, setup_mmio, teardown), \
	    cmocka_unit_test_setup_teardown(f, setup_pci, teardown)
	const struct CMUnitTest tests[] = {
	    BOTH(test_gives_random_bytes),	    BOTH(test_request_is_bounded),
	    BOTH(test_readable_buffer_needs_reset), BOTH(test_reset_with_a_full_ring),
	    BOTH(test_has_no_configuration),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
