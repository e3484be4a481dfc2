/*
 * An error with a message for people: what set-up and RPC paths hand upward.
 *
 * The first error wins: the deepest place knows most. Callers on the way up add
 * context with err_prefix(). Hot paths use plain -errno and never build messages.
 *
 * Threads: a struct err belongs to one thread at a time.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

#define ERR_MSG_MAX 512

struct err {
	int code; /* positive errno; 0: nothing set */
	char msg[ERR_MSG_MAX];
};

#define ERR_INIT          \
	{                 \
		.code = 0 \
	}

/*
 * Sets the error unless one is set already. `code` is a positive errno; `err` may be NULL.
 * Returns -code, so that `return err_set(err, ENOENT, "...")` is the whole failure path.
 * The message is one line without a full stop and names the thing, the value and the cure.
 */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set(), followed by ": " and the text of `code`. For failed system calls. */
int err_sys(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<formatted>: " before the message that is set; does nothing when none is. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
