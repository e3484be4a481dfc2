/*
 * What the two halves of the UART share: uart.c (registers, receive side, interrupt) and uart_tx.c
 * (the ring of output and its way to the sink).
 *
 * Invariants
 *  1. tx_head - tx_tail <= UART_TX_BYTES; vCPU threads move tx_head, the loop's thread moves
 *     tx_tail, both under the lock. Bytes between them do not change: the sink reads them without
 *     the lock.
 *  2. While the ring is not empty and the sink lives, tx_active is set.
 *
 * Threads: `lock` for everything but what is marked. The lock is not held while the sink is called.
 */
#ifndef DEVICES_LEGACY_UART_PRIV_H
#define DEVICES_LEGACY_UART_PRIV_H

#include "base/cleanup.h"
#include "base/log.h"
#include "devices/legacy/uart.h"

#define UART_FIFO_BYTES 16
/* Breaks need a place even when uart_feed() has filled its part. */
#define UART_RX_SLOTS (UART_RX_BYTES + UART_FIFO_BYTES)
#define UART_RX_BREAK 0x100 /* in a slot: a break that the guest has not yet seen in LSR */

_Static_assert((UART_TX_BYTES & (UART_TX_BYTES - 1)) == 0, "the indices of the ring wrap at 2^32");

/* All that the guest can see. */
struct uart_state {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t msr_delta;
	uint8_t sources; /* IER_* bits that are pending and enabled */
	bool programmed; /* the guest has written IER or MCR */
	bool overrun;
	bool thre; /* room for a FIFO when last looked at */
	bool thri; /* the transmitter interrupt is latched */

	uint8_t loop[UART_FIFO_BYTES]; /* receiver while MCR_LOOP */
	unsigned nloop;
	unsigned rx_head, nrx;
	unsigned nbreaks; /* UART_RX_BREAK slots in rx */
	uint16_t rx[UART_RX_SLOTS];

	uint32_t tx_head, tx_tail;
	uint8_t tx[UART_TX_BYTES];
};

/* A message to the loop's thread. */
struct uart_msg {
	struct loop_msg msg;
	bool posted;
};

struct uart {
	const struct platform *plat;
	struct loop *loop;
	struct irq irq;
	struct uart_sink sink;
	struct device_place place;
	char name[24];

	pthread_mutex_t lock;
	struct uart_state s;
	bool tx_active;
	bool sink_gone;
	bool rx_short; /* uart_feed() took less than it was given: tell when there is room */
	bool dead;     /* freed, but for the messages that the loop still has */
	struct uart_msg tx_msg, rx_msg;
	bool dropping; /* the last byte was dropped */
	uint64_t dropped_bytes;
	struct log_limit dropped_limit;

	/* loop's thread only */
	struct loop_timer linger;
	bool sink_blocked;
};

static inline uint32_t uart_tx_room(const struct uart_state *s)
{
	return UART_TX_BYTES - (s->tx_head - s->tx_tail);
}

/* After every change of state: latches the transmitter's interrupt and raises what is new. */
void uart_update_locked(struct uart *u);

/* Posts `m` unless it is posted. Its function calls uart_msg_taken() first; false: the port is
 * freed and must not be touched. */
void uart_post_locked(struct uart *u, struct uart_msg *m);
bool uart_msg_taken(struct uart *u, struct uart_msg *m);

void uart_tx_init(struct uart *u);
void uart_tx_put_locked(struct uart *u, uint8_t byte);

#endif
