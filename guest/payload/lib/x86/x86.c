#include "x86.h"

#define COM1	       0x3f8
#define PM_SLEEP       0x600
#define PM_RESET       0x602
#define PM_EVENT       0x603
#define PM_EVENT_POWER 1
#define PM_S5	       (5 << 2 | 1 << 5) /* sleep type 5, enable */
#define PVPANIC	       0x505
#define PANICKED       1
#define ZERO_CMDLINE   0x228
#define PVH_CMDLINE    24

const uint8_t *payload_zero_page;
uint32_t payload_pvh_info;
volatile uint64_t interrupts[VECTOR_LAST - VECTOR_FIRST + 1];

const char *payload_cmdline(void)
{
	uint32_t at;

	if (payload_pvh_info)
		memcpy(&at, (const uint8_t *)(uintptr_t)payload_pvh_info + PVH_CMDLINE, sizeof(at));
	else
		memcpy(&at, payload_zero_page + ZERO_CMDLINE, sizeof(at));
	return (const char *)(uintptr_t)at;
}

uint8_t uart_read(unsigned reg)
{
	return inb((uint16_t)(COM1 + reg));
}

void uart_write(unsigned reg, uint8_t v)
{
	outb((uint16_t)(COM1 + reg), v);
}

void uart_write_all(const void *p, size_t n)
{
	outsb(COM1, p, n);
}

bool power_pressed(void)
{
	return inb(PM_EVENT) & PM_EVENT_POWER;
}

void tell_panic(void)
{
	outb(PVPANIC, PANICKED);
}

void power_off(void)
{
	for (;;)
		outb(PM_SLEEP, PM_S5);
}

void reset(void)
{
	for (;;)
		outb(PM_RESET, 1);
}

/* The stack of an exception, from start.S. */
struct trap {
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

void payload_trap(const struct trap *trap);

void payload_trap(const struct trap *trap)
{
	print_reset();
	print("FAIL: exception ");
	print_dec(trap->vector);
	print(" error 0x");
	print_hex(trap->error);
	print(" at 0x");
	print_hex(trap->rip);
	print(" cs 0x");
	print_hex(trap->cs);
	print(" rflags 0x");
	print_hex(trap->rflags);
	print("\n");
	power_off();
}

void *memset(void *p, int c, size_t n)
{
	void *at = p;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *dst, const void *src, size_t n)
{
	void *at = dst;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(src), "+c"(n)::"memory");
	return dst;
}
