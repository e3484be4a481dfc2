/* The log. See base/log.h. */
#include "base/log.h"

#include "base/checked.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Longer lines are cut: a bound on what one call costs, well above every message of ours. */
#define LOG_LINE_MAX 1024

/* The sink: written by log_init() before threads exist, read-only from then on. */
static int sink_fd = STDERR_FILENO;
static enum log_level sink_level = LOG_LEVEL_INFO;

/* Follows the terminal's mode while threads log. */
static atomic_bool sink_crlf;

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

void log_init(int fd, enum log_level level)
{
	sink_fd = fd;
	sink_level = level;
}

void log_set_crlf(bool crlf)
{
	atomic_store_explicit(&sink_crlf, crlf, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
	return level <= sink_level;
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
		if (!strcmp(name, level_names[i])) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* A sink that is full or gone loses the line: logging never blocks a retry loop nor fails. */
static void sink_write(const char *line, size_t len)
{
	while (len) {
		ssize_t n = write(sink_fd, line, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		line += n;
		len -= (size_t)n;
	}
}

static void log_format(enum log_level level, const char *suffix, const char *fmt, va_list ap)
{
	char line[LOG_LINE_MAX];
	size_t room, len = (size_t)snprintf(line, sizeof(line), "lodge: %s: ", level_names[level]);
	size_t tail = strlen(suffix) + 2; /* and the end of the line */
	int saved_errno = errno;
	int n;

	room = sizeof(line) - len - tail;
	n = vsnprintf(line + len, room, fmt, ap);
	if (n >= (int)room) {
		n = (int)room - 1;
		memset(line + len + n - 3, '.', 3);
	}
	if (n > 0) {
		/* a name or guest text must not break the line or drive a terminal */
		for (size_t i = len; i < len + (size_t)n; i++) {
			unsigned char c = (unsigned char)line[i];

			if ((c < 0x20 && c != '\t') || c == 0x7f)
				line[i] = '?';
		}
		len += (size_t)n;
	}
	memcpy(line + len, suffix, tail - 2);
	len += tail - 2;
	if (atomic_load_explicit(&sink_crlf, memory_order_relaxed))
		line[len++] = '\r';
	line[len++] = '\n';
	sink_write(line, len);
	errno = saved_errno;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	log_format(level, "", fmt, ap);
	va_end(ap);
}

/*
 * Threads may race for a new window; the loser counts into the winner's, so that at worst a few
 * lines more than the limit go out.
 */
void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
	struct timespec now;
	uint64_t window, second;
	unsigned nth;
	va_list ap;

	if (!log_enabled(level))
		return;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	second = (uint64_t)now.tv_sec + 1; /* never 0, the value of a fresh limit */
	window = atomic_load_explicit(&limit->window_s, memory_order_relaxed);
	if (window != second &&
	    atomic_compare_exchange_strong_explicit(&limit->window_s, &window, second,
						    memory_order_relaxed, memory_order_relaxed))
		atomic_store_explicit(&limit->count, 0, memory_order_relaxed);

	/* checked before it is counted: the counter stays near the limit and never wraps */
	if (atomic_load_explicit(&limit->count, memory_order_relaxed) >= LOG_LIMIT_BURST)
		return;
	nth = atomic_fetch_add_explicit(&limit->count, 1, memory_order_relaxed) + 1;
	if (nth > LOG_LIMIT_BURST)
		return;

	va_start(ap, fmt);
	log_format(level, nth == LOG_LIMIT_BURST ? " (more within this second is not logged)" : "",
		   fmt, ap);
	va_end(ap);
}
