/* Interrupts and doorbells over MMIO and over PCI, and what only PCI has. */
#include "tests/unit/virtio_rig.h"

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

	/* over PCI not before the driver says that it is ready */
	if (f->d.kind == VDRV_PCI)
		assert_int_equal(fake_doorbell_count(&f->fp), 0);
	assert_true(start(f));
	assert_int_equal(fake_doorbell_count(&f->fp), f->fp.doorbell_error ? 0 : QUEUES);
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

/* Which vector a queue has may change while it runs. */
static void test_vector_of_a_running_queue(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f));
	assert_int_equal(vdrv_queue_vector(&f->d, 0, NO_VECTOR), NO_VECTOR);
	virtio_raise_queue(&f->rec->dev, 0);
	assert_int_equal(vdrv_queue_irqs(&f->d, 0), 0);
	assert_int_equal(vdrv_queue_vector(&f->d, 0, 1), 1);
	virtio_raise_queue(&f->rec->dev, 0);
	assert_int_equal(vdrv_queue_irqs(&f->d, 0), 1);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_queue_interrupts),
	    BOTH(test_config_interrupts),
	    BOTH(test_every_event_has_its_edge),
	    BOTH(test_acknowledges_only_what_is_asked),
	    BOTH(test_needs_reset_is_told_once),
	    BOTH(test_doorbells),
	    cmocka_unit_test_setup_teardown(test_doorbells, setup_mmio_no_ioeventfd, teardown),
	    cmocka_unit_test_setup_teardown(test_doorbells, setup_pci_no_ioeventfd, teardown),
	    PCI(test_vectors_out_of_range_read_back_as_none),
	    PCI(test_no_vector_no_interrupt),
	    PCI(test_queues_may_share_a_vector),
	    PCI(test_vector_of_a_running_queue),
	    PCI(test_doorbells_follow_the_bar),
	    PCI(test_window_reaches_every_register),
	    PCI(test_window_reaches_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
