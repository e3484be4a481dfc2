/*
 * The log: lines with a level on one file descriptor (standard error by default).
 *
 * The sink and the level are set once by main() before threads exist. Each line goes out in one
 * write(2), so lines of several threads never mix. What a guest can provoke at will is logged
 * through log_limited(), so that a guest cannot fill the host's disk.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* Sets the sink; the descriptor stays the caller's. */
void log_init(int fd, enum log_level level);
bool log_enabled(enum log_level level);

/* Lines end in CR LF from now on: a terminal in raw mode does not return by itself. Any thread, and
 * async-signal-safe. */
void log_set_crlf(bool crlf);

/* "error", "warn", "info", "debug"; -EINVAL for any other name. */
int log_level_parse(const char *name, enum log_level *ret_level);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                          \
	do {                                                    \
		if (log_enabled(LOG_LEVEL_DEBUG))               \
			log_line(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)

#define LOG_LIMIT_BURST 10 /* lines for each limit in a window of one second */

/* One rate limit, usually a static of the place that logs or a member of a device. Zeroed: ready.
 */
struct log_limit {
	_Atomic uint64_t window_s;
	_Atomic unsigned count;
};

/* Logs at most LOG_LIMIT_BURST lines a second through `limit`; the last one says so. */
void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
