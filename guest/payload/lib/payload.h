/*
 * What a test payload stands on: a tiny program that the machine boots instead of a kernel. It has
 * one CPU, no floating point, no library. lib/x86/ and lib/arm64/ have what is the machine's;
 * payloads that need more of it than stands here include that (x86/x86.h), and are for it alone.
 */
#ifndef GUEST_PAYLOAD_PAYLOAD_H
#define GUEST_PAYLOAD_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The payload's own. Powers off when it returns. */
void payload_main(void);

const char *payload_cmdline(void);

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

/* ---- serial port: a 16550's registers ---- */

#define UART_DATA     0
#define UART_IER      1
#define UART_LCR      3
#define UART_MCR      4
#define UART_LSR      5
#define UART_LSR_DR   0x01
#define UART_LSR_BI   0x10
#define UART_LSR_THRE 0x20

uint8_t uart_read(unsigned reg);
void uart_write(unsigned reg, uint8_t v);

/* At once, without a look at the port's state. */
void uart_write_all(const void *p, size_t n);

/* ---- console ---- */

void print(const char *text);
void print_hex(uint64_t v);
void print_dec(uint64_t v);

/* Makes the serial port usable, whatever was done to it. */
void print_reset(void);

/* ---- power ---- */

/* Has the power button been pressed? */
bool power_pressed(void);

/* Reports a panic as Linux' pvpanic driver does. */
void tell_panic(void);

__attribute__((noreturn)) void power_off(void);
__attribute__((noreturn)) void reset(void);

/* Prints "FAIL: <what>" and powers off. */
__attribute__((noreturn)) void fail(const char *what);

/* ---- memory ---- */

void *memset(void *p, int c, size_t n);
void *memcpy(void *dst, const void *src, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
