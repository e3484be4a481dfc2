/*
 * A program that works for a machine as long as this process holds a socket to it: nft(8),
 * passt(1), ganesha.nfsd(8). It is in a session of its own (no signals of our terminal), and has of
 * ours neither descriptors nor directory, signal mask, dispositions or environment but PATH.
 *
 *   this process --keeper--> its keeper --fork, execve--> the program
 *        \________________________fd__________________________/
 *
 * Its keeper is a process that does nothing but start it again when it has ended, on a new socket,
 * the later the sooner it ended (0.1 s to 10 s); for this process, once it is locked in, may start
 * none. Both end when this process does, also by SIGKILL: the keeper sees its socket closed, and
 * kills the program should it not end by itself. A keeper that is killed leaves the program as it
 * is, or takes it along where it is jailed. Neither is our child, so that there are no zombies.
 *
 * Threads: any, one at a time; what runs between fork(2) and execve(2) is async-signal-safe.
 */
#ifndef CONTROL_CHILD_CHILD_H
#define CONTROL_CHILD_CHILD_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#define CHILD_FD 3 /* the child's end, where it is not its standard input */

struct child {
	int fd;	    /* ours of a stream socket; closed: the program is to end. POLLHUP: it has */
	int words;  /* datagrams: what it writes to standard error */
	int keeper; /* POLLIN: child_news(); -1: nobody starts it again */
};

/*
 * What a program is kept in that does not end by itself, and is not trusted. All functions run
 * after fork(2): async-signal-safe. They return 0 or -errno, with what failed in *ret_what.
 */
struct child_jail {
	/* Once, in the keeper, before it has started anything. */
	int (*build)(void *ctx, const char **ret_what);
	/* In each process that becomes the program, which is in `namespaces` (CLONE_NEW...) of its
	 * own; to end when its keeper does is up to this (PR_SET_PDEATHSIG). */
	int (*enter)(void *ctx, const char **ret_what);
	int namespaces;
	char *variable; /* "NAME=value" of its environment */
	void *ctx;
};

#define CHILD_NONE ((struct child){.fd = -1, .words = -1, .keeper = -1})

/*
 * Starts argv[0], which is looked for in PATH and in the folders of the system's programs;
 * `package` is the one that has it. The child's end of the socket is its standard input, or
 * CHILD_FD. `jail`: NULL, or what it is kept in; then it is killed when it is to end. -ENOENT:
 * there is no such program; the message names the cure. Errors of socketpair(2), fork(2), and of
 * the jail. For child_end() and child_close().
 */
int child_start(const char *const argv[], const char *package, bool on_stdin,
		const struct child_jail *jail, struct child *ret_child, struct err *err);

/* Whether the system's folders below `root` ("": the host's) have such a program. */
bool child_find(const char *root, const char *name, char ret_path[PATH_MAX]);

/*
 * Waits until the program says something, `fd` can be read, or it ends, for at most `timeout_ms`.
 * Adds what it says to the string in text[size]; what does not fit is lost. 1: it said something,
 * or fd is readable; 0: it has ended, and all it said is there; -ETIMEDOUT.
 */
int child_listen(const struct child *child, char *text, size_t size, int timeout_ms);

/* Adds what it has said so far. Does not wait. False: nothing. */
bool child_hear(const struct child *child, char *text, size_t size);

enum child_news {
	CHILD_NOTHING, /* for now */
	CHILD_ENDED,   /* it has, and is started again soon */
	CHILD_BEGUN,   /* again: `fd` is a new one, and the former is closed */
	CHILD_ALONE,   /* its keeper has gone: it is not started again */
};

/* The next, if there is one; `ended`, where it has, is how: "signal 9". Does not wait. */
enum child_news child_news(struct child *child, char ended[], size_t size);

/* It is not started again, and ends when `fd` is closed as well, or in 2 s. */
void child_end(const struct child *child);
/* What was never opened is accepted. Does not wait for the program's end. */
void child_close(struct child *child);

#endif
