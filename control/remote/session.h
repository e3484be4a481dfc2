/*
 * A process in a guest, with this process's standard streams: ExecInGuest to its end.
 *
 * With a terminal, standard input's is raw for as long, its size is followed, and Enter ~ . leaves;
 * without one the streams are passed on as they are. Signals that come are sent on to the process.
 * The terminal is put back on every way out.
 */
#ifndef CONTROL_REMOTE_SESSION_H
#define CONTROL_REMOTE_SESSION_H

#include "control/remote/remote.h"

enum session_exit {
	SESSION_TIMEOUT = 124, /* as timeout(1) */
	SESSION_FAILED = 125,  /* not the program's own failure */
	SESSION_CANNOT = 126,  /* the program is there, but cannot be executed */
	SESSION_NOT_FOUND = 127,
};

struct session_spec {
	const char *vm;
	Lodge__Agent__V1__ExecStart *start; /* its terminal is filled in */
	bool terminal;
	bool input; /* standard input is passed on; on a terminal it always is */
};

/* Is this the terminal of a person who would want one in the guest? */
bool session_on_terminal(void);

/* The exit status for the command: the process's own, 128 and its signal, or one of the above.
 * Failures have been printed. */
int session_run(struct remote *r, const struct session_spec *spec);

#endif
