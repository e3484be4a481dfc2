/*
 * The console's escape: Ctrl-A and a letter, on a terminal only.
 *
 *   Ctrl-A x       end the machine          Ctrl-A p   press the power button
 *   Ctrl-A b       send a break (SysRq)     Ctrl-A ?   print this list
 *   Ctrl-A Ctrl-A, Ctrl-A a   send Ctrl-A itself
 *   Ctrl-A and any other key: both go to the guest
 *
 * Pure state, no I/O.
 */
#ifndef CONTROL_TERMINAL_ESCAPE_H
#define CONTROL_TERMINAL_ESCAPE_H

#include <stdbool.h>
#include <stddef.h>

#define ESCAPE_KEY 0x01

enum escape_action {
	ESCAPE_NONE, /* nothing but bytes for the guest, if any */
	ESCAPE_QUIT,
	ESCAPE_BREAK,
	ESCAPE_POWER,
	ESCAPE_HELP,
};

/* Zeroed: ready. */
struct escape {
	bool armed; /* Ctrl-A came last */
};

/*
 * Takes one byte that was typed. *ret_n bytes (0 to 2) of `out` are for the guest; the return
 * value is what is to be done.
 */
enum escape_action escape_key(struct escape *escape, unsigned char key, unsigned char out[2],
			      size_t *ret_n);

#endif
