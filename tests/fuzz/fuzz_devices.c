/*
 * Random accesses of every size at every offset to the legacy devices and to PCI, mixed with what
 * the host does meanwhile: input, a terminal that stalls or fails, the power button, interrupts.
 *
 * The input is a list of operations: one byte what, then its arguments. Checked besides the
 * sanitizers: nothing answers where nothing is, values have the access's size, BARs are placed and
 * taken away in turn, buffers stay bounded.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/legacy/legacy.h"
#include "devices/legacy/uart.h"
#include "devices/pci/pci.h"
#include "tests/unit/fake_platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ECAM	   0xe8000000u
#define MEM32	   0xe0000000u
#define WINDOW_LEN 0x100000u
#define MEM64	   UINT64_C(0x4000000000)
#define BAR_BYTES  0x4000
#define MSIX_AT	   0x1000
#define VECTORS	   5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define MUST(cond)                        \
	do {                              \
		if (!(cond))              \
			__builtin_trap(); \
	} while (0)

struct toy {
	struct pci_dev pci;
	bool mapped;
};

struct machine {
	struct fake_platform fp;
	struct uart *uart;
	struct i8042 *i8042;
	struct rtc *rtc;
	struct pvpanic *pvpanic;
	struct acpi_pm *acpi_pm;
	struct pci_host *host;
	struct toy toys[2];
	size_t sink_takes;
	int sink_error;
};

struct input {
	const uint8_t *at;
	size_t left;
};

static struct loop *loop;

static uint64_t take(struct input *in, unsigned size)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < size && in->left; i++, in->left--)
		v |= (uint64_t)*in->at++ << (8 * i);
	return v;
}

static uint64_t toy_read(struct pci_dev *dev, unsigned bar, uint64_t offset, unsigned size)
{
	MUST(bar == 0 && ck_range(offset, size, dev->bars[0].size));
	return offset * 3;
}

static void toy_write(struct pci_dev *dev, unsigned bar, uint64_t offset, unsigned size,
		      uint64_t value)
{
	(void)value;
	MUST(bar == 0 && ck_range(offset, size, dev->bars[0].size));
}

static void toy_mapped(struct pci_dev *dev, unsigned bar, gpa_t gpa, bool mapped)
{
	struct toy *toy = container_of(dev, struct toy, pci);

	MUST(bar == 0 && is_aligned(gpa, BAR_BYTES) && mapped != toy->mapped);
	toy->mapped = mapped;
}

static void toy_config(struct pci_dev *dev, unsigned offset, unsigned size)
{
	(void)dev;
	MUST(size && ck_range(offset, size, PCI_CONFIG_BYTES));
}

static const struct pci_dev_ops toy_ops = {toy_read, toy_write, toy_mapped, toy_config, toy_config};

static long sink_write(void *ctx, const void *buf, size_t len)
{
	struct machine *m = ctx;

	(void)buf;
	MUST(len && len <= UART_TX_BYTES);
	if (m->sink_error)
		return -m->sink_error;
	len = MIN(len, m->sink_takes);
	m->sink_takes -= len;
	return len ? (long)len : -EAGAIN;
}

static void sink_drained(void *ctx)
{
	(void)ctx;
}

static void machine_new(struct machine *m)
{
	static const struct pci_ids ids = {0x1af4, 0x1042, 0x1af4, 0x0040, 1, 0x018000};
	const struct pci_host_config config = {.ecam_gpa = ECAM,
					       .mem32_gpa = MEM32,
					       .mem32_len = WINDOW_LEN,
					       .mem64_gpa = MEM64,
					       .mem64_len = WINDOW_LEN,
					       .ports = true};
	const struct uart_sink sink = {sink_write, sink_drained, m};
	const struct platform *plat = &m->fp.plat;

	memset(m, 0, sizeof(*m));
	fake_platform_init(&m->fp, 4096);
	MUST(!uart_new(plat, loop,
		       &(struct device_place){.base = UART_COM1_PORT, .gsi = UART_COM1_GSI}, &sink,
		       &m->uart, NULL));
	MUST(!i8042_new(plat, &m->i8042, NULL));
	MUST(!rtc_new(plat, &m->rtc, NULL));
	MUST(!pvpanic_new(plat, &(struct device_place){.base = PVPANIC_PORT}, &m->pvpanic, NULL));
	MUST(!acpi_pm_new(plat, &(struct device_place){.base = ACPI_PM_PORT, .gsi = ACPI_PM_GSI},
			  &m->acpi_pm, NULL));
	MUST(!pci_host_new(plat, &config, &m->host, NULL));
	for (unsigned i = 0; i < ARRAY_LEN(m->toys); i++) {
		struct pci_dev *dev = &m->toys[i].pci;

		pci_dev_init(dev, &toy_ops, "toy", &ids);
		pci_dev_set_bar(dev, 0, BAR_BYTES, i == 0);
		MUST(!pci_dev_add_msix(dev, plat, 0, MSIX_AT, VECTORS, NULL));
		MUST(!pci_host_add(m->host, dev, NULL));
	}
}

static void stop_fn(struct loop_msg *msg)
{
	(void)msg;
	loop_stop(loop);
}

static void run_posted(void)
{
	static struct loop_msg stop = {.fn = stop_fn};

	loop_post(loop, &stop);
	MUST(!loop_run(loop));
}

static void machine_free(struct machine *m)
{
	pci_host_free(m->host);
	for (unsigned i = 0; i < ARRAY_LEN(m->toys); i++) {
		MUST(!m->toys[i].mapped);
		pci_dev_fini(&m->toys[i].pci);
	}
	acpi_pm_free(m->acpi_pm);
	pvpanic_free(m->pvpanic);
	rtc_free(m->rtc);
	i8042_free(m->i8042);
	uart_flush(m->uart);
	uart_free(m->uart);
	run_posted();
	fake_platform_fini(&m->fp);
}

static void bus_access(struct bus *bus, uint64_t addr, struct input *in)
{
	uint8_t how = (uint8_t)take(in, 1);
	unsigned size = how & 0xf;
	uint64_t mask = size < 8 ? (UINT64_C(1) << (8 * size)) - 1 : UINT64_MAX;
	uint64_t v;

	if (how & 0x80) {
		bus_write(bus, addr, size, take(in, MIN(size, 8)));
	} else if (size >= 1 && size <= 8) {
		bool found = bus_read(bus, addr, size, &v);

		MUST((v & ~mask) == 0 && (found || v == mask));
	}
}

/* Ports where something is, each with a few on either side. */
static uint64_t some_port(struct input *in)
{
	static const uint16_t ports[] = {0x60, 0x64, 0x70, 0x92, 0x3f8, 0x505, 0x600, 0xcf8};
	uint8_t v = (uint8_t)take(in, 1);

	return ports[v % ARRAY_LEN(ports)] + (v >> 4) - 2u;
}

/* What takes several right guesses in a row: MSI-X switched on, and a vector unmasked. */
static void msix_step(struct machine *m, struct input *in)
{
	unsigned n = take(in, 1) & 1, what = (unsigned)take(in, 1);
	gpa_t entry = m->toys[n].pci.bars[0].gpa + MSIX_AT + 16 * ((what >> 3) % VECTORS);
	gpa_t control = ECAM + ((n + 1) << 15) + 0x42;

	if (what & 1)
		bus_write(m->fp.plat.mmio, control, 2, (what & 6) << 13 | 0x8000);
	else
		bus_write(m->fp.plat.mmio, entry + 12 - (what & 4), 4, take(in, 1));
}

/* A BAR that goes where it may collide with the other one. */
static void bar_step(struct machine *m, struct input *in)
{
	uint8_t where = (uint8_t)take(in, 1);
	gpa_t bar = ECAM + ((1 + (where & 1)) << 15) + 0x10;
	gpa_t gpa = (where & 2 ? MEM64 : MEM32) + (gpa_t)(where >> 4) * BAR_BYTES;

	bus_write(m->fp.plat.mmio, bar, 4, gpa);
	if (where & 4)
		bus_write(m->fp.plat.mmio, bar + 4, 4, gpa >> 32);
}

static void ports_step(struct machine *m, struct input *in)
{
	uint64_t slot = take(in, 1) & 3, reg = take(in, 1);

	bus_write(m->fp.plat.pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	bus_access(m->fp.plat.pio, 0xcfc + (reg & 3), in);
}

static void step(struct machine *m, struct input *in)
{
	static const char typed[UART_RX_BYTES];
	struct bus *mmio = m->fp.plat.mmio;
	struct toy *toy;

	switch (take(in, 1) % 18) {
	case 0:
	case 1:
		bus_access(m->fp.plat.pio, some_port(in), in);
		break;
	case 2:
		bus_access(m->fp.plat.pio, take(in, 2), in);
		break;
	case 3: /* one slot's configuration space */
		bus_access(mmio, ECAM + ((take(in, 1) & 3) << 15) + take(in, 1), in);
		break;
	case 4:
		bus_access(mmio, ECAM + (take(in, 3) % PCI_ECAM_BYTES), in);
		break;
	case 5:
	case 6:
		toy = &m->toys[take(in, 1) & 1];
		bus_access(mmio, toy->pci.bars[0].gpa + take(in, 2) % BAR_BYTES, in);
		break;
	case 7:
		bus_access(mmio, take(in, 8), in);
		break;
	case 8:
		MUST(uart_feed(m->uart, typed, take(in, 2) % sizeof(typed)) <= UART_RX_BYTES);
		MUST(uart_room(m->uart) <= UART_RX_BYTES);
		break;
	case 9:
		uart_break(m->uart);
		break;
	case 10:
		m->sink_takes = take(in, 2);
		uart_sink_ready(m->uart);
		break;
	case 11:
		m->sink_error = take(in, 1) & 8 ? EPIPE : 0;
		run_posted();
		break;
	case 12:
		acpi_pm_press_power(m->acpi_pm);
		break;
	case 13:
	case 14:
		msix_step(m, in);
		break;
	case 15:
		bar_step(m, in);
		break;
	case 16:
		ports_step(m, in);
		break;
	default:
		toy = &m->toys[take(in, 1) & 1];
		m->fp.msi_set_error = take(in, 1) == 7 ? EINVAL : 0;
		pci_msix_raise(&toy->pci, (unsigned)take(in, 1));
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct machine m;
	struct input in = {data, len};

	if (!loop) {
		log_init(2, LOG_LEVEL_ERROR);
		MUST(!loop_new(&(struct loop_opts){.backend = LOOP_EPOLL}, &loop, NULL));
	}
	machine_new(&m);
	while (in.left)
		step(&m, &in);
	machine_free(&m);
	return 0;
}
