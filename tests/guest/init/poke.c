/*
 * Nonsense in every register that a guest's user space can reach: ports, configuration space, BARs.
 *
 *   ports:WRITES,SEED,STRINGS    reads every port, then writes nonsense to those of our devices;
 *                                STRINGS 1 (the default): also with REP INS and OUTS
 *   uart:WRITES,SEED,STRINGS     the serial port's registers; put back afterwards
 *   config:WRITES,SEED           configuration space, by ports and by ECAM; put back afterwards
 *   registers:vdb,WRITES,SEED    every register of a virtio device (or rng)
 *
 * Left out are only values that end the machine by design (reset, power off, panic) and the
 * interrupt controllers and timers in the host's kernel, which the guest itself lives on.
 */
#include "guest.h"
#include "vdev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <termios.h>
#include <unistd.h>

#define COM1	   0x3f8
#define I8042_DATA 0x60
#define I8042_CMD  0x64
#define PVPANIC	   0x505
#define ACPI_PM	   0x600
#define CONFIG_CMD 0xcf8

static const struct {
	uint16_t first, last;
} our_ports[] = {
    {0x60, 0x60},   {0x64, 0x64},   {0x70, 0x77},     {0x80, 0x80},
    {0x2e8, 0x2ef}, {0x2f8, 0x2ff}, {0x3e8, 0x3ef},   {0x505, 0x505},
    {0x5fe, 0x607}, {0xcf8, 0xcff}, {0xfff0, 0xffff},
};

static uint32_t port_read(uint16_t port, unsigned size)
{
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

static void port_write(uint16_t port, unsigned size, uint32_t value)
{
	if (size == 1)
		outb((uint8_t)value, port);
	else if (size == 2)
		outw((uint16_t)value, port);
	else
		outl(value, port);
}

/*
 * REP INS or OUTS: one exit with many items. The buffer is touched first: a page fault in the midst
 * of such an instruction, which KVM injects, is more than nested SVM under TCG survives.
 */
static void port_string(uint16_t port, unsigned size, bool in, unsigned count)
{
	static unsigned char buf[4096];

	memset(buf, 1, sizeof(buf));
	if (in && size == 1)
		insb(port, buf, count);
	else if (in && size == 2)
		insw(port, buf, count);
	else if (in)
		insl(port, buf, count);
	else if (size == 1)
		outsb(port, buf, count);
	else if (size == 2)
		outsw(port, buf, count);
	else
		outsl(port, buf, count);
}

/* Whether an access to [port, port + size) may end the machine by design. */
static bool ends_machine(uint16_t port, unsigned size)
{
	static const struct {
		unsigned first, last;
	} ends[] = {{I8042_DATA, I8042_CMD},
		    {0x92, 0x92},
		    {PVPANIC, PVPANIC},
		    {ACPI_PM, ACPI_PM + 2},
		    {0xcf9, 0xcf9}};

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (port <= ends[i].last && port + size > ends[i].first)
			return true;
	return false;
}

/* A value for such a port that does not: no pulse of a line, no sleep type with its enable bit. */
static void write_tamely(uint16_t port, uint32_t value)
{
	if (port == I8042_CMD)
		value %= 0xd0; /* 0xd1 writes the output port, 0xf0 to 0xff pulse its lines */
	else if (port == I8042_DATA)
		value &= 0xfd;
	else if (port == PVPANIC)
		value &= 0xf8;
	else if (port == ACPI_PM)
		value &= ~0x20u;
	else if (port == ACPI_PM + 1)
		value &= 0xff;
	else
		return;
	outb((uint8_t)value, port);
}

int cmd_ports(const struct args *args)
{
	uint64_t writes = arg_number(args, 0, 10000), random = arg_number(args, 1, 1);
	bool strings = arg_number(args, 2, 1);
	uint32_t config;

	if (iopl(3))
		return fail("iopl: %s", strerror(errno));
	config = inl(CONFIG_CMD);
	for (unsigned port = 0; port < 0x10000; port++)
		for (unsigned size = 1; size <= 4; size *= 2)
			if (port + size <= 0x10000 && (port + size <= COM1 || port >= COM1 + 8))
				port_read((uint16_t)port, size);
	say("ports read");
	for (uint64_t i = 0; i < writes; i++) {
		uint64_t r = random_next(&random);
		unsigned which = (unsigned)(r % (sizeof(our_ports) / sizeof(our_ports[0])));
		unsigned span = our_ports[which].last - our_ports[which].first + 1u;
		uint16_t port = (uint16_t)(our_ports[which].first + (r >> 8) % span);
		unsigned size = 1u << (r >> 32) % 3;
		uint32_t value = (uint32_t)nasty_value(&random);

		if (port + size > 0x10000) /* the processor itself refuses that */
			size = 1;
		if (port >= CONFIG_CMD + 4 && port < CONFIG_CMD + 8)
			outl(0x80ffff00 | (value & 0xfc), CONFIG_CMD); /* a bus that is not there */
		if (ends_machine(port, size))
			write_tamely(port, value);
		else if (strings && r >> 60 == 0)
			port_string(port, size, false, 1 + (unsigned)(r >> 40) % 300);
		else if (strings && r >> 60 == 1)
			port_string(port, size, true, 1 + (unsigned)(r >> 40) % 300);
		else
			port_write(port, size, value);
		port_read(port, size);
	}
	outl(config, CONFIG_CMD);
	say("ports written %llu", (unsigned long long)writes);
	return 0;
}

/*
 * As the kernel's driver has it: 8n1, FIFO on, interrupts on, interrupt line enabled. The driver
 * echoes what nonsense has looped back, and may believe that the transmitter's interrupt is on: it
 * must be.
 */
static void uart_restore(const uint8_t saved[8])
{
	outb(0x80, COM1 + 3);
	outb(1, COM1);
	outb(0, COM1 + 1);
	outb(0x03, COM1 + 3);
	outb(0x07, COM1 + 2);
	outb(0x01, COM1 + 2);
	outb(saved[4], COM1 + 4);
	outb((saved[1] & 0x0f) | 0x07, COM1 + 1);
}

int cmd_uart(const struct args *args)
{
	uint64_t writes = arg_number(args, 0, 10000), random = arg_number(args, 1, 1);
	bool strings = arg_number(args, 2, 1);
	uint8_t saved[8];

	if (iopl(3))
		return fail("iopl: %s", strerror(errno));
	tcdrain(STDOUT_FILENO);
	for (unsigned i = 1; i < 8; i++)
		saved[i] = inb((uint16_t)(COM1 + i));
	for (uint64_t i = 0; i < writes; i++) {
		uint64_t r = random_next(&random);
		uint16_t port = (uint16_t)(COM1 + r % 8);
		unsigned size = 1u << (r >> 32) % 3;

		if (strings && r >> 58 == 0)
			port_string(port, size, r & 256, 1 + (unsigned)(r >> 40) % 300);
		else
			port_write(port, size, (uint32_t)nasty_value(&random));
		port_read((uint16_t)(COM1 + (r >> 16) % 8), size);
	}
	uart_restore(saved);
	(void)!write(STDOUT_FILENO, "\n", 1);
	say("uart written %llu", (unsigned long long)writes);
	return 0;
}

/* ---- configuration space -----------------------------------------------------------------------
 */

#define FUNCTIONS_MAX 32

struct function {
	char name[16]; /* 0000:00:02.0 */
	char driver[32];
	unsigned slot;
	uint8_t saved[256];
};

static int config_file(const struct function *f, int flags)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.15s/config", f->name);
	return open(path, flags | O_CLOEXEC);
}

static void bind_function(const struct function *f, const char *what)
{
	char path[96];

	if (!f->driver[0])
		return;
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/%s", f->driver, what);
	if (write_file(path, f->name))
		fail("%s %s: %s", what, f->name, strerror(errno));
}

/* Every function of bus 0, its driver taken off and its configuration saved. */
static unsigned functions_take(struct function *functions)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	unsigned n = 0;

	for (struct dirent *e; dir && n < FUNCTIONS_MAX && (e = readdir(dir));) {
		struct function *f = &functions[n];
		char path[320], target[512];
		ssize_t len;
		int fd;

		if (strncmp(e->d_name, "0000:00:", 8))
			continue;
		memset(f, 0, sizeof(*f));
		snprintf(f->name, sizeof(f->name), "%.15s", e->d_name);
		f->slot = (unsigned)strtoul(f->name + 8, NULL, 16);
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", e->d_name);
		len = readlink(path, target, sizeof(target) - 1);
		if (len > 0) {
			target[len] = 0;
			snprintf(f->driver, sizeof(f->driver), "%.31s", strrchr(target, '/') + 1);
		}
		bind_function(f, "unbind");
		fd = config_file(f, O_RDONLY);
		if (fd >= 0 && read(fd, f->saved, sizeof(f->saved)) == sizeof(f->saved))
			n++;
		if (fd >= 0)
			close(fd);
	}
	if (dir)
		closedir(dir);
	return n;
}

/* BARs first while decoding is off, the command register last. */
static void function_restore(const struct function *f)
{
	int fd = config_file(f, O_RDWR);

	if (fd < 0)
		return;
	for (unsigned at = 0xfc; at; at -= 4)
		if (pwrite(fd, f->saved + at, 4, at) != 4)
			fail("restore %s", f->name);
	close(fd);
}

static void config_ports(unsigned slot, uint64_t *random)
{
	uint64_t r = random_next(random);
	unsigned size = 1u << (r >> 32) % 3;
	uint16_t port = (uint16_t)(CONFIG_CMD + 4 + ((r >> 40) & (4 - size)));

	outl(0x80000000u | slot << 11 | (unsigned)(r & 0xfc), CONFIG_CMD);
	port_write(port, size, (uint32_t)nasty_value(random));
	outl(0x80000000u | slot << 11 | (unsigned)(r & 0xfc), CONFIG_CMD);
	port_read(port, size);
	if (r >> 60 == 0)
		outb((uint8_t)r & 0x7f & ~0x06, CONFIG_CMD + 1 + (r >> 50) % 3);
}

static void config_ecam(volatile uint8_t *ecam, unsigned slot, uint64_t *random)
{
	static const unsigned sizes[] = {1, 2, 4, 8, 16};
	uint64_t r = random_next(random);
	unsigned size = sizes[(r >> 32) % 5];
	volatile uint8_t *at = ecam + slot * 0x8000 + (r & (r >> 63 ? 0xfff : 0xff));

	if ((r & 0xfff) + size > 0xfff)
		at -= size;
	poke_write(at, size, nasty_value(random));
	poke_read(at, size);
}

int cmd_config(const struct args *args)
{
	uint64_t writes = arg_number(args, 0, 5000), random = arg_number(args, 1, 1), gpa, len;
	static struct function functions[FUNCTIONS_MAX];
	volatile uint8_t *ecam = NULL;
	unsigned n;

	if (iopl(3))
		return fail("iopl: %s", strerror(errno));
	if (!iomem_find("PCI MMCONFIG", &gpa, &len))
		ecam = map_physical(gpa, len < 0x100000 ? len : 0x100000);
	n = functions_take(functions);
	for (uint64_t i = 0; n && i < writes; i++) {
		uint64_t r = random_next(&random);

		if (ecam && r & 1)
			config_ecam(ecam, functions[(r >> 8) % n].slot, &random);
		else
			config_ports(functions[(r >> 8) % n].slot, &random);
		if (ecam && r >> 59 == 0) /* functions that are not there */
			config_ecam(ecam, (unsigned)(r >> 16) % 32, &random);
	}
	for (unsigned i = 0; i < n; i++)
		function_restore(&functions[i]);
	for (unsigned i = 0; i < n; i++)
		bind_function(&functions[i], "bind");
	say("config written %llu to %u functions%s", (unsigned long long)writes, n,
	    ecam ? ", ECAM" : "");
	return 0;
}

/* ---- registers of a virtio device
 * ---------------------------------------------------------------- */

/* One access somewhere in a BAR; the structures at its start are more frequent. */
static void poke_bar(volatile uint8_t *bar, size_t bytes, uint64_t *random)
{
	static const unsigned sizes[] = {1, 2, 4, 8, 16, 2, 4, 8};
	uint64_t r = random_next(random);
	unsigned size = sizes[(r >> 32) % 8];
	size_t at =
	    (r >> 40 & 3 ? (r & 0xff) + (r >> 42 & 15) * 0x1000 % bytes : r & 0xffffff) % bytes;

	if (r >> 61)
		at &= ~(size_t)(size - 1);
	if (at + size > bytes)
		at = bytes - size;
	if (r >> 50 & 1)
		poke_write(bar + at, size, nasty_value(random));
	else
		poke_read(bar + at, size);
}

int cmd_registers(const struct args *args)
{
	uint64_t writes = arg_number(args, 1, 10000), random = arg_number(args, 2, 1);
	unsigned bars[6], n = 0;
	struct vdev dev;

	if (vdev_open(&dev, args->n ? args->v[0] : "vdb"))
		return -1;
	for (unsigned i = 0; i < 6; i++)
		if (dev.bars[i])
			bars[n++] = i;
	for (uint64_t i = 0; n && i < writes; i++) {
		unsigned bar = bars[i % n];

		poke_bar(dev.bars[bar], dev.bar_bytes[bar], &random);
	}
	if (vdev_close(&dev))
		return -1;
	say("registers written %llu to %u BARs", (unsigned long long)writes, n);
	return 0;
}
