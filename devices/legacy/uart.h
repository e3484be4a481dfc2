/*
 * A 16550A serial port (National Semiconductor PC16550D), the first console.
 *
 * Output never blocks a vCPU and is never lost while the sink keeps up: bytes go into a bounded
 * ring that the loop's thread drains to the sink. While the ring is full the transmitter says that
 * it is busy (THRE and TEMT clear, no interrupt), which is what a slow line does; a guest that
 * writes nevertheless overwrites nothing: its byte is dropped and counted.
 *
 * Input comes by uart_feed() and waits in a bounded ring for the guest; uart_room() says how much
 * it takes, and `drained` tells when there is room again.
 *
 * Threads: registers from vCPU threads, under the device's lock; uart_feed() and the sink run on
 * the loop's thread.
 */
#ifndef DEVICES_LEGACY_UART_H
#define DEVICES_LEGACY_UART_H

#include "base/loop.h"
#include "devices/platform.h"

#include <stddef.h>

#define UART_COM1_PORT 0x3f8
#define UART_COM1_GSI  4
#define UART_PORTS     8
#define UART_TX_BYTES  (64 * 1024)
#define UART_RX_BYTES  4096

struct uart;

struct uart_sink {
	/* Takes up to `len` bytes; returns how many, or -EAGAIN: call uart_sink_ready() later.
	 * Any other -errno: the sink is gone and output is discarded from then on. */
	long (*write)(void *ctx, const void *buf, size_t len);
	/* Optional: there is room for input again. */
	void (*drained)(void *ctx);
	void *ctx;
};

/* Eight registers of a byte each, whether they are ports or memory. */
int uart_new(const struct platform *plat, struct loop *loop, const struct device_place *place,
	     const struct uart_sink *sink, struct uart **ret_uart, struct err *err);
void uart_free(struct uart *uart);

/* Loop thread: the sink takes bytes again. */
void uart_sink_ready(struct uart *uart);

/* Loop thread: input for the guest; returns how many bytes were taken. */
size_t uart_feed(struct uart *uart, const void *buf, size_t len);
size_t uart_room(struct uart *uart);

/* Loop thread: a break condition on the line (SysRq on a Linux console). */
void uart_break(struct uart *uart);

/* After the loop has stopped and no vCPU runs: pushes what is left to the sink, as far as it takes
 * it. */
void uart_flush(struct uart *uart);

#endif
