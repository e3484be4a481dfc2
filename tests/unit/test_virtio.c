/* What the virtio transports owe a driver, over MMIO and over PCI, with a device that only records.
 */
#include "devices/virtio/virtio.h"

#include "base/checked.h"
#include "tests/unit/virtio_driver.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define MEM_BYTES  (8 * MIB)
#define HEAP	   0x10000
#define MMIO_GPA   0xd0000000
#define ECAM_GPA   0xe0000000
#define MEM32_GPA  0xc0000000
#define MEM32_LEN  0x1000000
#define GSI	   9
#define QUEUES	   3
#define QUEUE_SIZE 32
#define CONFIG_LEN 24
#define FEATURE_A  (UINT64_C(1) << 3)
#define FEATURE_B  (UINT64_C(1) << 20)
#define NO_VECTOR  0xffff
#define OK	   (1 | 2 | 8 | 4)
#define NEEDS	   0x40

struct recorder {
	struct virtio_dev dev;
	uint8_t config[CONFIG_LEN];
	int activate_result;
	unsigned activations, resets;
	unsigned *frees;
	uint64_t features;
	struct virtq *queues[QUEUES];
};

struct fixture {
	struct fake_platform fp;
	struct pci_host *host;
	struct recorder *rec;
	struct virtio_transport *t;
	struct vdrv d;
	enum vdrv_kind kind;
	unsigned frees;
};

static struct recorder *rec_of(struct virtio_dev *dev)
{
	return container_of(dev, struct recorder, dev);
}

static void rec_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (offset < CONFIG_LEN)
		memcpy(buf, rec_of(dev)->config + offset, MIN(len, CONFIG_LEN - offset));
}

static void rec_config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	if (offset < CONFIG_LEN)
		memcpy(rec_of(dev)->config + offset, buf, MIN(len, CONFIG_LEN - offset));
}

static int rec_activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	struct recorder *rec = rec_of(dev);

	if (rec->activate_result)
		return rec->activate_result;
	rec->activations++;
	rec->features = features;
	memcpy(rec->queues, queues, sizeof(rec->queues));
	return 0;
}

static void rec_reset(struct virtio_dev *dev)
{
	rec_of(dev)->resets++;
	memset(rec_of(dev)->queues, 0, sizeof(rec_of(dev)->queues));
}

static void rec_free(struct virtio_dev *dev)
{
	struct recorder *rec = rec_of(dev);

	(*rec->frees)++;
	virtio_dev_fini(dev);
	free(rec);
}

static const struct virtio_dev_ops rec_ops = {
    .config_read = rec_config_read,
    .config_write = rec_config_write,
    .activate = rec_activate,
    .reset = rec_reset,
    .free = rec_free,
};

static struct recorder *recorder_new(unsigned *frees)
{
	struct recorder *rec = calloc(1, sizeof(*rec));

	rec->dev.ops = &rec_ops;
	rec->dev.name = "recorder";
	rec->dev.id = VIRTIO_ID_BLOCK;
	rec->dev.features = FEATURE_A | FEATURE_B;
	rec->dev.nqueues = QUEUES;
	rec->dev.queue_size_max = QUEUE_SIZE;
	rec->dev.config_len = CONFIG_LEN;
	rec->frees = frees;
	for (unsigned i = 0; i < CONFIG_LEN; i++)
		rec->config[i] = (uint8_t)(0x10 + i);
	assert_int_equal(virtio_dev_init(&rec->dev, NULL), 0);
	return rec;
}

static void plug(struct fixture *f)
{
	const struct pci_host_config hc = {
	    .ecam_gpa = ECAM_GPA,
	    .mem32_gpa = MEM32_GPA,
	    .mem32_len = MEM32_LEN,
	    .mem64_gpa = 64 * GIB,
	    .mem64_len = GIB,
	};

	f->rec = recorder_new(&f->frees);
	if (f->kind == VDRV_MMIO) {
		assert_int_equal(
		    virtio_mmio_new(&f->fp.plat, MMIO_GPA, GSI, &f->rec->dev, &f->t, NULL), 0);
		vdrv_init_mmio(&f->d, &f->fp, MMIO_GPA, GSI, HEAP);
		return;
	}
	assert_int_equal(pci_host_new(&f->fp.plat, &hc, &f->host, NULL), 0);
	assert_int_equal(virtio_pci_new(&f->fp.plat, f->host, &f->rec->dev, &f->t, NULL), 0);
	assert_true(vdrv_init_pci(&f->d, &f->fp, 1, HEAP));
}

static int setup(void **state, enum vdrv_kind kind, int doorbell_error)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.kind = kind;
	fake_platform_init(&f.fp, MEM_BYTES);
	f.fp.doorbell_error = doorbell_error;
	plug(&f);
	*state = &f;
	return 0;
}

static int setup_mmio(void **state)
{
	return setup(state, VDRV_MMIO, 0);
}

static int setup_pci(void **state)
{
	return setup(state, VDRV_PCI, 0);
}

static int setup_mmio_no_ioeventfd(void **state)
{
	return setup(state, VDRV_MMIO, ENOSPC);
}

static int setup_pci_no_ioeventfd(void **state)
{
	return setup(state, VDRV_PCI, ENOSPC);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_transport_free(f->t);
	pci_host_free(f->host);
	assert_int_equal(f->frees, 1);
	assert_int_equal(fake_doorbell_count(&f->fp), 0);
	fake_platform_fini(&f->fp);
	return 0;
}

static bool start(struct fixture *f)
{
	return vdrv_start(&f->d, FEATURE_A | VDRV_EVENT | VDRV_INDIRECT, QUEUES, 0);
}

/* As far as FEATURES_OK, so that queues may be configured. */
static void negotiate(struct fixture *f)
{
	vdrv_reset(&f->d);
	vdrv_set_status(&f->d, 1);
	vdrv_set_status(&f->d, 1 | 2);
	vdrv_accept(&f->d, VDRV_V1);
	vdrv_set_status(&f->d, 1 | 2 | 8);
	assert_int_equal(vdrv_status(&f->d), 1 | 2 | 8);
	if (f->kind == VDRV_PCI)
		vdrv_config_vector(&f->d, 0);
}

static bool kicked(struct fixture *f, unsigned q)
{
	struct pollfd p = {.fd = f->rec->dev.kick_fd[q], .events = POLLIN};
	eventfd_t n;

	if (poll(&p, 1, 0) != 1)
		return false;
	eventfd_read(p.fd, &n);
	return true;
}

/* ---- features and status ---- */

static void test_identity(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdrv_id(&f->d), VIRTIO_ID_BLOCK);
	if (f->kind == VDRV_MMIO) {
		assert_int_equal(fake_guest_read(&f->fp, DOORBELL_MMIO, MMIO_GPA, 4), 0x74726976);
		assert_int_equal(fake_guest_read(&f->fp, DOORBELL_MMIO, MMIO_GPA + 4, 4), 2);
	} else {
		assert_int_equal(vdrv_pci_read(&f->d, 2, 2), 0x1042);
		assert_int_equal(vdrv_pci_read(&f->d, 8, 1), 1);
		assert_int_equal(f->d.vectors, QUEUES + 1);
		assert_int_equal(f->d.notify_multiplier, 4);
	}
	assert_int_equal(vdrv_status(&f->d), 0);
}

static void test_offers_features_of_core_and_device(void **state)
{
	struct fixture *f = *state;

	assert_true(vdrv_offered(&f->d) ==
		    (FEATURE_A | FEATURE_B | VDRV_V1 | VDRV_EVENT | VDRV_INDIRECT));
}

static void test_features_beyond_64_bits_are_none(void **state)
{
	struct fixture *f = *state;
	const gpa_t sel = f->kind == VDRV_MMIO ? MMIO_GPA + 0x14 : f->d.common;
	const gpa_t value = f->kind == VDRV_MMIO ? MMIO_GPA + 0x10 : f->d.common + 4;

	for (uint64_t i = 2; i < 0x100000000; i = i * 3 + 1) {
		fake_guest_write(&f->fp, DOORBELL_MMIO, sel, 4, i);
		assert_int_equal(fake_guest_read(&f->fp, DOORBELL_MMIO, value, 4), 0);
	}
}

static void test_start_activates(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f));
	assert_int_equal(vdrv_status(&f->d), OK);
	assert_int_equal(f->rec->activations, 1);
	assert_true(f->rec->features == (FEATURE_A | VDRV_EVENT | VDRV_INDIRECT | VDRV_V1));
	for (unsigned q = 0; q < QUEUES; q++) {
		assert_non_null(f->rec->queues[q]);
		assert_int_equal(virtq_index(f->rec->queues[q]), q);
		assert_int_equal(virtq_size(f->rec->queues[q]), QUEUE_SIZE);
	}
	vdrv_set_status(&f->d, OK);
	assert_int_equal(f->rec->activations, 1);
}

static void test_queues_left_disabled_are_absent(void **state)
{
	struct fixture *f = *state;

	assert_true(vdrv_start(&f->d, 0, 1, 8));
	assert_non_null(f->rec->queues[0]);
	assert_int_equal(virtq_size(f->rec->queues[0]), 8);
	assert_null(f->rec->queues[1]);
	assert_null(f->rec->queues[2]);
}

static void test_refuses_driver_without_version_1(void **state)
{
	struct fixture *f = *state;

	vdrv_set_status(&f->d, 1);
	vdrv_set_status(&f->d, 1 | 2);
	vdrv_accept(&f->d, FEATURE_A);
	vdrv_set_status(&f->d, 1 | 2 | 8);
	assert_int_equal(vdrv_status(&f->d), 1 | 2);
	/* and the driver may try again */
	vdrv_accept(&f->d, FEATURE_A | VDRV_V1);
	vdrv_set_status(&f->d, 1 | 2 | 8);
	assert_int_equal(vdrv_status(&f->d), 1 | 2 | 8);
}

static void test_refuses_features_not_offered(void **state)
{
	struct fixture *f = *state;

	for (unsigned bit = 0; bit < 64; bit++) {
		const uint64_t one = UINT64_C(1) << bit;

		vdrv_reset(&f->d);
		vdrv_set_status(&f->d, 1);
		vdrv_set_status(&f->d, 1 | 2);
		vdrv_accept(&f->d, VDRV_V1 | one);
		vdrv_set_status(&f->d, 1 | 2 | 8);
		assert_int_equal(vdrv_status(&f->d) & 8, vdrv_offered(&f->d) & one ? 8 : 0);
	}
}

static void test_features_are_frozen_by_features_ok(void **state)
{
	struct fixture *f = *state;

	negotiate(f);
	vdrv_accept(&f->d, VDRV_V1 | FEATURE_B);
	vdrv_set_status(&f->d, OK);
	assert_int_equal(f->rec->activations, 1);
	assert_true(f->rec->features == VDRV_V1);
}

static void test_status_bits_cannot_be_cleared(void **state)
{
	struct fixture *f = *state;

	vdrv_set_status(&f->d, 1);
	vdrv_set_status(&f->d, 1 | 2);
	vdrv_set_status(&f->d, 1);
	assert_int_equal(vdrv_status(&f->d), 3);
	vdrv_set_status(&f->d, 2);
	assert_int_equal(vdrv_status(&f->d), 3);
	assert_true(start(f));
	vdrv_set_status(&f->d, OK & ~4);
	assert_int_equal(vdrv_status(&f->d), OK);
	assert_int_equal(f->rec->resets, 0);
}

static void test_driver_ok_needs_features_ok(void **state)
{
	struct fixture *f = *state;

	vdrv_set_status(&f->d, 1 | 2 | 4);
	assert_int_equal(vdrv_status(&f->d), 1 | 2);
	assert_int_equal(f->rec->activations, 0);
	vdrv_set_status(&f->d, 4 | 8);
	assert_int_equal(f->rec->activations, 0);
}

static void test_driver_cannot_set_needs_reset(void **state)
{
	struct fixture *f = *state;

	vdrv_set_status(&f->d, 1 | NEEDS);
	assert_int_equal(vdrv_status(&f->d), 1);
	vdrv_set_status(&f->d, 1 | 0x80);
	assert_int_equal(vdrv_status(&f->d), 1 | 0x80);
}

static void test_reset_brings_everything_back(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 1; i <= 3; i++) {
		assert_true(start(f));
		virtio_raise_queue(&f->rec->dev, 0);
		virtio_raise_needs_reset(&f->rec->dev);
		assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
		vdrv_reset(&f->d);
		assert_int_equal(f->rec->resets, i);
		assert_int_equal(vdrv_status(&f->d), 0);
		assert_int_equal(vdrv_isr(&f->d), 0);
		for (unsigned q = 0; q < QUEUES; q++) {
			assert_false(vdrv_queue_enabled(&f->d, q));
			assert_int_equal(vdrv_queue_max(&f->d, q), QUEUE_SIZE);
		}
		if (f->kind == VDRV_PCI) {
			assert_int_equal(
			    fake_guest_read(&f->fp, DOORBELL_MMIO, f->d.common + 0x10, 2),
			    NO_VECTOR);
			assert_int_equal(
			    fake_guest_read(&f->fp, DOORBELL_MMIO, f->d.common + 0x20, 8), 0);
		}
		vdrv_reset(&f->d);
		assert_int_equal(f->rec->resets, i); /* nothing to reset any more */
	}
}

/* ---- queues ---- */

static void test_no_queue_beyond_the_last(void **state)
{
	struct fixture *f = *state;
	static const unsigned bad[] = {QUEUES, QUEUES + 1, 15, 16, 17, 255, 256, 0xffff};

	negotiate(f);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(vdrv_queue_max(&f->d, bad[i]), 0);
		vdrv_queue_set(&f->d, bad[i], 8, 0x1000, 0x2000, 0x3000);
		vdrv_queue_enable(&f->d, bad[i]);
		assert_false(vdrv_queue_enabled(&f->d, bad[i]));
	}
	/* a number that is a queue only when it is cut off */
	if (f->kind == VDRV_MMIO)
		assert_int_equal(vdrv_queue_max(&f->d, 0x10000), 0);
}

/* An enabled queue keeps the registers that it had. */
static void test_enabled_queue_is_frozen(void **state)
{
	struct fixture *f = *state;
	struct vring r;

	negotiate(f);
	vring_init(&r, &f->fp, HEAP, 16, 0);
	vdrv_queue_set(&f->d, 0, 16, r.desc, r.avail, r.used);
	vdrv_queue_enable(&f->d, 0);
	vdrv_queue_set(&f->d, 0, 3, 1, MEM_BYTES, UINT64_MAX);
	vdrv_set_status(&f->d, OK);
	assert_int_equal(vdrv_status(&f->d), OK);
	assert_non_null(f->rec->queues[0]);
	assert_int_equal(virtq_size(f->rec->queues[0]), 16);
}

static void test_active_device_takes_no_more_queues(void **state)
{
	struct fixture *f = *state;
	struct vring r;

	assert_true(vdrv_start(&f->d, 0, 1, 0));
	vring_init(&r, &f->fp, f->d.heap, 16, 0);
	vdrv_queue_set(&f->d, 1, 16, r.desc, r.avail, r.used);
	vdrv_queue_enable(&f->d, 1);
	assert_false(vdrv_queue_enabled(&f->d, 1));
	assert_true(vdrv_queue_enabled(&f->d, 0));
	if (f->kind == VDRV_MMIO) {
		fake_guest_write(&f->fp, DOORBELL_MMIO, MMIO_GPA + 0x30, 4, 0);
		fake_guest_write(&f->fp, DOORBELL_MMIO, MMIO_GPA + 0x44, 4, 0);
		assert_true(vdrv_queue_enabled(&f->d, 0));
	}
	assert_int_equal(f->rec->resets, 0);
}

static void test_bad_rings_need_reset(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t size;
		gpa_t desc, avail, used;
	} bad[] = {
	    {0, 0x1000, 0x2000, 0x3000},
	    {3, 0x1000, 0x2000, 0x3000},
	    {2 * QUEUE_SIZE, 0x1000, 0x2000, 0x3000},
	    {0x8000, 0x1000, 0x2000, 0x3000},
	    {16, 0x1008, 0x2000, 0x3000},
	    {16, 0x1000, 0x2001, 0x3000},
	    {16, 0x1000, 0x2000, 0x3002},
	    {16, MEM_BYTES - 16, 0x2000, 0x3000},
	    {16, 0x1000, MEM_BYTES, 0x3000},
	    {16, 0x1000, 0x2000, UINT64_MAX & ~3ull},
	    {16, UINT64_C(1) << 40, 0x2000, 0x3000},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		negotiate(f);
		vdrv_config_irqs(&f->d);
		vdrv_queue_set(&f->d, 1, bad[i].size, bad[i].desc, bad[i].avail, bad[i].used);
		vdrv_queue_enable(&f->d, 1);
		vdrv_set_status(&f->d, OK);
		assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
		assert_int_equal(vdrv_config_irqs(&f->d), 1);
		assert_int_equal(vdrv_isr(&f->d), 2);
	}
	assert_int_equal(f->rec->activations, 0);
	assert_int_equal(f->rec->resets, 0);
	assert_true(start(f));
	assert_int_equal(vdrv_status(&f->d), OK);
}

static void test_size_that_fits_only_when_cut_off(void **state)
{
	struct fixture *f = *state;

	if (f->kind == VDRV_PCI)
		return; /* the register has 16 bits */
	negotiate(f);
	vdrv_queue_set(&f->d, 0, 0x10010, 0x1000, 0x2000, 0x3000);
	vdrv_queue_enable(&f->d, 0);
	vdrv_set_status(&f->d, OK);
	assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
}

static void test_device_that_cannot_start_needs_reset(void **state)
{
	struct fixture *f = *state;

	f->rec->activate_result = -ENOMEM;
	assert_true(start(f));
	assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
	vdrv_reset(&f->d);
	assert_int_equal(f->rec->resets, 0);
	f->rec->activate_result = 0;
	assert_true(start(f));
	assert_int_equal(vdrv_status(&f->d), OK);
}

/* ---- interrupts ---- */

static void test_queue_interrupts(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f));
	for (unsigned q = 0; q < QUEUES; q++) {
		assert_int_equal(vdrv_queue_irqs(&f->d, q), 0);
		virtio_raise_queue(&f->rec->dev, q);
		assert_int_equal(vdrv_queue_irqs(&f->d, q), 1);
		assert_int_equal(vdrv_queue_irqs(&f->d, (q + 1) % QUEUES), 0);
		assert_int_equal(vdrv_isr(&f->d), 1);
		assert_int_equal(vdrv_isr(&f->d), 0);
	}
}

static void test_config_interrupts(void **state)
{
	struct fixture *f = *state;
	uint32_t before;

	assert_true(start(f));
	before = vdrv_generation(&f->d);
	assert_int_equal(vdrv_generation(&f->d), before);
	virtio_raise_config(&f->rec->dev);
	assert_int_equal(vdrv_config_irqs(&f->d), 1);
	assert_int_equal(vdrv_isr(&f->d), 2);
	assert_int_not_equal(vdrv_generation(&f->d), before);
	virtio_raise_queue(&f->rec->dev, 0);
	virtio_raise_config(&f->rec->dev);
	assert_int_equal(vdrv_isr(&f->d), 3);
}

/* The line is edge-triggered: a second event before the first was acknowledged has its own edge. */
static void test_every_event_has_its_edge(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f));
	for (unsigned i = 0; i < 5; i++) {
		virtio_raise_queue(&f->rec->dev, 1);
		assert_int_equal(vdrv_queue_irqs(&f->d, 1), 1);
	}
}

static void test_acknowledges_only_what_is_asked(void **state)
{
	struct fixture *f = *state;

	if (f->kind == VDRV_PCI)
		return; /* reading acknowledges all */
	assert_true(start(f));
	virtio_raise_queue(&f->rec->dev, 0);
	virtio_raise_config(&f->rec->dev);
	fake_guest_write(&f->fp, DOORBELL_MMIO, MMIO_GPA + 0x64, 4, 1);
	assert_int_equal(vdrv_isr(&f->d), 2);
}

static void test_needs_reset_is_told_once(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f));
	virtio_raise_needs_reset(&f->rec->dev);
	virtio_raise_needs_reset(&f->rec->dev);
	assert_int_equal(vdrv_config_irqs(&f->d), 1);
	assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
	/* the bit is the device's: writing it back, or not, changes nothing */
	vdrv_set_status(&f->d, OK);
	assert_int_equal(vdrv_status(&f->d), OK | NEEDS);
}

/* ---- doorbells ---- */

static void test_doorbells(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_doorbell_count(&f->fp), f->fp.doorbell_error ? 0 : QUEUES);
	assert_true(start(f));
	for (unsigned q = 0; q < QUEUES; q++) {
		assert_false(kicked(f, q));
		vdrv_notify(&f->d, q);
		for (unsigned k = 0; k < QUEUES; k++)
			assert_int_equal(kicked(f, k), k == q);
	}
	assert_int_equal(f->fp.doorbell_error ? f->d.exits : f->d.doorbells, QUEUES);
	for (unsigned q = QUEUES; q < 40; q++)
		vdrv_notify(&f->d, q);
	for (unsigned q = 0; q < QUEUES; q++)
		assert_false(kicked(f, q));
}

/* ---- device configuration ---- */

static void test_config_any_size_any_offset(void **state)
{
	struct fixture *f = *state;

	for (unsigned size = 1; size <= 8; size++) {
		for (unsigned at = 0; at < CONFIG_LEN + 16; at++) {
			uint64_t expect = 0;

			for (unsigned i = 0; i < size; i++)
				if (at + i < CONFIG_LEN)
					expect |= (uint64_t)(0x10 + at + i) << (8 * i);
			assert_true(vdrv_config(&f->d, at, size) == expect);
		}
	}
}

static void test_config_writes(void **state)
{
	struct fixture *f = *state;

	vdrv_set_config(&f->d, 4, 4, 0xa1b2c3d4);
	assert_int_equal(vdrv_config(&f->d, 4, 4), 0xa1b2c3d4);
	assert_int_equal(vdrv_config(&f->d, 3, 1), 0x13);
	assert_int_equal(vdrv_config(&f->d, 8, 1), 0x18);
	vdrv_set_config(&f->d, CONFIG_LEN - 1, 8, UINT64_MAX);
	assert_int_equal(vdrv_config(&f->d, CONFIG_LEN - 1, 8), 0xff);
	vdrv_set_config(&f->d, 0xe00, 8, UINT64_MAX);
	assert_int_equal(vdrv_config(&f->d, 0xe00, 8), 0);
}

/* ---- PCI ---- */

static void test_vectors_out_of_range_read_back_as_none(void **state)
{
	struct fixture *f = *state;
	static const uint16_t bad[] = {QUEUES + 1, QUEUES + 2, 63, 64, 0x7fff, 0xfffe, NO_VECTOR};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(vdrv_queue_vector(&f->d, 0, QUEUES), QUEUES);
		assert_int_equal(vdrv_queue_vector(&f->d, 0, bad[i]), NO_VECTOR);
		assert_int_equal(vdrv_config_vector(&f->d, 1), 1);
		assert_int_equal(vdrv_config_vector(&f->d, bad[i]), NO_VECTOR);
	}
	assert_int_equal(vdrv_queue_vector(&f->d, QUEUES, 0), NO_VECTOR);
}

static void test_no_vector_no_interrupt(void **state)
{
	struct fixture *f = *state;

	negotiate(f);
	vdrv_config_vector(&f->d, NO_VECTOR);
	vdrv_set_status(&f->d, OK);
	virtio_raise_queue(&f->rec->dev, 0);
	virtio_raise_config(&f->rec->dev);
	for (unsigned v = 0; v < fake_msi_count(&f->fp); v++)
		assert_int_equal(fake_msi_taken(&f->fp, v), 0);
	assert_int_equal(vdrv_isr(&f->d), 3);
}

static void test_queues_may_share_a_vector(void **state)
{
	struct fixture *f = *state;

	negotiate(f);
	for (unsigned q = 0; q < QUEUES; q++)
		assert_int_equal(vdrv_queue_vector(&f->d, q, 2), 2);
	vdrv_set_status(&f->d, OK);
	for (unsigned q = 0; q < QUEUES; q++)
		virtio_raise_queue(&f->rec->dev, q);
	assert_int_equal(vdrv_queue_irqs(&f->d, 1), QUEUES);
}

static void test_doorbells_follow_the_bar(void **state)
{
	struct fixture *f = *state;
	const gpa_t old = f->d.common, moved = MEM32_GPA + 0x800000;

	assert_true(start(f));
	vdrv_pci_write(&f->d, 0x10, 4, moved);
	assert_int_equal(fake_doorbell_count(&f->fp), QUEUES);
	assert_false(fake_doorbell_ring(&f->fp, DOORBELL_MMIO, f->d.notify, 2, 0));
	f->d.notify += moved - old;
	f->d.common = moved;
	vdrv_notify(&f->d, 2);
	assert_true(kicked(f, 2));
	assert_int_equal(f->d.exits, 0);
	assert_int_equal(vdrv_status(&f->d), OK);
	/* memory decoding off: gone */
	vdrv_pci_write(&f->d, 4, 2, 0);
	assert_int_equal(fake_doorbell_count(&f->fp), 0);
	vdrv_pci_write(&f->d, 4, 2, 2);
	assert_int_equal(fake_doorbell_count(&f->fp), QUEUES);
}

static uint32_t window_read(struct fixture *f, uint32_t offset, unsigned len)
{
	vdrv_pci_write(&f->d, f->d.window + 4, 1, 0);
	vdrv_pci_write(&f->d, f->d.window + 8, 4, offset);
	vdrv_pci_write(&f->d, f->d.window + 12, 4, len);
	return vdrv_pci_read(&f->d, f->d.window + 16, len);
}

static void window_write(struct fixture *f, uint32_t offset, unsigned len, uint32_t value)
{
	vdrv_pci_write(&f->d, f->d.window + 4, 1, 0);
	vdrv_pci_write(&f->d, f->d.window + 8, 4, offset);
	vdrv_pci_write(&f->d, f->d.window + 12, 4, len);
	vdrv_pci_write(&f->d, f->d.window + 16, len, value);
}

static void test_window_reaches_every_register(void **state)
{
	struct fixture *f = *state;
	const uint32_t bar = (uint32_t)(f->d.common & ~0xffff);
	const uint32_t common = (uint32_t)f->d.common - bar;
	const uint32_t device = (uint32_t)f->d.device - bar;
	const uint32_t notify = (uint32_t)f->d.notify - bar;
	const uint32_t isr = (uint32_t)f->d.isr - bar;

	window_write(f, common + 0x14, 1, 1);
	assert_int_equal(vdrv_status(&f->d), 1);
	assert_int_equal(window_read(f, common + 0x14, 1), 1);
	assert_int_equal(window_read(f, common + 0x12, 2), QUEUES);
	assert_int_equal(window_read(f, device, 4), 0x13121110);
	window_write(f, device + 4, 4, 0x01020304);
	assert_int_equal(vdrv_config(&f->d, 4, 4), 0x01020304);
	window_write(f, notify + 4, 2, 1);
	assert_true(kicked(f, 1));
	virtio_raise_queue(&f->rec->dev, 0);
	assert_int_equal(window_read(f, isr, 1), 1);
	assert_int_equal(window_read(f, isr, 1), 0);
}

static void test_window_reaches_nothing_else(void **state)
{
	struct fixture *f = *state;
	static const uint32_t offsets[] = {0x4000, 0x4800, 0x7fff, 0x8000, 0x10000, UINT32_MAX};

	for (unsigned len = 0; len < 9; len++) {
		for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
			vdrv_pci_write(&f->d, f->d.window + 8, 4, offsets[i]);
			vdrv_pci_write(&f->d, f->d.window + 12, 4, len);
			vdrv_pci_write(&f->d, f->d.window + 16, 4, 0xdeadbeef);
			vdrv_pci_read(&f->d, f->d.window + 16, 4);
		}
	}
	/* another BAR, a length that is none, an offset that the length does not divide */
	for (unsigned bar = 1; bar < 256; bar++) {
		vdrv_pci_write(&f->d, f->d.window + 4, 1, bar);
		vdrv_pci_write(&f->d, f->d.window + 8, 4, 0x14);
		vdrv_pci_write(&f->d, f->d.window + 12, 4, 1);
		vdrv_pci_write(&f->d, f->d.window + 16, 1, 1);
	}
	assert_int_equal(vdrv_status(&f->d), 0);
}

/* ---- hostile drivers ---- */

static const uint64_t nonsense[] = {
    0,		1,	    2,		3,	     4,		 7,	 8,	  0x0f,
    0x40,	0x80,	    0xff,	0x100,	     0xfffe,	 0xffff, 0x10000, MEM_BYTES - 1,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, UINT64_MAX,
};

static void assert_still_works(struct fixture *f)
{
	if (f->kind == VDRV_PCI) {
		fake_guest_write(&f->fp, DOORBELL_PIO, 0xcf8, 4, 0);
		vdrv_pci_write(&f->d, 4, 2, 0);
		vdrv_pci_write(&f->d, 0x10, 4, MEM32_GPA);
		assert_true(vdrv_init_pci(&f->d, &f->fp, 1, HEAP));
	}
	f->d.heap = HEAP;
	assert_true(start(f));
	assert_int_equal(vdrv_status(&f->d), OK);
	vdrv_queue_irqs(&f->d, 1);
	virtio_raise_queue(&f->rec->dev, 1);
	assert_int_equal(vdrv_queue_irqs(&f->d, 1), 1);
}

/* Each register in each size with each value, from each state of the status machine. */
static void test_every_register_every_size(void **state)
{
	struct fixture *f = *state;
	const gpa_t base = f->kind == VDRV_MMIO ? MMIO_GPA : f->d.common & ~0x7fffull;
	const unsigned len = f->kind == VDRV_MMIO ? 0x140 : 0x40;

	for (unsigned stage = 0; stage < 3; stage++) {
		for (unsigned at = 0; at < len; at++) {
			for (unsigned size = 1; size <= 8; size++) {
				f->d.heap = HEAP;
				if (stage == 1)
					negotiate(f);
				else if (stage == 2)
					assert_true(start(f));
				for (size_t v = 0; v < ARRAY_LEN(nonsense); v++) {
					fake_guest_write(&f->fp, DOORBELL_MMIO, base + at, size,
							 nonsense[v]);
					fake_guest_read(&f->fp, DOORBELL_MMIO, base + at, size);
				}
			}
		}
	}
	assert_still_works(f);
}

static void test_random_accesses(void **state)
{
	struct fixture *f = *state;
	const gpa_t base = f->kind == VDRV_MMIO ? MMIO_GPA : f->d.common & ~0x7fffull;
	const unsigned len = f->kind == VDRV_MMIO ? 0x1000 : 0x8000;
	uint64_t x = 88172645463325252;

	for (unsigned i = 0; i < 400000; i++) {
		unsigned at, size;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		at = (unsigned)(x >> 8) % len;
		if (x & 1)
			at &= 0xfc | (x & 0x7000); /* where the registers are */
		size = x & 2 ? 4 : (unsigned)(x >> 40) % 8 + 1;
		if (x & 4)
			fake_guest_read(&f->fp, DOORBELL_MMIO, base + at, size);
		else
			fake_guest_write(&f->fp, DOORBELL_MMIO, base + at, size,
					 x & 8 ? x >> 20
					       : nonsense[(x >> 20) % ARRAY_LEN(nonsense)]);
		if (f->kind == VDRV_PCI && (x >> 50) % 16 == 0)
			vdrv_pci_write(&f->d, f->d.window + (x >> 30) % 20, 1u << (x >> 36) % 3,
				       (uint32_t)(x >> 12));
	}
	assert_still_works(f);
}

/* ---- set-up that fails ---- */

static void test_refused_set_up_leaves_the_device_to_its_maker(void **state)
{
	struct fixture *f = *state;
	struct virtio_transport *others[PCI_SLOTS] = {0};
	unsigned frees = 0;
	struct recorder *rec = recorder_new(&frees);
	struct virtio_transport *t = NULL;
	struct err err = ERR_INIT;
	const unsigned bells = fake_doorbell_count(&f->fp);

	if (f->kind == VDRV_MMIO) {
		assert_int_equal(
		    virtio_mmio_new(&f->fp.plat, MMIO_GPA + 0x800, GSI, &rec->dev, &t, &err),
		    -EEXIST);
		err = (struct err)ERR_INIT;
		f->fp.irq_error = EBUSY;
		assert_int_equal(
		    virtio_mmio_new(&f->fp.plat, MMIO_GPA + 0x1000, GSI, &rec->dev, &t, &err),
		    -EBUSY);
	} else {
		f->fp.msi_alloc_error = ENOSPC;
		assert_int_equal(virtio_pci_new(&f->fp.plat, f->host, &rec->dev, &t, &err),
				 -ENOSPC);
		f->fp.msi_alloc_error = 0;
		err = (struct err)ERR_INIT;
		for (unsigned i = 2; i < PCI_SLOTS; i++) {
			struct recorder *filler = recorder_new(&frees);

			assert_int_equal(
			    virtio_pci_new(&f->fp.plat, f->host, &filler->dev, &others[i], NULL),
			    0);
		}
		assert_int_equal(virtio_pci_new(&f->fp.plat, f->host, &rec->dev, &t, &err),
				 -ENOSPC);
	}
	assert_true(err.code);
	assert_null(t);
	assert_int_equal(frees, 0);
	if (f->kind == VDRV_MMIO)
		assert_int_equal(fake_doorbell_count(&f->fp), bells);
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		virtio_transport_free(others[i]);
	rec_free(&rec->dev);
}

int main(void)
{
#define MMIO(f) cmocka_unit_test_setup_teardown(f, setup_mmio, teardown)
#define PCI(f)	cmocka_unit_test_setup_teardown(f, setup_pci, teardown)
#define BOTH(f) MMIO(f), PCI(f)
	const struct CMUnitTest tests[] = {
	    BOTH(test_identity),
	    BOTH(test_offers_features_of_core_and_device),
	    BOTH(test_features_beyond_64_bits_are_none),
	    BOTH(test_start_activates),
	    BOTH(test_queues_left_disabled_are_absent),
	    BOTH(test_refuses_driver_without_version_1),
	    BOTH(test_refuses_features_not_offered),
	    BOTH(test_features_are_frozen_by_features_ok),
	    BOTH(test_status_bits_cannot_be_cleared),
	    BOTH(test_driver_ok_needs_features_ok),
	    BOTH(test_driver_cannot_set_needs_reset),
	    BOTH(test_reset_brings_everything_back),
	    BOTH(test_no_queue_beyond_the_last),
	    BOTH(test_enabled_queue_is_frozen),
	    BOTH(test_active_device_takes_no_more_queues),
	    BOTH(test_bad_rings_need_reset),
	    BOTH(test_size_that_fits_only_when_cut_off),
	    BOTH(test_device_that_cannot_start_needs_reset),
	    BOTH(test_queue_interrupts),
	    BOTH(test_config_interrupts),
	    BOTH(test_every_event_has_its_edge),
	    BOTH(test_acknowledges_only_what_is_asked),
	    BOTH(test_needs_reset_is_told_once),
	    BOTH(test_doorbells),
	    cmocka_unit_test_setup_teardown(test_doorbells, setup_mmio_no_ioeventfd, teardown),
	    cmocka_unit_test_setup_teardown(test_doorbells, setup_pci_no_ioeventfd, teardown),
	    BOTH(test_config_any_size_any_offset),
	    BOTH(test_config_writes),
	    PCI(test_vectors_out_of_range_read_back_as_none),
	    PCI(test_no_vector_no_interrupt),
	    PCI(test_queues_may_share_a_vector),
	    PCI(test_doorbells_follow_the_bar),
	    PCI(test_window_reaches_every_register),
	    PCI(test_window_reaches_nothing_else),
	    BOTH(test_every_register_every_size),
	    BOTH(test_random_accesses),
	    BOTH(test_refused_set_up_leaves_the_device_to_its_maker),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
