/* PCI as an enumerating guest, a driver and a device see it. */
#include "base/checked.h"
#include "devices/pci/pci.h"
#include "tests/unit/fake_platform.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ECAM	  0xe8000000u
#define MEM32	  0xe0000000u
#define MEM32_LEN 0x01000000u
#define MEM64	  UINT64_C(0x4000000000)
#define MEM64_LEN UINT64_C(0x100000000)

#define BAR_BYTES 0x4000
#define MSIX_AT	  0x2000 /* in the BAR */
#define VECTORS	  4

#define CMD_MEMORY 0x2
#define MSIX_ON	   0x8000
#define MSIX_FMASK 0x4000

/* A device with one BAR of plain registers and MSI-X behind them. */
struct toy {
	struct pci_dev pci;
	uint64_t last_offset, last_value;
	unsigned last_size, reads, writes;
	unsigned maps, unmaps;
	gpa_t mapped_at;
	unsigned config_reads, config_writes, config_offset, config_size;
};

static uint64_t toy_read(struct pci_dev *dev, unsigned bar, uint64_t offset, unsigned size)
{
	struct toy *t = container_of(dev, struct toy, pci);

	assert_int_equal(bar, 0);
	t->last_offset = offset;
	t->last_size = size;
	t->reads++;
	return UINT64_C(0x1122334455667788);
}

static void toy_write(struct pci_dev *dev, unsigned bar, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct toy *t = container_of(dev, struct toy, pci);

	assert_int_equal(bar, 0);
	t->last_offset = offset;
	t->last_size = size;
	t->last_value = value;
	t->writes++;
}

static void toy_mapped(struct pci_dev *dev, unsigned bar, gpa_t gpa, bool mapped)
{
	struct toy *t = container_of(dev, struct toy, pci);

	assert_int_equal(bar, 0);
	if (mapped) {
		assert_int_equal(t->maps, t->unmaps);
		t->maps++;
		t->mapped_at = gpa;
	} else {
		assert_int_equal(t->maps, t->unmaps + 1);
		assert_true(t->mapped_at == gpa);
		t->unmaps++;
	}
}

static void toy_config_read(struct pci_dev *dev, unsigned offset, unsigned size)
{
	struct toy *t = container_of(dev, struct toy, pci);

	t->config_reads++;
	t->config_offset = offset;
	t->config_size = size;
}

static void toy_config_written(struct pci_dev *dev, unsigned offset, unsigned size)
{
	struct toy *t = container_of(dev, struct toy, pci);

	t->config_writes++;
	t->config_offset = offset;
	t->config_size = size;
}

static const struct pci_dev_ops toy_ops = {
    .bar_read = toy_read,
    .bar_write = toy_write,
    .bar_mapped = toy_mapped,
    .config_read = toy_config_read,
    .config_written = toy_config_written,
};

static struct fake_platform fp;
static struct pci_host *host;
static struct toy toy; /* in slot 1 */

static void toy_init(struct toy *t, bool is_64)
{
	static const struct pci_ids ids = {0x1af4, 0x1042, 0x1af4, 0x0040, 1, 0x018000};

	memset(t, 0, sizeof(*t));
	pci_dev_init(&t->pci, &toy_ops, "toy", &ids);
	pci_dev_set_bar(&t->pci, 0, BAR_BYTES, is_64);
}

static int setup(void **state)
{
	const struct pci_host_config config = {.ecam_gpa = ECAM,
					       .mem32_gpa = MEM32,
					       .mem32_len = MEM32_LEN,
					       .mem64_gpa = MEM64,
					       .mem64_len = MEM64_LEN,
					       .ports = true};

	(void)state;
	fake_platform_init(&fp, 1 << 20);
	if (pci_host_new(&fp.plat, &config, &host, NULL))
		return -1;
	toy_init(&toy, true);
	if (pci_dev_add_msix(&toy.pci, &fp.plat, 0, MSIX_AT, VECTORS, NULL))
		return -1;
	return pci_host_add(host, &toy.pci, NULL);
}

static int teardown(void **state)
{
	(void)state;
	pci_host_free(host);
	assert_int_equal(toy.maps, toy.unmaps);
	pci_dev_fini(&toy.pci);
	fake_platform_fini(&fp);
	return 0;
}

static uint64_t mmio_read(gpa_t gpa, unsigned size)
{
	return fake_guest_read(&fp, DOORBELL_MMIO, gpa, size);
}

static void mmio_write(gpa_t gpa, unsigned size, uint64_t v)
{
	fake_guest_write(&fp, DOORBELL_MMIO, gpa, size, v);
}

static gpa_t ecam(unsigned slot, unsigned fn, unsigned reg)
{
	return ECAM + (slot << 15 | fn << 12 | reg);
}

static uint32_t cfg(unsigned reg, unsigned size)
{
	return (uint32_t)mmio_read(ecam(1, 0, reg), size);
}

static void cfg_write(unsigned reg, unsigned size, uint32_t v)
{
	mmio_write(ecam(1, 0, reg), size, v);
}

static gpa_t bar_gpa(void)
{
	return ((gpa_t)cfg(0x14, 4) << 32) | (cfg(0x10, 4) & ~0xfu);
}

static void bar_set(gpa_t gpa)
{
	cfg_write(0x10, 4, (uint32_t)gpa);
	cfg_write(0x14, 4, (uint32_t)(gpa >> 32));
}

static bool bar_answers_at(gpa_t gpa)
{
	unsigned reads = toy.reads;

	mmio_read(gpa, 4);
	return toy.reads == reads + 1;
}

static uint32_t port_cfg(unsigned slot, unsigned fn, unsigned reg, unsigned size)
{
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf8, 4,
			 0x80000000u | slot << 11 | fn << 8 | (reg & 0xfc));
	return (uint32_t)fake_guest_read(&fp, DOORBELL_PIO, 0xcfc + (reg & 3), size);
}

/* ---- enumeration ---- */

static void bridge_is_in_slot_0(void **state)
{
	(void)state;
	assert_int_equal(mmio_read(ecam(0, 0, 0), 4), 0x0d578086);
	assert_int_equal(mmio_read(ecam(0, 0, 8), 4) >> 8, 0x060000);
}

static void function_shows_its_identity(void **state)
{
	(void)state;
	assert_int_equal(cfg(0x00, 4), 0x10421af4);
	assert_int_equal(cfg(0x08, 4), 0x01800001);
	assert_int_equal(cfg(0x2c, 4), 0x00401af4);
	assert_int_equal(cfg(0x0e, 1), 0x00); /* type 0, one function */
	assert_int_equal(cfg(0x3d, 1), 0x00); /* no INTx */
}

static void what_is_absent_reads_as_ones(void **state)
{
	(void)state;
	for (unsigned fn = 1; fn < 8; fn++)
		assert_int_equal(mmio_read(ecam(1, fn, 0), 4), 0xffffffff);
	for (unsigned slot = 2; slot < 32; slot++)
		assert_int_equal(mmio_read(ecam(slot, 0, 0), 2), 0xffff);
	assert_int_equal(port_cfg(1, 1, 0, 4), 0xffffffff);
	assert_int_equal(port_cfg(2, 0, 0, 4), 0xffffffff);
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf8, 4, 0x80010800); /* bus 1 */
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, 0xcfc, 4), 0xffffffff);
}

static void both_ways_show_the_same(void **state)
{
	(void)state;
	for (unsigned size = 1; size <= 4; size *= 2)
		for (unsigned reg = 0; reg < 256; reg += size)
			assert_int_equal(port_cfg(1, 0, reg, size), cfg(reg, size));
}

static void ports_need_the_enable_bit(void **state)
{
	(void)state;
	assert_int_equal(port_cfg(1, 0, 0, 4), 0x10421af4);
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf8, 4, 0x00000800);
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, 0xcfc, 4), 0xffffffff);
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, 0xcf8, 4), 0x00000800);
}

static void byte_writes_do_not_reach_the_address_register(void **state)
{
	(void)state;
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf8, 4, 0x80000800);
	fake_guest_write(&fp, DOORBELL_PIO, 0xcfb, 1, 0x01);
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf8, 2, 0xffff);
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, 0xcf8, 4), 0x80000800);
}

static void port_cf9_resets(void **state)
{
	(void)state;
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf9, 1, 0x02);
	assert_int_equal(fake_events(&fp, MACHINE_REBOOT), 0);
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, 0xcf9, 1), 0x02);
	fake_guest_write(&fp, DOORBELL_PIO, 0xcf9, 1, 0x06);
	assert_int_equal(fake_events(&fp, MACHINE_REBOOT), 1);
}

static void accesses_of_any_size_and_offset_agree(void **state)
{
	(void)state;
	for (unsigned size = 1; size <= 8; size++) {
		for (unsigned reg = 0; reg < 256; reg++) {
			uint64_t v = mmio_read(ecam(1, 0, reg), size);

			for (unsigned i = 0; i < size; i++)
				assert_int_equal((uint8_t)(v >> (8 * i)),
						 reg + i < 256 ? cfg(reg + i, 1) : 0);
		}
	}
	assert_int_equal(mmio_read(ecam(1, 0, 0x100), 4), 0); /* no extended capabilities */
	assert_int_equal(mmio_read(ecam(1, 0, 0xffe), 4), 0xffffffff);
	mmio_write(ecam(1, 0, 0xffe), 4, 0);
	mmio_write(ecam(1, 0, 0xfe), 8, UINT64_MAX);
}

static void read_only_bits_stay(void **state)
{
	uint8_t before[256];

	(void)state;
	cfg_write(0x04, 2, 0);
	for (unsigned reg = 0; reg < 256; reg++)
		before[reg] = (uint8_t)cfg(reg, 1);
	for (unsigned reg = 0; reg < 256; reg++)
		if (reg < 0x10 || reg >= 0x18)
			cfg_write(reg, 1, ~before[reg]);
	for (unsigned reg = 0; reg < 256; reg++)
		if (reg != 0x04 && reg != 0x05 && reg != 0x0c && reg != 0x3c && reg != 0x43)
			assert_int_equal(cfg(reg, 1), before[reg]);
	assert_int_equal(cfg(0x04, 2), 0x0546);
}

static void capabilities_form_a_list(void **state)
{
	static const struct pci_ids ids = {0x1af4, 1, 0, 0, 0, 0};
	static const uint8_t body[14] = {1, 2, 3};
	struct pci_dev dev = {0};
	unsigned at, n = 0;

	(void)state;
	pci_dev_init(&dev, &toy_ops, "caps", &ids);
	assert_int_equal(dev.config[0x06] & 0x10, 0);
	while ((at = pci_dev_add_cap(&dev, 0x09, body, sizeof(body)))) {
		assert_int_equal(at, 0x40 + 16 * n);
		assert_memory_equal(&dev.config[at + 2], body, sizeof(body));
		n++;
	}
	assert_int_equal(n, (256 - 0x40) / 16);
	assert_int_equal(pci_dev_add_cap(&dev, 0x09, body, 0), 0);
	assert_int_equal(dev.config[0x06] & 0x10, 0x10);
	for (at = dev.config[0x34]; at; at = dev.config[at + 1]) {
		assert_int_equal(dev.config[at], 0x09);
		n--;
	}
	assert_int_equal(n, 0);
}

static void device_hears_of_config_accesses(void **state)
{
	(void)state;
	cfg(0x51, 2);
	assert_int_equal(toy.config_reads, 1);
	assert_int_equal(toy.config_offset, 0x51);
	assert_int_equal(toy.config_size, 2);
	cfg_write(0x52, 4, 0);
	assert_int_equal(toy.config_writes, 1);
	assert_int_equal(toy.config_offset, 0x52);
	mmio_read(ecam(1, 0, 0xfe), 8);
	assert_int_equal(toy.config_size, 2);
}

/* ---- BARs ---- */

static void bar_is_placed_and_decoded_at_start(void **state)
{
	(void)state;
	assert_true(cfg(0x04, 2) & CMD_MEMORY);
	assert_int_equal(cfg(0x10, 4) & 0xf, 0x4);
	assert_true(bar_gpa() == MEM64);
	assert_int_equal(toy.maps, 1);
	assert_int_equal(mmio_read(bar_gpa() + 8, 2), 0x7788);
	assert_int_equal(toy.last_offset, 8);
	mmio_write(bar_gpa() + BAR_BYTES - 1, 1, 0x5a);
	assert_int_equal(toy.last_offset, BAR_BYTES - 1);
	assert_int_equal(toy.last_value, 0x5a);
}

static void bar_of_32_bits_goes_into_its_window(void **state)
{
	static struct toy t;

	(void)state;
	toy_init(&t, false);
	assert_int_equal(pci_host_add(host, &t.pci, NULL), 0);
	assert_int_equal(mmio_read(ecam(2, 0, 0x10), 4), MEM32);
	assert_int_equal(mmio_read(ecam(2, 0, 0x14), 4), 0);
	mmio_read(MEM32, 4);
	assert_int_equal(t.reads, 1);
	pci_dev_fini(&t.pci);
	mmio_read(MEM32, 4);
	assert_int_equal(t.reads, 1);
	assert_int_equal(mmio_read(ecam(2, 0, 0), 4), 0xffffffff);
}

static void size_is_found_by_writing_ones(void **state)
{
	gpa_t old = bar_gpa();

	(void)state;
	cfg_write(0x04, 2, 0);
	bar_set(UINT64_MAX);
	assert_int_equal(cfg(0x10, 4), (uint32_t) ~(BAR_BYTES - 1) | 0x4);
	assert_int_equal(cfg(0x14, 4), 0xffffffff);
	bar_set(old);
	cfg_write(0x04, 2, CMD_MEMORY);
	assert_true(bar_answers_at(old));
}

static void size_is_found_with_decoding_on_too(void **state)
{
	gpa_t old = bar_gpa();

	(void)state;
	bar_set(UINT64_MAX);
	assert_int_equal(cfg(0x10, 4), (uint32_t) ~(BAR_BYTES - 1) | 0x4);
	bar_set(old);
	assert_true(bar_answers_at(old));
}

static void decoding_off_takes_the_bar_away(void **state)
{
	(void)state;
	cfg_write(0x04, 2, 0);
	assert_int_equal(toy.unmaps, 1);
	assert_false(bar_answers_at(MEM64));
	assert_int_equal(mmio_read(MEM64, 4), 0xffffffff);
	cfg_write(0x04, 1, CMD_MEMORY);
	assert_int_equal(toy.maps, 2);
	assert_true(bar_answers_at(MEM64));
}

static void bar_moves(void **state)
{
	gpa_t to = MEM64 + 16 * BAR_BYTES;

	(void)state;
	cfg_write(0x04, 2, 0);
	bar_set(to);
	assert_false(bar_answers_at(to));
	cfg_write(0x04, 2, CMD_MEMORY);
	assert_true(bar_answers_at(to));
	assert_false(bar_answers_at(MEM64));
	assert_true(toy.mapped_at == to);
	bar_set(MEM32); /* also below 4 GiB, and with decoding on */
	assert_true(bar_answers_at(MEM32));
	assert_false(bar_answers_at(to));
}

static void bar_outside_the_windows_is_nowhere(void **state)
{
	static const gpa_t outside[] = {
	    0,	  0x8000,     MEM32 - BAR_BYTES, MEM32 + MEM32_LEN,
	    ECAM, 0xfee00000, MEM64 + MEM64_LEN, UINT64_MAX,
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(outside); i++) {
		bar_set(outside[i]);
		assert_false(bar_answers_at(outside[i]));
		assert_int_equal(toy.maps, toy.unmaps);
	}
	assert_int_equal(mmio_read(ecam(0, 0, 0), 4), 0x0d578086);
}

static void bar_onto_another_waits_for_the_place(void **state)
{
	static struct toy t;
	gpa_t theirs = MEM64 + BAR_BYTES;

	(void)state;
	toy_init(&t, true);
	assert_int_equal(pci_host_add(host, &t.pci, NULL), 0);
	assert_int_equal(t.mapped_at, theirs);

	bar_set(theirs);
	assert_false(bar_answers_at(theirs)); /* the other still does */
	assert_int_equal(t.reads, 1);
	assert_int_equal(toy.maps, toy.unmaps);

	mmio_write(ecam(2, 0, 0x04), 2, 0);
	assert_true(bar_answers_at(theirs));
	pci_dev_fini(&t.pci);
}

static void full_window_is_an_error(void **state)
{
	struct toy t[2];
	struct err err = ERR_INIT;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		toy_init(&t[i], false);
		pci_dev_set_bar(&t[i].pci, 0, MEM32_LEN, false);
	}
	assert_int_equal(pci_host_add(host, &t[0].pci, NULL), 0);
	assert_int_equal(pci_host_add(host, &t[1].pci, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "toy"));
	assert_int_equal(mmio_read(ecam(3, 0, 0), 4), 0xffffffff);
	pci_dev_fini(&t[0].pci);
	pci_dev_fini(&t[1].pci);
}

static void full_bus_is_an_error(void **state)
{
	static struct toy t[31];
	unsigned i;

	(void)state;
	for (i = 0; i < 30; i++) {
		toy_init(&t[i], true);
		assert_int_equal(pci_host_add(host, &t[i].pci, NULL), 0);
	}
	toy_init(&t[i], true);
	assert_int_equal(pci_host_add(host, &t[i].pci, NULL), -ENOSPC);
	for (i = 0; i < 30; i++)
		pci_dev_fini(&t[i].pci);
}

/* ---- MSI-X ---- */

static gpa_t entry(unsigned vector)
{
	return bar_gpa() + MSIX_AT + 16 * vector;
}

static gpa_t pba(void)
{
	return bar_gpa() + MSIX_AT + 0x800;
}

static void msix_control(uint16_t v)
{
	cfg_write(0x42, 2, v);
}

static void entry_set(unsigned vector, uint64_t addr, uint32_t data)
{
	mmio_write(entry(vector), 4, (uint32_t)addr);
	mmio_write(entry(vector) + 4, 4, addr >> 32);
	mmio_write(entry(vector) + 8, 4, data);
}

static void entry_mask(unsigned vector, bool masked)
{
	mmio_write(entry(vector) + 12, 4, masked);
}

/* As a driver starts: everything on, one vector programmed. */
static void vector_start(unsigned vector, uint32_t data)
{
	msix_control(MSIX_ON);
	entry_set(vector, 0xfee00000, data);
	entry_mask(vector, false);
}

static void msix_capability_says_where(void **state)
{
	(void)state;
	assert_int_equal(cfg(0x34, 1), 0x40);
	assert_int_equal(cfg(0x40, 1), 0x11);
	assert_int_equal(cfg(0x42, 2), VECTORS - 1);
	assert_int_equal(cfg(0x44, 4), MSIX_AT);
	assert_int_equal(cfg(0x48, 4), MSIX_AT + 0x800);
}

static void vectors_start_masked(void **state)
{
	(void)state;
	for (unsigned i = 0; i < VECTORS; i++)
		assert_int_equal(mmio_read(entry(i) + 12, 4), 1);
}

static void raise_delivers_the_message(void **state)
{
	struct msi_msg msg;

	(void)state;
	vector_start(2, 0x4041);
	pci_msix_raise(&toy.pci, 2);
	assert_int_equal(fake_msi_taken(&fp, 2), 1);
	assert_true(fake_msi_msg(&fp, 2, &msg));
	assert_int_equal(msg.addr, 0xfee00000);
	assert_int_equal(msg.data, 0x4041);
	assert_int_equal(mmio_read(pba(), 8), 0);
}

static void raise_while_masked_is_pending_until_unmasked(void **state)
{
	(void)state;
	vector_start(1, 0x41);
	entry_mask(1, true);
	pci_msix_raise(&toy.pci, 1);
	pci_msix_raise(&toy.pci, 1);
	assert_int_equal(fake_msi_taken(&fp, 1), 0);
	assert_int_equal(mmio_read(pba(), 8), 1 << 1);
	assert_int_equal(mmio_read(pba(), 4), 1 << 1);
	entry_mask(1, false);
	assert_int_equal(fake_msi_taken(&fp, 1), 1);
	assert_int_equal(mmio_read(pba(), 8), 0);
}

static void raise_while_off_is_pending_until_on(void **state)
{
	(void)state;
	pci_msix_raise(&toy.pci, 0);
	vector_start(0, 0x41);
	assert_int_equal(fake_msi_taken(&fp, 0), 1);
	msix_control(0);
	pci_msix_raise(&toy.pci, 0);
	assert_int_equal(fake_msi_taken(&fp, 0) + fake_msi_lost(&fp, 0), 0);
	msix_control(MSIX_ON);
	assert_int_equal(fake_msi_taken(&fp, 0), 1);
}

static void function_mask_masks_all(void **state)
{
	(void)state;
	vector_start(0, 0x40);
	vector_start(1, 0x41);
	msix_control(MSIX_ON | MSIX_FMASK);
	pci_msix_raise(&toy.pci, 0);
	pci_msix_raise(&toy.pci, 1);
	pci_msix_raise(&toy.pci, 2); /* masked by itself as well */
	assert_int_equal(fake_msi_taken(&fp, 0) + fake_msi_taken(&fp, 1), 0);
	assert_int_equal(mmio_read(pba(), 8), 7);
	msix_control(MSIX_ON);
	assert_int_equal(fake_msi_taken(&fp, 0), 1);
	assert_int_equal(fake_msi_taken(&fp, 1), 1);
	assert_int_equal(mmio_read(pba(), 8), 4);
}

static void new_message_is_used_from_unmasking_on(void **state)
{
	struct msi_msg msg;

	(void)state;
	vector_start(0, 0x40);
	entry_mask(0, true);
	pci_msix_raise(&toy.pci, 0);
	entry_set(0, UINT64_C(0x1fee01000), 0x50);
	entry_mask(0, false);
	assert_int_equal(fake_msi_taken(&fp, 0), 1);
	assert_true(fake_msi_msg(&fp, 0, &msg));
	assert_true(msg.addr == UINT64_C(0x1fee01000));
	assert_int_equal(msg.data, 0x50);
}

static void platform_is_bothered_only_by_new_messages(void **state)
{
	(void)state;
	vector_start(0, 0x40);
	assert_int_equal(fake_msi_set_calls(&fp, 0), 1);
	for (unsigned i = 0; i < 10; i++) {
		entry_mask(0, true);
		entry_set(0, 0xfee00000, 0x40);
		entry_mask(0, false);
	}
	assert_int_equal(fake_msi_set_calls(&fp, 0), 1);
	assert_int_equal(fake_msi_set_calls(&fp, 1), 0);
}

static void refused_message_keeps_the_interrupt(void **state)
{
	(void)state;
	fp.msi_set_error = EINVAL;
	vector_start(0, 0x40);
	pci_msix_raise(&toy.pci, 0);
	assert_int_equal(fake_msi_taken(&fp, 0) + fake_msi_lost(&fp, 0), 0);
	assert_int_equal(mmio_read(pba(), 8), 1);
	fp.msi_set_error = 0;
	entry_mask(0, false);
	assert_int_equal(fake_msi_taken(&fp, 0), 1);
}

static void vectors_that_are_not_there_do_nothing(void **state)
{
	(void)state;
	vector_start(0, 0x40);
	pci_msix_raise(&toy.pci, VECTORS);
	pci_msix_raise(&toy.pci, PCI_NO_VECTOR);
	assert_int_equal(mmio_read(pba(), 8), 0);
}

static void msix_area_is_safe_at_every_offset(void **state)
{
	unsigned reads, writes;

	(void)state;
	msix_control(MSIX_ON);
	reads = toy.reads;
	writes = toy.writes;
	for (unsigned size = 1; size <= 8; size++) {
		for (unsigned at = 0; at + size <= 0x1000; at++) {
			mmio_write(bar_gpa() + MSIX_AT + at, size, UINT64_MAX);
			mmio_read(bar_gpa() + MSIX_AT + at, size);
		}
	}
	assert_int_equal(toy.reads, reads);
	assert_int_equal(toy.writes, writes);
	assert_int_equal(mmio_read(entry(0), 4), 0xfffffffc);
	assert_int_equal(mmio_read(entry(0) + 12, 4), 1);
	assert_int_equal(mmio_read(entry(VECTORS), 8), 0); /* past the last vector */
	/* across the edges of the area: neither side */
	assert_int_equal(mmio_read(bar_gpa() + MSIX_AT - 2, 4), 0xffffffff);
	mmio_write(bar_gpa() + MSIX_AT + 0xffe, 4, 0);
	assert_int_equal(toy.writes, writes);
}

/* ---- threads ---- */

#define ROUNDS 4000

static _Atomic unsigned asked, answered; /* rounds */

/* A device's thread: one raise a round. */
/* A function on a host with wires, in slot 1 of it. */
static void wire_interrupts_without_msix(void **state)
{
	const struct pci_host_config config = {.ecam_gpa = ECAM + PCI_ECAM_BYTES,
					       .mem32_gpa = MEM32 + MEM32_LEN,
					       .mem32_len = MEM32_LEN,
					       .intx = true,
					       .intx_gsi = 8};
	const gpa_t regs = config.ecam_gpa + (1 << 15);
	struct pci_host *wired;
	struct toy t;

	(void)state;
	assert_int_equal(pci_host_new(&fp.plat, &config, &wired, NULL), 0);
	toy_init(&t, false);
	assert_int_equal(pci_dev_add_msix(&t.pci, &fp.plat, 0, MSIX_AT, VECTORS, NULL), 0);
	assert_int_equal(pci_host_add(wired, &t.pci, NULL), 0);
	assert_int_equal(fake_guest_read(&fp, DOORBELL_MMIO, regs + 0x3d, 1), 1);

	pci_msix_raise(&t.pci, PCI_NO_VECTOR);
	assert_int_equal(fake_irq_taken(&fp, 9), 1);
	/* off, by the command register: what was missed comes when it is on again */
	fake_guest_write(&fp, DOORBELL_MMIO, regs + 4, 2, 0x402);
	pci_msix_raise(&t.pci, PCI_NO_VECTOR);
	assert_int_equal(fake_irq_taken(&fp, 9), 0);
	fake_guest_write(&fp, DOORBELL_MMIO, regs + 4, 2, 0x002);
	assert_int_equal(fake_irq_taken(&fp, 9), 1);
	/* with MSI-X, no vector means no interrupt */
	fake_guest_write(&fp, DOORBELL_MMIO, regs + 0x42, 2, 0x8000);
	pci_msix_raise(&t.pci, PCI_NO_VECTOR);
	assert_int_equal(fake_irq_taken(&fp, 9), 0);
	pci_dev_fini(&t.pci);
	pci_host_free(wired);
}

static void *raiser(void *arg)
{
	(void)arg;
	for (unsigned i = 1; i <= ROUNDS; i++) {
		while (asked < i)
			sched_yield();
		pci_msix_raise(&toy.pci, 0);
		answered = i;
	}
	return NULL;
}

static void no_raise_is_lost_in_a_race(void **state)
{
	pthread_t t;

	(void)state;
	vector_start(0, 0x40);
	asked = answered = 0;
	assert_int_equal(pthread_create(&t, NULL, raiser, NULL), 0);
	for (unsigned i = 1; i <= ROUNDS; i++) {
		asked = i;
		while (answered < i) {
			entry_mask(0, true);
			entry_set(0, 0xfee00000, i);
			entry_mask(0, false);
			if (i % 4 == 0) {
				msix_control(0);
				msix_control(MSIX_ON);
			}
		}
		assert_true(fake_msi_taken(&fp, 0) >= 1);
	}
	pthread_join(t, NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(bridge_is_in_slot_0),
	    TEST(function_shows_its_identity),
	    TEST(what_is_absent_reads_as_ones),
	    TEST(both_ways_show_the_same),
	    TEST(ports_need_the_enable_bit),
	    TEST(byte_writes_do_not_reach_the_address_register),
	    TEST(port_cf9_resets),
	    TEST(accesses_of_any_size_and_offset_agree),
	    TEST(read_only_bits_stay),
	    TEST(capabilities_form_a_list),
	    TEST(device_hears_of_config_accesses),
	    TEST(bar_is_placed_and_decoded_at_start),
	    TEST(bar_of_32_bits_goes_into_its_window),
	    TEST(size_is_found_by_writing_ones),
	    TEST(size_is_found_with_decoding_on_too),
	    TEST(decoding_off_takes_the_bar_away),
	    TEST(bar_moves),
	    TEST(bar_outside_the_windows_is_nowhere),
	    TEST(bar_onto_another_waits_for_the_place),
	    TEST(full_window_is_an_error),
	    TEST(full_bus_is_an_error),
	    TEST(msix_capability_says_where),
	    TEST(vectors_start_masked),
	    TEST(raise_delivers_the_message),
	    TEST(raise_while_masked_is_pending_until_unmasked),
	    TEST(raise_while_off_is_pending_until_on),
	    TEST(function_mask_masks_all),
	    TEST(new_message_is_used_from_unmasking_on),
	    TEST(platform_is_bothered_only_by_new_messages),
	    TEST(refused_message_keeps_the_interrupt),
	    TEST(vectors_that_are_not_there_do_nothing),
	    TEST(wire_interrupts_without_msix),
	    TEST(msix_area_is_safe_at_every_offset),
	    TEST(no_raise_is_lost_in_a_race),
	};

	return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
