/*
 * What of the tests depends on the processor, on x86-64. See machine.h.
 */
#include "tests/guest/init/machine.h"

#include "tests/guest/init/guest.h"
#include "tests/guest/init/vdev.h"

#include <errno.h>
#include <string.h>
#include <sys/io.h>

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

uint64_t poke_read(const volatile uint8_t *at, unsigned size)
{
	uint64_t value = 0;

	switch (size) {
	case 1:
		return *at;
	case 2:
		__asm__ volatile("movw (%1), %w0" : "=r"(value) : "r"(at) : "memory");
		return value & 0xffff;
	case 4:
		__asm__ volatile("movl (%1), %k0" : "=r"(value) : "r"(at) : "memory");
		return value & 0xffffffff;
	case 8:
		__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(at) : "memory");
		return value;
	default:
		__asm__ volatile("movdqu (%1), %%xmm0\n\tmovq %%xmm0, %0"
				 : "=r"(value)
				 : "r"(at)
				 : "memory", "xmm0");
		return value;
	}
}

void poke_write(volatile uint8_t *at, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		*at = (uint8_t)value;
		break;
	case 2:
		__asm__ volatile("movw %w0, (%1)" : : "r"(value), "r"(at) : "memory");
		break;
	case 4:
		__asm__ volatile("movl %k0, (%1)" : : "r"(value), "r"(at) : "memory");
		break;
	case 8:
		__asm__ volatile("movq %0, (%1)" : : "r"(value), "r"(at) : "memory");
		break;
	default:
		__asm__ volatile(
		    "movq %0, %%xmm0\n\tpunpcklqdq %%xmm0, %%xmm0\n\tmovdqu %%xmm0, (%1)"
		    :
		    : "r"(value), "r"(at)
		    : "memory", "xmm0");
	}
}

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

int uart_open(void)
{
	return iopl(3) ? fail("iopl: %s", strerror(errno)) : 0;
}

uint32_t uart_read(unsigned reg, unsigned size)
{
	return port_read((uint16_t)(COM1 + reg), size);
}

void uart_write(unsigned reg, unsigned size, uint32_t value)
{
	port_write((uint16_t)(COM1 + reg), size, value);
}

void uart_string(unsigned reg, unsigned size, bool in, unsigned count)
{
	port_string((uint16_t)(COM1 + reg), size, in, count);
}

const char config_iomem[] = "PCI MMCONFIG";

int cmd_undecoded(const struct args *args)
{
	(void)args;
	return fail("KVM decodes every access of this processor");
}

bool config_has_ports(void)
{
	return !iopl(3);
}

void config_ports(unsigned slot, uint64_t *random)
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
