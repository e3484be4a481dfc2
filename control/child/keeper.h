/*
 * What a keeper and who has it say to each other; see child.h. One message for each start, with our
 * end of the program's socket (SCM_RIGHTS), and one for each end.
 */
#ifndef CONTROL_CHILD_KEEPER_H
#define CONTROL_CHILD_KEEPER_H

#include "control/child/child.h"

#include <limits.h>
#include <stdbool.h>

struct keeper_message {
	bool begun;
	int status; /* of waitpid(2), of one that has ended */
};

/* All that a keeper needs, made before fork(). The descriptors are from KEEPER_FREE up. */
struct keeper_plan {
	char path[PATH_MAX];
	char *const *argv;
	char *const *env;
	const struct child_jail *jail; /* NULL: none */
	int null, keeper, words;
	bool on_stdin;
};

#define KEEPER_FREE 6 /* below: what it has open at fixed numbers */

/* In a process of its own. Async-signal-safe; does not return. */
_Noreturn void keeper_run(const struct keeper_plan *plan);

#endif
