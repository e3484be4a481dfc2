/*
 * The serial console, as a program in the guest uses it.
 */
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* Waits until the host sends a line. */
int cmd_wait(const struct args *args)
{
	char line[128];
	ssize_t n;

	say("waiting %s", args->n ? args->v[0] : "");
	n = read(STDIN_FILENO, line, sizeof(line));
	if (n <= 0)
		return fail("console: %s", n ? strerror(errno) : "end of file");
	return 0;
}

static int write_whole(const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(STDOUT_FILENO, buf, len);

		if (n < 0 && errno != EINTR)
			return fail("console: %s", strerror(errno));
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* flood:LINES: numbers, one a line, as fast as the port takes them. */
int cmd_flood(const struct args *args)
{
	uint64_t lines = arg_number(args, 0, 1000);
	char buf[4096];
	size_t len = 0;

	for (uint64_t i = 0; i < lines; i++) {
		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%05llx\n",
					(unsigned long long)i);
		if (len > sizeof(buf) - 32 || i == lines - 1) {
			if (write_whole(buf, len))
				return -1;
			len = 0;
		}
	}
	say("flooded %llu", (unsigned long long)lines);
	return 0;
}

/*
 * drain:BYTES[,DELAY]: reads that many bytes in raw mode and says their sum. With DELAY, it rests
 * that many milliseconds before each read: a slow reader.
 */
int cmd_drain(const struct args *args)
{
	uint64_t want = arg_number(args, 0, 1), got = 0, delay_ms = arg_number(args, 1, 0);
	uint32_t sum = 0;
	struct termios saved, raw;
	unsigned char buf[4096];
	int res = 0;

	if (tcgetattr(STDIN_FILENO, &saved))
		return fail("the console is no terminal: %s", strerror(errno));
	raw = saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST | ONLCR;
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 200; /* tenths of a second without a byte: then the rest is lost */
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	say("draining");
	while (got < want) {
		ssize_t n;

		if (delay_ms)
			usleep((useconds_t)delay_ms * 1000);
		n = read(STDIN_FILENO, buf, sizeof(buf));
		if (n <= 0) {
			res = fail("after %llu bytes: %s", (unsigned long long)got,
				   n ? strerror(errno) : "nothing more");
			break;
		}
		for (ssize_t i = 0; i < n; i++)
			sum = (sum << 1 | sum >> 31) ^ buf[i];
		got += (uint64_t)n;
	}
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	say("drained %llu %08x", (unsigned long long)got, sum);
	return res;
}
