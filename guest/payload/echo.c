/*
 * A console that answers. What is typed comes back; but a line is a command when it is one of
 * these: off        powers off panic      tells pvpanic flood N    N lines of 64 bytes, numbered
 *   hold       reads nothing for a while (HOLD_READS of the port's status)
 * A break prints "<break>".
 */
#include "lib/payload.h"

#define HOLD_READS 50000
#define LINE_MAX   64
#define FIFO_BYTES 16

#define FLOOD_LINE   64
#define FLOOD_DIGITS 8

static bool is(const char *line, const char *word)
{
	size_t n = 0;

	while (word[n] && line[n] == word[n])
		n++;
	return !word[n] && (!line[n] || line[n] == ' ');
}

/* Lines of FLOOD_LINE bytes, a FIFO at a time: "00000042 ....\n". */
static void flood(const char *count)
{
	char text[FLOOD_LINE];
	uint64_t n = 0;

	while (*count == ' ')
		count++;
	for (; *count >= '0' && *count <= '9'; count++)
		n = n * 10 + (uint64_t)(*count - '0');
	memset(text, '.', sizeof(text));
	text[FLOOD_DIGITS] = ' ';
	text[FLOOD_LINE - 1] = '\n';
	for (uint64_t i = 0; i < n; i++) {
		uint64_t v = i;

		for (int d = FLOOD_DIGITS - 1; d >= 0; d--, v /= 10)
			text[d] = (char)('0' + v % 10);
		for (unsigned at = 0; at < FLOOD_LINE; at += FIFO_BYTES) {
			while (!(uart_read(UART_LSR) & UART_LSR_THRE))
				;
			uart_write_all(text + at, FIFO_BYTES);
		}
	}
	print("flooded\n");
}

static void command(const char *line)
{
	if (is(line, "off"))
		power_off();
	if (is(line, "panic"))
		tell_panic();
	if (is(line, "flood"))
		flood(line + 5);
	if (is(line, "hold")) {
		for (unsigned i = 0; i < HOLD_READS; i++)
			uart_read(UART_LSR);
		print("held\n");
	}
}

/* A read of the status forgets a break: whoever reads it keeps it for the byte to come. */
static bool broken;

static uint8_t status(void)
{
	uint8_t lsr = uart_read(UART_LSR);

	broken |= (lsr & UART_LSR_BI) != 0;
	return lsr;
}

static void say(const char *text)
{
	for (; *text; text++) {
		while (!(status() & UART_LSR_THRE))
			;
		uart_write(UART_DATA, (uint8_t)*text);
	}
}

void payload_main(void)
{
	char line[LINE_MAX + 1] = "";
	unsigned len = 0;

	say("echo\n");
	for (;;) {
		char c[2] = "";

		if (!(status() & UART_LSR_DR))
			continue;
		c[0] = (char)uart_read(UART_DATA);
		if (broken) {
			broken = false;
			say("<break>");
			continue;
		}
		say(c);
		if (c[0] != '\n') {
			if (len < LINE_MAX)
				line[len++] = c[0];
			continue;
		}
		line[len] = '\0';
		len = 0;
		command(line);
	}
}
