/*
 * The output of a UART on its way to the sink.
 *
 * The loop's thread moves the ring to the sink. The first byte after a pause wakes it; then it
 * looks again every UART_LINGER_NS until it finds the ring empty, so that a boot log costs a few
 * wake-ups and not one a byte.
 *
 *   tx_active false --byte--> message posted --> drain --> timer --ring empty--> tx_active false
 *                                                 ^ |        |
 *                                 bytes ----------|-+--------+
 *                                                 | +--sink takes none--> blocked --+
 *                                                 +--------uart_sink_ready()--------+
 *
 * Threads: see uart_priv.h.
 */
#include "devices/legacy/uart_priv.h"

#include "base/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define UART_LINGER_NS UINT64_C(2000000)

void uart_tx_put_locked(struct uart *u, uint8_t byte)
{
	struct uart_state *s = &u->s;

	if (u->sink_gone)
		return;
	if (!uart_tx_room(s)) {
		if (!u->dropping)
			log_limited(&u->dropped_limit, LOG_LEVEL_WARN,
				    "%s: output is lost: the guest writes although the port is "
				    "busy (lost before: %" PRIu64 " bytes)",
				    u->name, u->dropped_bytes);
		u->dropping = true;
		u->dropped_bytes++;
		return;
	}
	u->dropping = false;
	s->tx[s->tx_head++ % UART_TX_BYTES] = byte;
	if (!u->tx_active) {
		u->tx_active = true;
		uart_post_locked(u, &u->tx_msg);
	}
}

/* Hands the sink one contiguous piece. Returns bytes taken, 0: nothing to do, -errno. */
static long tx_drain_piece(struct uart *u)
{
	struct uart_state *s = &u->s;
	const uint8_t *from;
	uint32_t len;
	long n;

	pthread_mutex_lock(&u->lock);
	from = &s->tx[s->tx_tail % UART_TX_BYTES];
	len = MIN(s->tx_head - s->tx_tail, UART_TX_BYTES - s->tx_tail % UART_TX_BYTES);
	pthread_mutex_unlock(&u->lock);
	if (!len)
		return 0;

	n = u->sink.write(u->sink.ctx, from, len);
	if (n == -EAGAIN || n == 0)
		return -EAGAIN;

	AUTOLOCK(&u->lock);
	if (n < 0) {
		u->sink_gone = true;
		s->tx_tail = s->tx_head;
		log_warn("%s: output is discarded from now on: %s", u->name, strerror((int)-n));
	} else {
		s->tx_tail += MIN((uint32_t)n, len);
	}
	/* From the start again, so that a quiet console touches one page of the ring. */
	if (s->tx_tail == s->tx_head)
		s->tx_head = s->tx_tail = 0;
	uart_update_locked(u);
	return n;
}

/* Loop thread. Two pieces are a whole ring; a guest that writes on waits for the timer. */
static void tx_drain(struct uart *u)
{
	long n = 0;

	for (int i = 0; i < 2; i++) {
		n = tx_drain_piece(u);
		if (n <= 0)
			break;
	}
	if (n == -EAGAIN)
		u->sink_blocked = true;
	else
		loop_timer_arm(u->loop, &u->linger, loop_now_ns() + UART_LINGER_NS);
}

static void tx_msg_fn(struct loop_msg *m)
{
	struct uart *u = container_of(m, struct uart, tx_msg.msg);

	if (uart_msg_taken(u, &u->tx_msg))
		tx_drain(u);
}

static void linger_fn(struct loop_timer *t)
{
	struct uart *u = container_of(t, struct uart, linger);
	bool empty;

	pthread_mutex_lock(&u->lock);
	empty = u->s.tx_head == u->s.tx_tail;
	if (empty)
		u->tx_active = false;
	pthread_mutex_unlock(&u->lock);
	if (!empty)
		tx_drain(u);
}

void uart_sink_ready(struct uart *u)
{
	if (!u->sink_blocked)
		return;
	u->sink_blocked = false;
	tx_drain(u);
}

void uart_flush(struct uart *u)
{
	while (!u->sink_gone && tx_drain_piece(u) > 0)
		;
}

void uart_tx_init(struct uart *u)
{
	u->sink_gone = !u->sink.write;
	u->tx_msg.msg.fn = tx_msg_fn;
	u->linger.fn = linger_fn;
}
