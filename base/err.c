/*
 * Errors with a message. See base/err.h.
 *
 * Messages may carry text from outside (a path, a name from an image): control characters are
 * replaced, so that one error stays one line and cannot drive a terminal.
 */
#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static void sanitize(char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c < 0x20 || c == 0x7f)
			*s = '?';
	}
}

/* Shows that a message was longer than its buffer. */
static void mark_cut(char *msg)
{
	memcpy(&msg[ERR_MSG_MAX - 4], "...", 4);
}

/* False when `err` must not be written: absent, or an earlier error holds it. */
static bool is_free(const struct err *err)
{
	return err && !err->code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!is_free(err))
		return -code;

	va_start(ap, fmt);
	if (vsnprintf(err->msg, sizeof(err->msg), fmt, ap) >= ERR_MSG_MAX)
		mark_cut(err->msg);
	va_end(ap);
	err->code = code;
	sanitize(err->msg);
	return -code;
}

int err_sys(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	if (!is_free(err))
		return -code;

	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	err->code = code;

	len = strlen(err->msg);
	if (snprintf(err->msg + len, sizeof(err->msg) - len, ": %s", strerror(code)) >=
	    (int)(sizeof(err->msg) - len))
		mark_cut(err->msg);
	sanitize(err->msg);
	return -code;
}

void err_prefix(struct err *err, const char *fmt, ...)
{
	char msg[ERR_MSG_MAX];
	va_list ap;
	size_t len;

	if (!err || !err->code)
		return;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);

	len = strlen(msg);
	if (snprintf(msg + len, sizeof(msg) - len, ": %s", err->msg) >= (int)(sizeof(msg) - len))
		mark_cut(msg);
	sanitize(msg);
	memcpy(err->msg, msg, sizeof(msg));
}
