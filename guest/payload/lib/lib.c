#include "payload.h"

#define COM1	     0x3f8
#define COM1_LSR     (COM1 + 5)
#define LSR_THRE     0x20
#define PM_SLEEP     0x600
#define PM_RESET     0x602
#define PM_S5	     (5 << 2 | 1 << 5) /* sleep type 5, enable */
#define ZERO_CMDLINE 0x228
#define PVH_CMDLINE  24

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

static void print_char(char c)
{
	while (!(inb(COM1_LSR) & LSR_THRE))
		;
	outb(COM1, (uint8_t)c);
}

void print(const char *text)
{
	for (; *text; text++)
		print_char(*text);
}

void print_hex(uint64_t v)
{
	int shift = 60;

	while (shift && !(v >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		print_char("0123456789abcdef"[v >> shift & 0xf]);
}

void print_dec(uint64_t v)
{
	char digits[20];
	int n = 0;

	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n)
		print_char(digits[--n]);
}

void print_reset(void)
{
	outb(COM1 + 3, 3); /* eight bits, no divisor */
	outb(COM1 + 1, 0); /* no interrupts */
	outb(COM1 + 4, 0); /* no loop */
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

void fail(const char *what)
{
	print_reset();
	print("FAIL: ");
	print(what);
	print("\n");
	power_off();
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

void payload_start(void);

void payload_start(void)
{
	payload_main();
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

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++) {
		if (x[i] != y[i])
			return x[i] - y[i];
	}
	return 0;
}
