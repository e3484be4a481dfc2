/*
 * A payload's PC. It starts by the 64-bit boot protocol, sets up descriptor tables and page tables
 * of its own (0 to 8 GiB mapped to themselves) and runs payload_main() at privilege level 3 with
 * I/O allowed: level 3 runs natively even where KVM emulates all kernel code. Interrupts are on,
 * those of the IOAPIC masked.
 */
#ifndef GUEST_PAYLOAD_X86_H
#define GUEST_PAYLOAD_X86_H

#include "payload.h"

/* Optional, at privilege level 0, before payload_main(). */
void payload_kernel(void);

/*
 * The machine's zero page (struct boot_params). Where the payload was entered by PVH there is a
 * struct hvm_start_info instead, at this address.
 */
extern const uint8_t *payload_zero_page;
extern uint32_t payload_pvh_info;

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

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* ---- interrupts ---- */

/* Vectors from here up are counted by a handler that acknowledges them. */
#define VECTOR_FIRST 0x30
#define VECTOR_LAST  0x3f

extern volatile uint64_t interrupts[VECTOR_LAST - VECTOR_FIRST + 1];

/* The message that raises a vector on this CPU. */
#define MSI_ADDRESS UINT64_C(0xfee00000)

#endif
