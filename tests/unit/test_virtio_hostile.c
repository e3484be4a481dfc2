/* Nonsense in every register of both transports: the device survives and works afterwards. */
#include "tests/unit/virtio_rig.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_every_register_every_size),
	    BOTH(test_random_accesses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
