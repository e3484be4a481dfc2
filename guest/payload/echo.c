/*
 * A console that answers. What is typed comes back; but a line is a command when it is one of
 * these: off        powers off panic      tells pvpanic flood N    N lines of 64 bytes, numbered
 *   hold       reads nothing for a while (HOLD_READS of the port's status)
 * A break prints "<break>".
 */
#include "lib/payload.h"

#define COM1	   0x3f8
#define COM1_LSR   (COM1 + 5)
#define LSR_DR	   0x01
#define LSR_BI	   0x10
#define LSR_THRE   0x20
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
			while (!(inb(COM1_LSR) & LSR_THRE))
				;
			outsb(COM1, text + at, FIFO_BYTES);
		}
	}
	print("flooded\n");
}

static void command(const char *line)
{
	if (is(line, "off"))
		power_off();
	if (is(line, "panic"))
		outb(0x505, 1);
	if (is(line, "flood"))
		flood(line + 5);
	if (is(line, "hold")) {
		for (unsigned i = 0; i < HOLD_READS; i++)
			inb(COM1_LSR);
		print("held\n");
	}
}

/* A read of the status forgets a break: whoever reads it keeps it for the byte to come. */
static bool broken;

static uint8_t status(void)
{
	uint8_t lsr = inb(COM1_LSR);

	broken |= (lsr & LSR_BI) != 0;
	return lsr;
}

static void say(const char *text)
{
	for (; *text; text++) {
		while (!(status() & LSR_THRE))
			;
		outb(COM1, (uint8_t)*text);
	}
}

void payload_main(void)
{
	char line[LINE_MAX + 1] = "";
	unsigned len = 0;

	say("echo\n");
	for (;;) {
		char c[2] = "";

		if (!(status() & LSR_DR))
			continue;
		c[0] = (char)inb(COM1);
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
