/*
 * The signals that ask a server to end, through a signalfd on its loop.
 *
 * Threads: the loop's; every other blocks all signals.
 */
#ifndef CONTROL_SIGNALS_H
#define CONTROL_SIGNALS_H

#include "base/loop.h"

struct signals {
	struct loop *loop;
	int fd;
	struct loop_op op;
	void (*fn)(void *ctx, int sig);
	void *ctx;
};

#define SIGNALS_INIT     \
	{                \
		.fd = -1 \
	}

/* SIGTERM, SIGINT and SIGHUP, those that the caller does not have ignored. */
int signals_open(struct signals *s, struct loop *loop, void (*fn)(void *ctx, int sig), void *ctx,
		 struct err *err);

/* Before loop_free(); the descriptor is closed then by signals_free(). */
void signals_close(struct signals *s);
void signals_free(struct signals *s);

#endif
