/*
 * What of the tests depends on the processor, on 64-bit Arm. See machine.h.
 *
 * Every access is one that KVM can decode: a single register, aligned.
 */
#include "tests/guest/init/machine.h"

#include "tests/guest/init/guest.h"
#include "tests/guest/init/vdev.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

uint64_t poke_read(const volatile uint8_t *at, unsigned size)
{
	uint64_t value = 0;

	at = (const volatile uint8_t *)((uintptr_t)at & ~(uintptr_t)((size > 8 ? 8 : size) - 1));
	switch (size) {
	case 1:
		__asm__ volatile("ldrb %w0, [%1]" : "=r"(value) : "r"(at) : "memory");
		break;
	case 2:
		__asm__ volatile("ldrh %w0, [%1]" : "=r"(value) : "r"(at) : "memory");
		break;
	case 4:
		__asm__ volatile("ldr %w0, [%1]" : "=r"(value) : "r"(at) : "memory");
		break;
	default:
		__asm__ volatile("ldr %0, [%1]" : "=r"(value) : "r"(at) : "memory");
	}
	return value;
}

void poke_write(volatile uint8_t *at, unsigned size, uint64_t value)
{
	at = (volatile uint8_t *)((uintptr_t)at & ~(uintptr_t)((size > 8 ? 8 : size) - 1));
	switch (size) {
	case 1:
		__asm__ volatile("strb %w0, [%1]" : : "r"(value), "r"(at) : "memory");
		break;
	case 2:
		__asm__ volatile("strh %w0, [%1]" : : "r"(value), "r"(at) : "memory");
		break;
	case 4:
		__asm__ volatile("str %w0, [%1]" : : "r"(value), "r"(at) : "memory");
		break;
	default:
		__asm__ volatile("str %0, [%1]" : : "r"(value), "r"(at) : "memory");
	}
}

int cmd_ports(const struct args *args)
{
	(void)args;
	return fail("this processor has no ports");
}

/* ---- accesses that give KVM no syndrome
 * ---------------------------------------------------------------- */

static sigjmp_buf interrupted;

static void bus_error(int signal)
{
	(void)signal;
	siglongjmp(interrupted, 1);
}

static void load_pair(volatile uint8_t *at)
{
	uint64_t a, b;

	__asm__ volatile("ldp %0, %1, [%2]" : "=&r"(a), "=&r"(b) : "r"(at) : "memory");
}

static void store_pair(volatile uint8_t *at)
{
	__asm__ volatile("stp xzr, xzr, [%0]" : : "r"(at) : "memory");
}

static void load_vector(volatile uint8_t *at)
{
	__asm__ volatile("ldr q0, [%0]" : : "r"(at) : "v0", "memory");
}

static void load_and_advance(volatile uint8_t *at)
{
	uint64_t a;

	__asm__ volatile("ldr %0, [%1], #8" : "=&r"(a), "+&r"(at) : : "memory");
}

int cmd_undecoded(const struct args *args)
{
	static void (*const accesses[])(volatile uint8_t *) = {load_pair, store_pair, load_vector,
							       load_and_advance};
	const struct sigaction act = {.sa_handler = bus_error};
	volatile unsigned errors = 0;
	struct vdev dev;

	if (vdev_open(&dev, args->n ? args->v[0] : "vdb"))
		return -1;
	sigaction(SIGBUS, &act, NULL);
	for (volatile unsigned i = 0; i < 4; i++) {
		if (sigsetjmp(interrupted, 1))
			errors++;
		else
			accesses[i](dev.common);
	}
	if (vdev_close(&dev))
		return -1;
	say("undecoded 4, bus errors %u", errors);
	return 0;
}

static volatile uint8_t *uart;

/* The kernel may not know of the port (8250.nr_uarts=0): its node in the device tree is named by
 * its address. */
int uart_open(void)
{
	static const char name[] = "serial@";
	DIR *dir = opendir("/sys/firmware/devicetree/base");
	uint64_t gpa = 0;

	for (struct dirent *e; dir && (e = readdir(dir));)
		if (!strncmp(e->d_name, name, sizeof(name) - 1))
			gpa = strtoull(e->d_name + sizeof(name) - 1, NULL, 16);
	if (dir)
		closedir(dir);
	if (!gpa)
		return fail("the device tree has no serial port");
	uart = map_physical(gpa, PAGE);
	return uart ? 0 : -1;
}

uint32_t uart_read(unsigned reg, unsigned size)
{
	return (uint32_t)poke_read(uart + reg, size);
}

void uart_write(unsigned reg, unsigned size, uint32_t value)
{
	poke_write(uart + reg, size, value);
}

void uart_string(unsigned reg, unsigned size, bool in, unsigned count)
{
	while (count--)
		if (in)
			uart_read(reg, size);
		else
			uart_write(reg, size, 0x01010101);
}

const char config_iomem[] = "PCI ECAM";

bool config_has_ports(void)
{
	return false;
}

void config_ports(unsigned slot, uint64_t *random)
{
	(void)slot, (void)random;
}
