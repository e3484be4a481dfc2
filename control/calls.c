/* Calls that wait, and common answers. See control/calls.h. */
#include "control/calls.h"

#include "base/err.h"

#include <stdio.h>

void calls_push(struct calls *calls, struct ttrpc_call *call)
{
	ttrpc_call_set_user(call, calls->first);
	calls->first = call;
}

struct ttrpc_call *calls_pop(struct calls *calls)
{
	struct ttrpc_call *call = calls->first;

	if (call)
		calls->first = ttrpc_call_user(call);
	return call;
}

void calls_cancelled(struct calls *calls, struct ttrpc_call *call)
{
	struct ttrpc_call *before = NULL, *at = calls->first;

	while (at && at != call) {
		before = at;
		at = ttrpc_call_user(at);
	}
	if (!at)
		return;
	if (before)
		ttrpc_call_set_user(before, ttrpc_call_user(call));
	else
		calls->first = ttrpc_call_user(call);
	ttrpc_call_fail(call, TTRPC_CANCELLED, "nobody waits");
}

/* As the wire takes it. */
static void clean_copy(char text[ERR_MSG_MAX], const char *from)
{
	snprintf(text, ERR_MSG_MAX, "%s", from);
	pb_text_clean(text);
}

void reply_started(struct ttrpc_call *call, VmTools__Concierge__VmInfo *info)
{
	VmTools__Concierge__StartVmResponse r = VM_TOOLS__CONCIERGE__START_VM_RESPONSE__INIT;

	r.success = true;
	r.vm_info = info;
	ttrpc_call_reply(call, &r.base);
}

void reply_start_failed(struct ttrpc_call *call, const char *reason)
{
	VmTools__Concierge__StartVmResponse r = VM_TOOLS__CONCIERGE__START_VM_RESPONSE__INIT;
	char text[ERR_MSG_MAX];

	clean_copy(text, reason);
	r.failure_reason = text;
	ttrpc_call_reply(call, &r.base);
}

void reply_stop(struct ttrpc_call *call, const char *reason)
{
	VmTools__Concierge__StopVmResponse r = VM_TOOLS__CONCIERGE__STOP_VM_RESPONSE__INIT;
	char text[ERR_MSG_MAX];

	r.success = !reason;
	if (reason) {
		clean_copy(text, reason);
		r.failure_reason = text;
	}
	ttrpc_call_reply(call, &r.base);
}

void reply_info(struct ttrpc_call *call, VmTools__Concierge__VmInfo *info)
{
	VmTools__Concierge__GetVmInfoResponse r = VM_TOOLS__CONCIERGE__GET_VM_INFO_RESPONSE__INIT;

	r.success = info != NULL;
	r.vm_info = info;
	ttrpc_call_reply(call, &r.base);
}
