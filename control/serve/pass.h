/*
 * Calls about one VM, passed on to its process as they are, with streams in both directions.
 *
 * Each has a connection of its own to that process, so that
 *  1. a client that gives up ends that connection, which cancels the call there;
 *  2. who does not read stops only what is meant for him: nothing more is taken from the process
 *     while its messages wait for the client, and at most one waits here;
 *  3. a client that sends more than the process takes (streams have windows) loses the call.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_SERVE_PASS_H
#define CONTROL_SERVE_PASS_H

#include "control/serve/vm.h"

#define PASS_MAX      1024
#define PASS_USER_MAX 128 /* of one user, other than root and our own */

struct pass;

/* Zeroed but for `table`: none. */
struct passes {
	const struct vm_table *table;
	struct pass *first;
	unsigned n;
};

/* For the table of methods: what their callbacks do. `passes` is the server's; `service` is asked
 * for the method of the same name. */
void pass_start(struct passes *passes, const char *service, struct ttrpc_call *call,
		const ProtobufCMessage *request);
void pass_data(struct ttrpc_call *call, const ProtobufCMessage *message);
void pass_data_end(struct ttrpc_call *call);
void pass_cancelled(struct ttrpc_call *call);

#endif
