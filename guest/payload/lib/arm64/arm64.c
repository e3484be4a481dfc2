/* A payload's 64-bit Arm machine: where vmm/arm64/layout.h has its devices, and no interrupts. */
#include "payload.h"

#define GICD	       UINT64_C(0x08000000)
#define GICD_ISPENDR1  (GICD + 0x204) /* interrupts 32 to 63 */
#define GICD_ICFGR2    (GICD + 0xc08) /* interrupts 32 to 47, two bits each */
#define UART	       UINT64_C(0x09000000)
#define PVPANIC	       UINT64_C(0x09020000)
#define PANICKED       1
#define POWER_SPI      2
#define ICFGR_EDGE     2
#define PSCI_OFF       UINT32_C(0x84000008)
#define PSCI_RESET     UINT32_C(0x84000009)
#define FDT_STRUCT     8 /* offsets in its header */
#define FDT_STRINGS    12
#define FDT_BEGIN_NODE 1
#define FDT_END_NODE   2
#define FDT_PROP       3
#define FDT_NOP	       4

const uint8_t *payload_dtb;

static uint32_t be32(const uint8_t *p)
{
	return __builtin_bswap32(*(const volatile uint32_t *)(uintptr_t)p);
}

static bool same(const char *a, const char *b)
{
	for (; *a && *a == *b; a++, b++)
		;
	return *a == *b;
}

static size_t words_of(size_t bytes)
{
	return (bytes + 3) / 4 * 4;
}

/* "bootargs", which only /chosen has (Devicetree Specification 0.4 §5.4). */
const char *payload_cmdline(void)
{
	const uint8_t *at = payload_dtb + be32(payload_dtb + FDT_STRUCT);
	const char *names = (const char *)payload_dtb + be32(payload_dtb + FDT_STRINGS);

	for (;;) {
		uint32_t token = be32(at);

		at += 4;
		if (token == FDT_BEGIN_NODE) {
			size_t len = 0;

			while (at[len])
				len++;
			at += words_of(len + 1);
		} else if (token == FDT_PROP) {
			if (same(names + be32(at + 4), "bootargs"))
				return (const char *)at + 8;
			at += 8 + words_of(be32(at));
		} else if (token != FDT_END_NODE && token != FDT_NOP) {
			return "";
		}
	}
}

uint8_t uart_read(unsigned reg)
{
	return mmio_read8(UART + reg);
}

void uart_write(unsigned reg, uint8_t v)
{
	mmio_write8(UART + reg, v);
}

void uart_write_all(const void *p, size_t n)
{
	for (const uint8_t *at = p; n; n--)
		uart_write(UART_DATA, *at++);
}

/* The key's interrupt stays pending, once it is one of edges, since nobody takes it. */
bool power_pressed(void)
{
	const uint32_t edge = ICFGR_EDGE << 2 * POWER_SPI;

	if (!(mmio_read32(GICD_ICFGR2) & edge))
		mmio_write32(GICD_ICFGR2, mmio_read32(GICD_ICFGR2) | edge);
	return mmio_read32(GICD_ISPENDR1) & 1u << POWER_SPI;
}

void tell_panic(void)
{
	mmio_write8(PVPANIC, PANICKED);
}

static void psci(uint32_t function)
{
	register uint64_t x0 __asm__("x0") = function;

	__asm__ volatile("hvc #0" : "+r"(x0)::"x1", "x2", "x3", "memory");
}

void power_off(void)
{
	for (;;)
		psci(PSCI_OFF);
}

void reset(void)
{
	for (;;)
		psci(PSCI_RESET);
}

void payload_trap(uint64_t syndrome, uint64_t pc, uint64_t address);

void payload_trap(uint64_t syndrome, uint64_t pc, uint64_t address)
{
	print_reset();
	print("FAIL: exception, syndrome 0x");
	print_hex(syndrome);
	print(" at 0x");
	print_hex(pc);
	print(" address 0x");
	print_hex(address);
	print("\n");
	power_off();
}

void *memset(void *p, int c, size_t n)
{
	for (uint8_t *at = p; n; n--)
		*at++ = (uint8_t)c;
	return p;
}

void *memcpy(void *dst, const void *src, size_t n)
{
	const uint8_t *from = src;

	for (uint8_t *at = dst; n; n--)
		*at++ = *from++;
	return dst;
}
