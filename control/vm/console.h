/*
 * The console of the VM of this process: its output is kept and told to whoever watches, and what
 * attached clients send is typed.
 *
 * Invariants
 *  1. The guest is never held up: output goes to the ring, and a client that lags more than the
 *     ring is long is told how much it has missed.
 *  2. A stream ends with OK after the last byte, when the VM has ended (vm_console_end()).
 *  3. Of each attached client at most VM_CONSOLE_INPUT_MAX bytes wait for the guest to read them;
 *     `input_taken_bytes` tells a client when it may send more. Those that wait take turns.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_VM_CONSOLE_H
#define CONTROL_VM_CONSOLE_H

#include "control/ttrpc/server.h"
#include "devices/legacy/uart.h"
#include "proto/lodge.pb-c.h"

#define VM_CONSOLE_INPUT_MAX   (64 * 1024)
#define VM_CONSOLE_ATTACH_MAX  64	   /* clients that may type at the same time */
#define VM_CONSOLE_INPUT_TOLD  (16 * 1024) /* input is told to be taken in steps of so much */
#define VM_CONSOLE_PIECE_BYTES (32 * 1024) /* of one message */

struct vm_console;

/* 0 or -ENOMEM. */
int vm_console_new(struct loop *loop, struct vm_console **ret_console);

/* After vm_console_end(), when no sink is called any more and the loop is freed. NULL is accepted.
 */
void vm_console_free(struct vm_console *c);

/* What the serial port writes to; lives as long as the console. */
const struct uart_sink *vm_console_sink(struct vm_console *c);

/* Where input goes; NULL: the machine is gone. Until there is one, input waits. */
void vm_console_connect(struct vm_console *c, struct uart *uart);

/* The VM has ended: all streams end when they have sent everything, new ones as well. */
void vm_console_end(struct vm_console *c);

/* A VM starts where another one failed to. */
void vm_console_begin(struct vm_console *c);

/* ReadConsole, whose name was checked. */
void vm_console_read(struct vm_console *c, struct ttrpc_call *call,
		     const Lodge__V1__ReadConsoleRequest *request);

/*
 * AttachConsole: open() with what the first message says, then input() for what it and each further
 * one carry. The call may have been completed when input() returns.
 */
bool vm_console_open(struct vm_console *c, struct ttrpc_call *call,
		     const Lodge__V1__ReadConsoleRequest *request);
void vm_console_input(struct ttrpc_call *call, const Lodge__V1__ConsoleInput *input);

/* Before the call of a stream is completed by the caller (nobody waits any more, a message that may
 * not be). It need not have been opened. */
void vm_console_close(struct ttrpc_call *call);

struct vm_console_stats {
	uint64_t out_bytes, in_bytes; /* from the guest, and taken by its port */
};
void vm_console_stats(const struct vm_console *c, struct vm_console_stats *ret_stats);

#endif
