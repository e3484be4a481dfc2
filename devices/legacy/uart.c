/*
 * 16550A UART (National Semiconductor PC16550D data sheet, §8 registers).
 *
 * Transmit side: what the guest writes has left for the guest as soon as it is in the ring, so the
 * transmitter is empty while the ring has room for one FIFO more. See uart_tx.c.
 *
 * Receive side: the far end obeys the handshake lines. Once the guest has programmed the port,
 * input stays on the line until the guest raises DTR or RTS or enables the receive interrupt, so
 * that drivers that clear the FIFO while they probe do not eat what was typed ahead.
 *
 * Interrupt: the pin is edge-triggered, so each change of the set of pending sources that leaves
 * one pending is a raise. A guest that handles one source for each interrupt thus gets one for
 * each, and a guest that loops until IIR says "none" gets at worst one that it need not have.
 *
 * Threads: see uart_priv.h.
 */
#include "devices/legacy/uart.h"

#include "base/checked.h"
#include "devices/legacy/uart_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Registers; the first two are the divisor's while LCR.DLAB is set. */
enum {
	REG_DATA,
	REG_IER,
	REG_IIR_FCR,
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCR,
};

#define IER_RDI	 0x01 /* received data */
#define IER_THRI 0x02 /* transmitter empty */
#define IER_RLSI 0x04 /* receiver line status */
#define IER_MSI	 0x08 /* modem status */
#define IER_MASK 0x0f

#define IIR_NONE    0x01
#define IIR_MSI	    0x00
#define IIR_THRI    0x02
#define IIR_RDI	    0x04
#define IIR_RLSI    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_KEPT     0xc9

#define LCR_DLAB 0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR	 0x01
#define LSR_OE	 0x02
#define LSR_BI	 0x10
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define LSR_FIFO 0x80 /* an error somewhere in the FIFO */

#define MSR_TERI   0x04
#define MSR_CTS	   0x10
#define MSR_DSR	   0x20
#define MSR_RI	   0x40
#define MSR_DCD	   0x80
#define MSR_ONLINE (MSR_CTS | MSR_DSR | MSR_DCD)

/* Does the far end send? See the head of this file. */
static bool line_open(const struct uart_state *s)
{
	return !s->programmed || (s->mcr & (MCR_DTR | MCR_RTS)) || (s->ier & IER_RDI);
}

/* Bytes that the guest may read now. */
static unsigned rx_avail(const struct uart_state *s)
{
	if (s->mcr & MCR_LOOP)
		return s->nloop;
	return line_open(s) ? s->nrx : 0;
}

/* Is the byte that the guest would read next a break that it does not know of? */
static bool rx_break(const struct uart_state *s)
{
	return !(s->mcr & MCR_LOOP) && rx_avail(s) && (s->rx[s->rx_head] & UART_RX_BREAK);
}

static uint8_t modem_lines(const struct uart_state *s)
{
	uint8_t lines = 0;

	if (!(s->mcr & MCR_LOOP))
		return MSR_ONLINE;
	if (s->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (s->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (s->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (s->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static uint8_t pending_sources(const struct uart_state *s)
{
	uint8_t pending = 0;

	if (s->overrun || rx_break(s))
		pending |= IER_RLSI;
	if (rx_avail(s))
		pending |= IER_RDI;
	if (s->thri)
		pending |= IER_THRI;
	if (s->msr_delta)
		pending |= IER_MSI;
	return pending & s->ier;
}

void uart_update_locked(struct uart *u)
{
	struct uart_state *s = &u->s;
	bool thre = uart_tx_room(s) >= UART_FIFO_BYTES;
	uint8_t sources;

	if (thre && !s->thre)
		s->thri = true;
	s->thre = thre;
	sources = pending_sources(s);
	if (sources && sources != s->sources)
		irq_raise(&u->irq);
	s->sources = sources;
}

void uart_post_locked(struct uart *u, struct uart_msg *m)
{
	if (m->posted)
		return;
	m->posted = true;
	loop_post(u->loop, &m->msg);
}

static bool uart_posted_locked(const struct uart *u)
{
	return u->tx_msg.posted || u->rx_msg.posted;
}

static void uart_destroy(struct uart *u)
{
	pthread_mutex_destroy(&u->lock);
	free(u);
}

bool uart_msg_taken(struct uart *u, struct uart_msg *m)
{
	bool dead, last;

	pthread_mutex_lock(&u->lock);
	dead = u->dead;
	m->posted = false;
	last = !uart_posted_locked(u);
	pthread_mutex_unlock(&u->lock);
	if (dead && last)
		uart_destroy(u);
	return !dead;
}

static void loopback_put_locked(struct uart *u, uint8_t byte)
{
	struct uart_state *s = &u->s;
	unsigned max = s->fcr & FCR_ENABLE ? UART_FIFO_BYTES : 1;

	if (s->nloop < max) {
		s->loop[s->nloop++] = byte;
		return;
	}
	s->overrun = true;
	if (max == 1)
		s->loop[0] = byte; /* without FIFO the new byte takes the old one's place */
}

static void thr_write_locked(struct uart *u, uint8_t byte)
{
	if (u->s.mcr & MCR_LOOP)
		loopback_put_locked(u, byte);
	else
		uart_tx_put_locked(u, byte);
	/* Full for an instant: uart_update_locked() finds it empty again, which is an interrupt. */
	u->s.thre = false;
	u->s.thri = false;
}

static uint8_t rx_pop_locked(struct uart *u)
{
	struct uart_state *s = &u->s;
	uint16_t slot = s->rx[s->rx_head];

	s->rx_head = (s->rx_head + 1) % UART_RX_SLOTS;
	s->nrx--;
	if (slot & UART_RX_BREAK)
		s->nbreaks--;
	/* Half the ring at once: a paste is not handed over byte by byte. */
	if (u->rx_short && s->nrx <= UART_RX_BYTES / 2) {
		u->rx_short = false;
		uart_post_locked(u, &u->rx_msg);
	}
	return (uint8_t)slot;
}

static void rx_push_locked(struct uart_state *s, uint16_t slot)
{
	s->rx[(s->rx_head + s->nrx) % UART_RX_SLOTS] = slot;
	s->nrx++;
}

static void rx_msg_fn(struct loop_msg *m)
{
	struct uart *u = container_of(m, struct uart, rx_msg.msg);

	if (uart_msg_taken(u, &u->rx_msg) && u->sink.drained)
		u->sink.drained(u->sink.ctx);
}

static uint8_t rbr_read_locked(struct uart *u)
{
	struct uart_state *s = &u->s;
	uint8_t byte;

	if (!rx_avail(s))
		return 0;
	if (!(s->mcr & MCR_LOOP))
		return rx_pop_locked(u);
	byte = s->loop[0];
	memmove(s->loop, s->loop + 1, --s->nloop);
	return byte;
}

/* What has arrived is lost; what is on the line behind it is not. */
static void rx_clear_locked(struct uart *u, unsigned fifo_bytes)
{
	unsigned n = MIN(rx_avail(&u->s), fifo_bytes);

	u->s.nloop = 0;
	if (u->s.mcr & MCR_LOOP)
		return;
	while (n--)
		rx_pop_locked(u);
}

static size_t rx_room_locked(const struct uart_state *s)
{
	return s->nrx < UART_RX_BYTES ? UART_RX_BYTES - s->nrx : 0;
}

size_t uart_feed(struct uart *u, const void *buf, size_t len)
{
	const uint8_t *bytes = buf;
	size_t n;

	AUTOLOCK(&u->lock);
	n = MIN(len, rx_room_locked(&u->s));
	for (size_t i = 0; i < n; i++)
		rx_push_locked(&u->s, bytes[i]);
	if (n < len)
		u->rx_short = true;
	uart_update_locked(u);
	return n;
}

size_t uart_room(struct uart *u)
{
	size_t room;

	AUTOLOCK(&u->lock);
	room = rx_room_locked(&u->s);
	if (!room)
		u->rx_short = true; /* who asks and hears "none" waits to be told */
	return room;
}

void uart_break(struct uart *u)
{
	AUTOLOCK(&u->lock);
	if (u->s.nrx == UART_RX_SLOTS)
		return;
	rx_push_locked(&u->s, UART_RX_BREAK);
	u->s.nbreaks++;
	uart_update_locked(u);
}

/* PC16550D table IV: priority of the sources. */
static uint8_t iir_read_locked(struct uart_state *s)
{
	static const uint8_t trigger[] = {1, 4, 8, 14};
	uint8_t fifo = s->fcr & FCR_ENABLE ? IIR_FIFO : 0;

	if (s->sources & IER_RLSI)
		return fifo | IIR_RLSI;
	if (s->sources & IER_RDI) {
		/* Below the trigger level the line is quiet by now: the time-out. */
		if (fifo && rx_avail(s) < trigger[s->fcr >> 6])
			return fifo | IIR_TIMEOUT;
		return fifo | IIR_RDI;
	}
	if (s->sources & IER_THRI) {
		s->thri = false;
		return fifo | IIR_THRI;
	}
	if (s->sources & IER_MSI)
		return fifo | IIR_MSI;
	return fifo | IIR_NONE;
}

static uint8_t lsr_read_locked(struct uart_state *s)
{
	uint8_t lsr = s->thre ? LSR_THRE | LSR_TEMT : 0;

	if (rx_avail(s))
		lsr |= LSR_DR;
	if (s->overrun)
		lsr |= LSR_OE;
	if ((s->fcr & FCR_ENABLE) && rx_avail(s) && !(s->mcr & MCR_LOOP) && s->nbreaks)
		lsr |= LSR_FIFO;
	if (rx_break(s)) {
		lsr |= LSR_BI;
		s->rx[s->rx_head] &= (uint16_t)~UART_RX_BREAK;
		s->nbreaks--;
	}
	s->overrun = false;
	return lsr;
}

static uint8_t msr_read_locked(struct uart_state *s)
{
	uint8_t msr = modem_lines(s) | s->msr_delta;

	s->msr_delta = 0;
	return msr;
}

static void mcr_write_locked(struct uart_state *s, uint8_t v)
{
	uint8_t old = modem_lines(s), changed;

	s->programmed = true;
	s->mcr = v & MCR_MASK;
	if (!(s->mcr & MCR_LOOP))
		s->nloop = 0;
	changed = old ^ modem_lines(s);
	if (!(old & MSR_RI))
		changed &= (uint8_t)~MSR_RI; /* only the trailing edge of the ring counts */
	s->msr_delta |= changed >> 4;
}

static void ier_write_locked(struct uart_state *s, uint8_t v)
{
	uint8_t on = v & IER_MASK & (uint8_t)~s->ier;

	s->programmed = true;
	s->ier = v & IER_MASK;
	if ((on & IER_THRI) && s->thre)
		s->thri = true;
}

static void fcr_write_locked(struct uart *u, uint8_t v)
{
	struct uart_state *s = &u->s;
	uint8_t old = s->fcr;

	if (((old ^ v) & FCR_ENABLE) ||
	    (v & (FCR_ENABLE | FCR_CLEAR_RX)) == (FCR_ENABLE | FCR_CLEAR_RX))
		rx_clear_locked(u, old & FCR_ENABLE ? UART_FIFO_BYTES : 1);
	s->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
}

static uint8_t reg_read_locked(struct uart *u, unsigned reg)
{
	struct uart_state *s = &u->s;
	bool dlab = s->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		return dlab ? s->dll : rbr_read_locked(u);
	case REG_IER:
		return dlab ? s->dlm : s->ier;
	case REG_IIR_FCR:
		return iir_read_locked(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return lsr_read_locked(s);
	case REG_MSR:
		return msr_read_locked(s);
	default:
		return s->scr;
	}
}

static void reg_write_locked(struct uart *u, unsigned reg, uint8_t v)
{
	struct uart_state *s = &u->s;
	bool dlab = s->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			s->dll = v;
		else
			thr_write_locked(u, v);
		break;
	case REG_IER:
		if (dlab)
			s->dlm = v;
		else
			ier_write_locked(s, v);
		break;
	case REG_IIR_FCR:
		fcr_write_locked(u, v);
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		mcr_write_locked(s, v);
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

/* A wider access is one access to each register in turn, as on an 8-bit bus. */
static uint64_t uart_read(void *dev, uint64_t offset, unsigned size)
{
	struct uart *u = dev;
	uint64_t value = 0;

	AUTOLOCK(&u->lock);
	for (unsigned i = 0; i < size; i++) {
		value |= (uint64_t)reg_read_locked(u, (unsigned)offset + i) << (8 * i);
		uart_update_locked(u);
	}
	return value;
}

static void uart_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct uart *u = dev;

	AUTOLOCK(&u->lock);
	for (unsigned i = 0; i < size; i++) {
		reg_write_locked(u, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
		uart_update_locked(u);
	}
}

static const struct bus_ops uart_bus_ops = {uart_read, uart_write};

int uart_new(const struct platform *plat, struct loop *loop, const struct device_place *place,
	     const struct uart_sink *sink, struct uart **ret_uart, struct err *err)
{
	struct uart *u = calloc(1, sizeof(*u));
	struct bus_range range;
	int r;

	if (!u)
		return err_sys(err, ENOMEM, "serial port 0x%" PRIx64, place->base);
	pthread_mutex_init(&u->lock, NULL);
	u->plat = plat;
	u->loop = loop;
	u->place = *place;
	snprintf(u->name, sizeof(u->name), "uart 0x%" PRIx64, place->base);
	if (sink)
		u->sink = *sink;
	u->rx_msg.msg.fn = rx_msg_fn;
	uart_tx_init(u);
	u->s.dll = 1; /* 115200 baud, should the guest ask */
	u->s.thre = true;

	r = plat->ops->irq_connect(plat->ctx, place->gsi, &u->irq, err);
	if (!r) {
		range = (struct bus_range){place->base, UART_PORTS, &uart_bus_ops, u, u->name};
		r = bus_add(platform_bus(plat, place), &range, err);
	}
	if (r) {
		uart_destroy(u);
		return r;
	}
	*ret_uart = u;
	return 0;
}

void uart_free(struct uart *u)
{
	bool posted;

	if (!u)
		return;
	bus_remove(platform_bus(u->plat, &u->place), u->place.base, u);
	loop_timer_disarm(u->loop, &u->linger);
	pthread_mutex_lock(&u->lock);
	u->dead = true;
	posted = uart_posted_locked(u);
	pthread_mutex_unlock(&u->lock);
	if (!posted)
		uart_destroy(u);
}
