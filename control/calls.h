/*
 * Calls that wait for the same thing, and the answers that both services give.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_CALLS_H
#define CONTROL_CALLS_H

#include "control/ttrpc/server.h"
#include "proto/vm_concierge.pb-c.h"

/* Linked through ttrpc_call_set_user(); NULL: none. */
struct calls {
	struct ttrpc_call *first;
};

void calls_push(struct calls *calls, struct ttrpc_call *call);
/* NULL: no more. */
struct ttrpc_call *calls_pop(struct calls *calls);

/* For a method's `cancelled`: completes the call if it is one of these, so that those that nobody
 * waits for any more take no memory. */
void calls_cancelled(struct calls *calls, struct ttrpc_call *call);

/* The answers to StartVm and StopVm. Each completes one call, or all that wait. */
void reply_started(struct ttrpc_call *call, VmTools__Concierge__VmInfo *info);
void reply_start_failed(struct ttrpc_call *call, const char *reason);
void reply_stop(struct ttrpc_call *call, const char *failure_reason_or_null);
void reply_info(struct ttrpc_call *call, VmTools__Concierge__VmInfo *info_or_null);

#endif
