/*
 * A program that works for a machine's network as long as this process holds a socket to it:
 * nft(8), passt(1). It is nobody's child (no zombie), in a session of its own (no signals of our
 * terminal), and has of ours neither descriptors nor directory, signal mask, dispositions or
 * environment but PATH.
 *
 * Threads: any; what runs between fork(2) and execve(2) is async-signal-safe.
 */
#ifndef CONTROL_NETWORK_CHILD_H
#define CONTROL_NETWORK_CHILD_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define CHILD_FD 3 /* the child's end, where it is not its standard input */

struct child {
	int fd;	   /* ours of a stream socket; closed: the program is to end. POLLHUP: it has */
	int words; /* datagrams: what it writes to standard error; -1 from child_hush() on */
};

/*
 * Starts argv[0], which is looked for in PATH and in the folders of the system's programs;
 * `package` is the one that has it. The child's end of the socket is its standard input, or
 * CHILD_FD. -ENOENT: there is no such program; the message names the cure. Errors of socketpair(2),
 * fork(2). The descriptors are the caller's, for child_close().
 */
int child_start(const char *const argv[], const char *package, bool on_stdin,
		struct child *ret_child, struct err *err);

/*
 * Waits until the program says something, `fd` can be read, or it ends, for at most `timeout_ms`.
 * Adds what it says to the string in text[size]; what does not fit is lost. 1: it said something,
 * or fd is readable; 0: it has ended, and all it said is there; -ETIMEDOUT.
 */
int child_listen(const struct child *child, char *text, size_t size, int timeout_ms);

/* Nobody listens any longer, which does not hurt the program. */
void child_hush(struct child *child);
/* What was never opened is {-1, -1}. Does not wait for the program's end. */
void child_close(struct child *child);

#endif
