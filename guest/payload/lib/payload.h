/*
 * What a test payload stands on: a tiny program that the machine boots instead of a kernel.
 *
 * The payload starts by the 64-bit boot protocol, sets up descriptor tables and page tables of its
 * own (0 to 8 GiB mapped to themselves) and runs payload_main() at privilege level 3 with I/O
 * allowed: level 3 runs natively even where KVM emulates all kernel code. It has one CPU, no
 * floating point, no library. Interrupts are on, those of the IOAPIC masked.
 */
#ifndef GUEST_PAYLOAD_PAYLOAD_H
#define GUEST_PAYLOAD_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The payload's own. Powers off when it returns. */
void payload_main(void);

/* Optional, at privilege level 0, before payload_main(). */
void payload_kernel(void);

/*
 * The machine's zero page (struct boot_params) and its command line. Where the payload was entered
 * by PVH there is a struct hvm_start_info instead, at this address.
 */
extern const uint8_t *payload_zero_page;
extern uint32_t payload_pvh_info;
const char *payload_cmdline(void);

/* ---- ports and registers ---- */

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline void outsb(uint16_t port, const void *p, size_t n)
{
	__asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(port) : "memory");
}

#define MMIO_ACCESS(bits)                                                   \
	static inline uint##bits##_t mmio_read##bits(uint64_t gpa)          \
	{                                                                   \
		return *(volatile uint##bits##_t *)gpa;                     \
	}                                                                   \
	static inline void mmio_write##bits(uint64_t gpa, uint##bits##_t v) \
	{                                                                   \
		*(volatile uint##bits##_t *)gpa = v;                        \
	}

MMIO_ACCESS(8)
MMIO_ACCESS(16)
MMIO_ACCESS(32)
MMIO_ACCESS(64)

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* ---- console ---- */

void print(const char *text);
void print_hex(uint64_t v);
void print_dec(uint64_t v);

/* Makes the serial port usable, whatever was done to it. */
void print_reset(void);

/* ---- end ---- */

__attribute__((noreturn)) void power_off(void);
__attribute__((noreturn)) void reset(void);

/* Prints "FAIL: <what>" and powers off. */
__attribute__((noreturn)) void fail(const char *what);

/* ---- interrupts ---- */

/* Vectors from here up are counted by a handler that acknowledges them. */
#define VECTOR_FIRST 0x30
#define VECTOR_LAST  0x3f

extern volatile uint64_t interrupts[VECTOR_LAST - VECTOR_FIRST + 1];

/* The message that raises a vector on this CPU. */
#define MSI_ADDRESS UINT64_C(0xfee00000)

/* ---- memory ---- */

void *memset(void *p, int c, size_t n);
void *memcpy(void *dst, const void *src, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
