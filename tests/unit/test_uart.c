/* The UART as a driver and as a terminal see it. */
#include "devices/legacy/uart.h"
#include "tests/unit/fake_platform.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

#define DEADLINE_NS UINT64_C(20000000000)

static struct fake_platform fp;
static struct loop *loop;
static struct uart *uart;

/* The terminal: takes up to `takes` bytes, then says -EAGAIN; or fails. */
static struct {
	char *got;
	size_t ngot, size, takes;
	int error;
	unsigned calls, drained;
} term;

static long term_write(void *ctx, const void *buf, size_t len)
{
	(void)ctx;
	term.calls++;
	if (term.error)
		return -term.error;
	if (!term.takes)
		return -EAGAIN;
	if (len > term.takes)
		len = term.takes;
	if (term.takes != SIZE_MAX)
		term.takes -= len;
	if (term.ngot + len > term.size) {
		term.size = 2 * (term.ngot + len);
		term.got = realloc(term.got, term.size);
	}
	memcpy(term.got + term.ngot, buf, len);
	term.ngot += len;
	return (long)len;
}

static void term_drained(void *ctx)
{
	(void)ctx;
	term.drained++;
}

static int setup(void **state)
{
	const struct uart_sink sink = {term_write, term_drained, NULL};

	(void)state;
	memset(&term, 0, sizeof(term));
	term.takes = SIZE_MAX;
	fake_platform_init(&fp, 1 << 20);
	if (loop_new(NULL, &loop, NULL))
		return -1;
	return uart_new(&fp.plat, loop,
			&(struct device_place){.base = UART_COM1_PORT, .gsi = UART_COM1_GSI}, &sink,
			&uart, NULL);
}

static int teardown(void **state)
{
	(void)state;
	uart_free(uart);
	loop_free(loop);
	fake_platform_fini(&fp);
	free(term.got);
	return 0;
}

static uint8_t in(unsigned reg)
{
	return (uint8_t)fake_guest_read(&fp, DOORBELL_PIO, UART_COM1_PORT + reg, 1);
}

static void out(unsigned reg, uint8_t v)
{
	fake_guest_write(&fp, DOORBELL_PIO, UART_COM1_PORT + reg, 1, v);
}

static void out_str(const char *s)
{
	while (*s)
		out(DATA, (uint8_t)*s++);
}

static uint64_t irqs(void)
{
	return fake_irq_taken(&fp, UART_COM1_GSI);
}

/* Runs the loop's thread until `done` holds. */
static struct {
	struct loop_timer timer;
	bool (*done)(void);
	uint64_t deadline_ns;
} wait_;

static void wait_fn(struct loop_timer *t)
{
	if (wait_.done() || loop_now_ns() > wait_.deadline_ns)
		loop_stop(loop);
	else
		loop_timer_arm(loop, t, loop_now_ns() + 200000);
}

static void run_until(bool (*done)(void))
{
	wait_.done = done;
	wait_.timer.fn = wait_fn;
	wait_.deadline_ns = loop_now_ns() + DEADLINE_NS;
	loop_timer_arm(loop, &wait_.timer, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(done());
}

/* Runs what is posted now. */
static void stop_fn(struct loop_msg *m)
{
	(void)m;
	loop_stop(loop);
}

static void run_posted(void)
{
	static struct loop_msg stop = {.fn = stop_fn};

	loop_post(loop, &stop);
	assert_int_equal(loop_run(loop), 0);
}

/* ---- output ---- */

static void output_reaches_the_terminal(void **state)
{
	(void)state;
	out_str("hello, world");
	run_posted();
	assert_int_equal(term.ngot, 12);
	assert_memory_equal(term.got, "hello, world", 12);
}

static void many_bytes_are_one_write(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5000; i++)
		out(DATA, (uint8_t)i);
	run_posted();
	assert_int_equal(term.ngot, 5000);
	assert_int_equal(term.calls, 1);
}

static bool got_second(void)
{
	return term.ngot == 10;
}

static void output_after_a_pause_reaches_it_too(void **state)
{
	(void)state;
	out_str("first");
	run_posted();
	assert_int_equal(term.ngot, 5);
	out_str("again");
	run_until(got_second);
	assert_memory_equal(term.got, "firstagain", 10);
}

static void transmitter_is_ready_at_once_while_there_is_room(void **state)
{
	(void)state;
	assert_int_equal(in(LSR), 0x60);
	out_str("x");
	assert_int_equal(in(LSR), 0x60);
}

/* A driver that looks at THRE and then fills the FIFO; returns how much it got rid of. */
static size_t write_while_ready(size_t max)
{
	size_t n = 0;

	while (n + 16 <= max && (in(LSR)&0x20))
		for (unsigned i = 0; i < 16; i++)
			out(DATA, (uint8_t)(n++ * 7));
	return n;
}

static void check_pattern(size_t n)
{
	assert_int_equal(term.ngot, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal((uint8_t)term.got[i], (uint8_t)(i * 7));
}

static void terminal_that_stalls_makes_the_port_busy(void **state)
{
	size_t n;

	(void)state;
	term.takes = 0;
	n = write_while_ready(1 << 20);
	assert_int_equal(n, UART_TX_BYTES);
	assert_int_equal(in(LSR)&0x60, 0);
	run_posted();
	assert_int_equal(in(LSR)&0x60, 0);
	assert_int_equal(term.ngot, 0);

	term.takes = SIZE_MAX;
	uart_sink_ready(uart);
	check_pattern(n);
	assert_int_equal(in(LSR)&0x60, 0x60);
}

static void room_again_is_an_interrupt(void **state)
{
	(void)state;
	term.takes = 0;
	write_while_ready(1 << 20);
	run_posted();
	out(IER, 0x02);
	assert_int_equal(irqs(), 0);
	assert_int_equal(in(IIR)&0xf, 0x01);

	term.takes = 8; /* not a FIFO's worth */
	uart_sink_ready(uart);
	assert_int_equal(irqs(), 0);
	term.takes = 8;
	uart_sink_ready(uart);
	assert_int_equal(irqs(), 1);
	assert_int_equal(in(IIR)&0xf, 0x02);
}

static void guest_that_ignores_busy_loses_only_its_own_bytes(void **state)
{
	size_t n;

	(void)state;
	term.takes = 0;
	n = write_while_ready(1 << 20);
	for (unsigned i = 0; i < 100000; i++)
		out(DATA, '!');
	term.takes = SIZE_MAX;
	run_posted();
	check_pattern(n);
}

static void terminal_that_is_gone_stops_nothing(void **state)
{
	(void)state;
	term.error = EPIPE;
	out_str("x");
	run_posted();
	assert_int_equal(term.calls, 1);
	assert_int_equal(write_while_ready(1 << 20), 1 << 20);
	run_posted();
	assert_int_equal(term.calls, 1);
}

static void flush_hands_over_what_is_left(void **state)
{
	(void)state;
	out_str("last words");
	uart_flush(uart);
	assert_int_equal(term.ngot, 10);
	uart_flush(uart);
	assert_int_equal(term.ngot, 10);
}

static void port_without_terminal_swallows(void **state)
{
	struct uart *other;

	(void)state;
	assert_int_equal(uart_new(&fp.plat, loop, &(struct device_place){.base = 0x2f8, .gsi = 3},
				  NULL, &other, NULL),
			 0);
	for (unsigned i = 0; i < 2 * UART_TX_BYTES; i++)
		fake_guest_write(&fp, DOORBELL_PIO, 0x2f8, 1, 'x');
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, 0x2f8 + LSR, 1), 0x60);
	uart_flush(other);
	uart_free(other);
}

/* A vCPU of its own that writes `pattern` as fast as the port allows. */
#define FLOOD (1 << 20)

static void *flood(void *arg)
{
	size_t n = 0;

	(void)arg;
	while (n < FLOOD) {
		if (!(in(LSR)&0x20))
			continue;
		for (unsigned i = 0; i < 16; i++)
			out(DATA, (uint8_t)(n++ * 7));
	}
	return NULL;
}

static bool flooded(void)
{
	return term.ngot == FLOOD;
}

static void nothing_is_lost_between_threads(void **state)
{
	pthread_t vcpu;

	(void)state;
	assert_int_equal(pthread_create(&vcpu, NULL, flood, NULL), 0);
	run_until(flooded);
	pthread_join(vcpu, NULL);
	check_pattern(FLOOD);
}

/* ---- input ---- */

static void input_is_read_in_order(void **state)
{
	(void)state;
	assert_int_equal(uart_feed(uart, "abc", 3), 3);
	assert_int_equal(in(LSR)&1, 1);
	assert_int_equal(in(DATA), 'a');
	assert_int_equal(in(DATA), 'b');
	assert_int_equal(in(DATA), 'c');
	assert_int_equal(in(LSR)&1, 0);
	assert_int_equal(in(DATA), 0);
}

static void input_interrupts(void **state)
{
	(void)state;
	out(IER, 0x01);
	assert_int_equal(irqs(), 0);
	uart_feed(uart, "a", 1);
	assert_int_equal(irqs(), 1);
	assert_int_equal(in(IIR), 0x04);
	in(DATA);
	assert_int_equal(in(IIR), 0x01);
	uart_feed(uart, "b", 1);
	assert_int_equal(irqs(), 1);
}

static void input_before_the_interrupt_is_enabled_interrupts_then(void **state)
{
	(void)state;
	uart_feed(uart, "a", 1);
	assert_int_equal(irqs(), 0);
	out(IER, 0x01);
	assert_int_equal(irqs(), 1);
}

static void trigger_level_tells_data_from_timeout(void **state)
{
	(void)state;
	out(FCR, 0x81); /* 8 bytes */
	out(IER, 0x01);
	uart_feed(uart, "1234567", 7);
	assert_int_equal(in(IIR), 0xcc);
	uart_feed(uart, "8", 1);
	assert_int_equal(in(IIR), 0xc4);
}

static bool was_drained(void)
{
	return term.drained > 0;
}

static void full_input_says_so_and_when_there_is_room_again(void **state)
{
	static char paste[UART_RX_BYTES + 100];

	(void)state;
	assert_int_equal(uart_room(uart), UART_RX_BYTES);
	for (size_t i = 0; i < sizeof(paste); i++)
		paste[i] = (char)(i * 3);
	assert_int_equal(uart_feed(uart, paste, sizeof(paste)), UART_RX_BYTES);
	assert_int_equal(uart_room(uart), 0);
	for (size_t i = 0; i < UART_RX_BYTES; i++)
		assert_int_equal(in(DATA), (uint8_t)paste[i]);
	run_until(was_drained);
	assert_int_equal(term.drained, 1);
	assert_int_equal(uart_feed(uart, paste, 100), 100);
}

static void break_is_seen_where_it_happened(void **state)
{
	(void)state;
	out(IER, 0x05);
	uart_feed(uart, "a", 1);
	uart_break(uart);
	uart_feed(uart, "h", 1);
	assert_int_equal(in(LSR)&0x11, 0x01);
	assert_int_equal(in(DATA), 'a');
	assert_int_equal(in(IIR)&0xf, 0x06);
	assert_int_equal(in(LSR)&0x11, 0x11);
	assert_int_equal(in(LSR)&0x11, 0x01); /* reading clears it */
	assert_int_equal(in(DATA), 0);
	assert_int_equal(in(LSR)&0x11, 0x01);
	assert_int_equal(in(DATA), 'h');
}

static void break_gets_through_when_input_is_full(void **state)
{
	static char paste[UART_RX_BYTES];

	(void)state;
	uart_feed(uart, paste, sizeof(paste));
	for (unsigned i = 0; i < 100; i++)
		uart_break(uart);
	for (unsigned i = 0; i < UART_RX_BYTES; i++)
		in(DATA);
	assert_int_equal(in(LSR)&0x11, 0x11);
}

static void what_is_typed_ahead_survives_the_drivers_probe(void **state)
{
	(void)state;
	uart_feed(uart, "root\n", 5);
	out(IER, 0);
	out(FCR, 0x01); /* probe: FIFO on, cleared, off; port read empty */
	out(FCR, 0x07);
	out(FCR, 0x00);
	in(DATA);
	assert_int_equal(in(LSR)&1, 0);
	out(FCR, 0x07);
	out(IER, 0x05);
	out(MCR, 0x0b);
	assert_int_equal(in(LSR)&1, 1);
	assert_int_equal(in(DATA), 'r');
}

static void clearing_the_fifo_drops_what_has_arrived(void **state)
{
	char many[20];

	(void)state;
	memset(many, 'x', sizeof(many));
	many[16] = 'y';
	out(MCR, 0x03);
	out(FCR, 0x01);
	uart_feed(uart, many, sizeof(many));
	out(FCR, 0x03);
	assert_int_equal(in(DATA), 'y');
}

/* ---- interrupts ---- */

static void enabling_the_transmit_interrupt_raises_it(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) { /* Linux does it twice, to see whether that works */
		out(IER, 0x02);
		assert_int_equal(irqs(), 1);
		assert_int_equal(in(IIR)&0xf, 0x02);
		assert_int_equal(in(IIR)&0xf, 0x01);
		out(IER, 0);
	}
}

static void each_burst_of_output_is_acknowledged(void **state)
{
	(void)state;
	out(IER, 0x02);
	in(IIR);
	irqs();
	for (unsigned burst = 0; burst < 3; burst++) {
		for (unsigned i = 0; i < 16; i++)
			out(DATA, 'x');
		assert_int_equal(irqs(), 1);
		assert_int_equal(in(IIR)&0xf, 0x02);
		assert_int_equal(irqs(), 0);
	}
}

static void source_left_over_interrupts_again(void **state)
{
	(void)state;
	out(IER, 0x03);
	uart_feed(uart, "a", 1);
	irqs();
	assert_int_equal(in(IIR)&0xf, 0x04); /* input first */
	in(DATA);
	assert_int_equal(irqs(), 1); /* the transmitter's is still there */
	assert_int_equal(in(IIR)&0xf, 0x02);
	assert_int_equal(in(IIR)&0xf, 0x01);
}

static void disabled_sources_are_silent(void **state)
{
	(void)state;
	uart_feed(uart, "a", 1);
	uart_break(uart);
	out(DATA, 'x');
	assert_int_equal(in(IIR), 0x01);
	assert_int_equal(irqs(), 0);
}

/* ---- what drivers probe ---- */

static void registers_hold_what_they_should(void **state)
{
	(void)state;
	out(SCR, 0xa5);
	assert_int_equal(in(SCR), 0xa5);
	out(LCR, 0x1f);
	assert_int_equal(in(LCR), 0x1f);
	out(IER, 0xff);
	assert_int_equal(in(IER), 0x0f);
	out(MCR, 0xff);
	assert_int_equal(in(MCR), 0x1f);
	out(MCR, 0);
	out(LSR, 0xff);
	out(MSR, 0xff);
	assert_int_equal(in(LSR), 0x60);
}

static void divisor_latch_hides_data_and_ier(void **state)
{
	(void)state;
	uart_feed(uart, "a", 1);
	out(IER, 0x05);
	out(LCR, 0x83);
	out(DATA, 0x0c);
	out(IER, 0x34);
	assert_int_equal(in(DATA), 0x0c);
	assert_int_equal(in(IER), 0x34);
	out(LCR, 0x03);
	assert_int_equal(in(DATA), 'a');
	assert_int_equal(in(IER), 0x05);
	run_posted();
	assert_int_equal(term.ngot, 0);
}

static void fifo_is_found(void **state)
{
	(void)state;
	assert_int_equal(in(IIR)&0xc0, 0x00);
	out(FCR, 0x01);
	assert_int_equal(in(IIR)&0xc0, 0xc0);
	out(FCR, 0x00);
	assert_int_equal(in(IIR)&0xc0, 0x00);
}

static void loopback_ties_modem_lines_together(void **state)
{
	(void)state;
	assert_int_equal(in(MSR)&0xf0, 0xb0);
	out(MCR, 0x1a);
	assert_int_equal(in(MSR)&0xf0, 0x90);
	out(MCR, 0x15);
	assert_int_equal(in(MSR)&0xf0, 0x60);
	out(MCR, 0x0b);
	assert_int_equal(in(MSR)&0xf0, 0xb0);
}

static void modem_changes_are_told_once(void **state)
{
	(void)state;
	out(IER, 0x08);
	irqs();
	out(MCR, 0x10);
	assert_int_equal(irqs(), 1);
	assert_int_equal(in(IIR)&0xf, 0x00);
	assert_int_equal(in(MSR), 0x0b);
	assert_int_equal(in(MSR), 0x00);
	assert_int_equal(in(IIR)&0xf, 0x01);
}

static void loopback_returns_data_and_shows_none(void **state)
{
	(void)state;
	out(FCR, 0x01);
	out(MCR, 0x10);
	uart_feed(uart, "outside", 7);
	out_str("inside");
	for (const char *p = "inside"; *p; p++)
		assert_int_equal(in(DATA), *p);
	assert_int_equal(in(LSR)&1, 0);
	out(MCR, 0x03);
	assert_int_equal(in(DATA), 'o');
	run_posted();
	assert_int_equal(term.ngot, 0);
}

static void loopback_overrun_is_told(void **state)
{
	(void)state;
	out(FCR, 0x01);
	out(MCR, 0x10);
	for (unsigned i = 0; i < 17; i++)
		out(DATA, (uint8_t)i);
	assert_int_equal(in(LSR)&0x03, 0x03);
	assert_int_equal(in(LSR)&0x03, 0x01);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(DATA), i);
	assert_int_equal(in(LSR)&1, 0);
}

/* ---- life and death ---- */

static void wide_accesses_are_one_to_each_register(void **state)
{
	(void)state;
	fake_guest_write(&fp, DOORBELL_PIO, UART_COM1_PORT + LCR, 2, 0x0b03);
	assert_int_equal(in(LCR), 0x03);
	assert_int_equal(in(MCR), 0x0b);
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, UART_COM1_PORT + LCR, 2), 0x0b03);
}

static void port_may_go_while_its_messages_are_on_the_way(void **state)
{
	struct uart *other;
	const struct uart_sink sink = {term_write, term_drained, NULL};
	static char paste[2 * UART_RX_BYTES];

	(void)state;
	assert_int_equal(uart_new(&fp.plat, loop, &(struct device_place){.base = 0x2f8, .gsi = 3},
				  &sink, &other, NULL),
			 0);
	fake_guest_write(&fp, DOORBELL_PIO, 0x2f8, 1, 'x');
	uart_feed(other, paste, sizeof(paste));
	for (unsigned i = 0; i < UART_RX_BYTES; i++)
		fake_guest_read(&fp, DOORBELL_PIO, 0x2f8, 1);
	uart_free(other);
	run_posted();
	assert_int_equal(term.calls + term.drained, 0);
}

static void port_that_is_taken_is_refused(void **state)
{
	struct uart *other = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(uart_new(&fp.plat, loop,
				  &(struct device_place){.base = UART_COM1_PORT + 4, .gsi = 3},
				  NULL, &other, &err),
			 -EEXIST);
	assert_null(other);
	fp.irq_error = ENOSPC;
	assert_int_equal(uart_new(&fp.plat, loop, &(struct device_place){.base = 0x2f8, .gsi = 3},
				  NULL, &other, NULL),
			 -ENOSPC);
	assert_null(other);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(output_reaches_the_terminal),
	    TEST(many_bytes_are_one_write),
	    TEST(output_after_a_pause_reaches_it_too),
	    TEST(transmitter_is_ready_at_once_while_there_is_room),
	    TEST(terminal_that_stalls_makes_the_port_busy),
	    TEST(room_again_is_an_interrupt),
	    TEST(guest_that_ignores_busy_loses_only_its_own_bytes),
	    TEST(terminal_that_is_gone_stops_nothing),
	    TEST(flush_hands_over_what_is_left),
	    TEST(port_without_terminal_swallows),
	    TEST(nothing_is_lost_between_threads),
	    TEST(input_is_read_in_order),
	    TEST(input_interrupts),
	    TEST(input_before_the_interrupt_is_enabled_interrupts_then),
	    TEST(trigger_level_tells_data_from_timeout),
	    TEST(full_input_says_so_and_when_there_is_room_again),
	    TEST(break_is_seen_where_it_happened),
	    TEST(break_gets_through_when_input_is_full),
	    TEST(what_is_typed_ahead_survives_the_drivers_probe),
	    TEST(clearing_the_fifo_drops_what_has_arrived),
	    TEST(enabling_the_transmit_interrupt_raises_it),
	    TEST(each_burst_of_output_is_acknowledged),
	    TEST(source_left_over_interrupts_again),
	    TEST(disabled_sources_are_silent),
	    TEST(registers_hold_what_they_should),
	    TEST(divisor_latch_hides_data_and_ier),
	    TEST(fifo_is_found),
	    TEST(loopback_ties_modem_lines_together),
	    TEST(modem_changes_are_told_once),
	    TEST(loopback_returns_data_and_shows_none),
	    TEST(loopback_overrun_is_told),
	    TEST(wide_accesses_are_one_to_each_register),
	    TEST(port_may_go_while_its_messages_are_on_the_way),
	    TEST(port_that_is_taken_is_refused),
	};

	return cmocka_run_group_tests_name("uart", tests, NULL, NULL);
}
