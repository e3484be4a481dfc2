/* Features, status, queues and the configuration space, over MMIO and over PCI. */
#include "tests/unit/virtio_rig.h"

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
	    BOTH(test_config_any_size_any_offset),
	    BOTH(test_config_writes),
	    BOTH(test_refused_set_up_leaves_the_device_to_its_maker),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
