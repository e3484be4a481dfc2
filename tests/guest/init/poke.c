/*
 * Nonsense in every register that a guest's user space can reach: ports, configuration space, BARs.
 *
 *   ports:WRITES,SEED,STRINGS    x86: reads every port, then writes nonsense to those of our
 *                                devices; STRINGS 1 (the default): also with REP INS and OUTS
 *   uart:WRITES,SEED,STRINGS     the serial port's registers; put back afterwards
 *   config:WRITES,SEED           configuration space, by ECAM and on x86 by ports; put back later
 *   registers:vdb,WRITES,SEED    every register of a virtio device (or rng)
 *
 * Left out are only values that end the machine by design (reset, power off, panic) and the
 * interrupt controllers and timers in the host's kernel, which the guest itself lives on.
 */
#include "guest.h"
#include "machine.h"
#include "vdev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/*
 * As the kernel's driver has it: 8n1, FIFO on, interrupts on, interrupt line enabled. The driver
 * echoes what nonsense has looped back, and may believe that the transmitter's interrupt is on: it
 * must be.
 */
static void uart_restore(const uint8_t saved[8])
{
	uart_write(3, 1, 0x80);
	uart_write(0, 1, 1);
	uart_write(1, 1, 0);
	uart_write(3, 1, 0x03);
	uart_write(2, 1, 0x07);
	uart_write(2, 1, 0x01);
	uart_write(4, 1, saved[4]);
	uart_write(1, 1, (saved[1] & 0x0f) | 0x07);
}

int cmd_uart(const struct args *args)
{
	uint64_t writes = arg_number(args, 0, 10000), random = arg_number(args, 1, 1);
	bool strings = arg_number(args, 2, 1);
	uint8_t saved[8];

	if (uart_open())
		return -1;
	tcdrain(STDOUT_FILENO);
	for (unsigned i = 1; i < 8; i++)
		saved[i] = (uint8_t)uart_read(i, 1);
	for (uint64_t i = 0; i < writes; i++) {
		uint64_t r = random_next(&random);
		unsigned reg = (unsigned)(r % 8);
		unsigned size = 1u << (r >> 32) % 3;

		if (strings && r >> 58 == 0)
			uart_string(reg, size, r & 256, 1 + (unsigned)(r >> 40) % 300);
		else
			uart_write(reg, size, (uint32_t)nasty_value(&random));
		uart_read((unsigned)(r >> 16) % 8, size);
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
	bool has_ports = config_has_ports();
	unsigned n;

	if (!iomem_find(config_iomem, &gpa, &len))
		ecam = map_physical(gpa, len < 0x100000 ? len : 0x100000);
	n = functions_take(functions);
	for (uint64_t i = 0; n && i < writes; i++) {
		uint64_t r = random_next(&random);

		if (ecam && (r & 1 || !has_ports))
			config_ecam(ecam, functions[(r >> 8) % n].slot, &random);
		else if (has_ports)
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
