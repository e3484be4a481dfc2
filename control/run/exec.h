/*
 * `lodge run --exec`: two processes and a socket between them.
 *
 *	this one: the terminal, the command's streams     the other: the machine, locked in
 *	     | waits for a byte <------------------------------ the guest is ready
 *	     | ExecInGuest ==========================> relay ==> agent
 *	     | closes the socket ----------------------------> shuts the guest down
 *	     | waits for its end
 *
 * Threads: one, which has started no other yet.
 */
#ifndef CONTROL_RUN_EXEC_H
#define CONTROL_RUN_EXEC_H

/*
 * Runs `command` by the guest's shell. `machine` is called in the other process, with its end of
 * the socket, and returns that process's exit status. Returns the exit status of the command; of
 * the machine, which has said why, where the command was not started.
 */
int run_exec(const char *command, int (*machine)(void *ctx, int fd), void *ctx);

#endif
