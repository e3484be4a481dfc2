/* How a VM has ended. See control/vm/end.h. */
#include "control/vm/end.h"

#include "control/outcome.h"

#include <stdio.h>

static void set(struct vm_end *end, Lodge__V1__VmEnd kind, int status, const char *reason)
{
	end->end = kind;
	end->exit_status = status;
	snprintf(end->reason, sizeof(end->reason), "%s", reason);
	pb_text_clean(end->reason);
}

static Lodge__V1__VmEnd kind_of(enum machine_event event, bool asked)
{
	switch (event) {
	case MACHINE_POWEROFF:
		return asked ? LODGE__V1__VM_END__VM_END_STOPPED
			     : LODGE__V1__VM_END__VM_END_POWEROFF;
	case MACHINE_STOPPED:
		return LODGE__V1__VM_END__VM_END_STOPPED;
	case MACHINE_REBOOT:
		return LODGE__V1__VM_END__VM_END_REBOOT;
	case MACHINE_PANIC:
	case MACHINE_CRASH_LOADED:
		return LODGE__V1__VM_END__VM_END_PANIC;
	case MACHINE_TRIPLE_FAULT:
		return LODGE__V1__VM_END__VM_END_CRASH;
	case MACHINE_FAILED:
		return LODGE__V1__VM_END__VM_END_ERROR;
	}
	return LODGE__V1__VM_END__VM_END_UNKNOWN;
}

void vm_end_of_machine(struct vm_end *end, enum machine_event event, bool asked, const char *reason)
{
	int status = asked && event == MACHINE_STOPPED ? LODGE_OK : outcome_status(event);

	set(end, kind_of(event, asked), status, reason);
}

void vm_end_failed(struct vm_end *ret_end, Lodge__V1__VmEnd kind, const char *reason)
{
	set(ret_end, kind, LODGE_FAILED, reason);
}

void vm_end_of_wait(struct vm_end *end, const Lodge__V1__WaitVmResponse *r)
{
	set(end, r->end, r->exit_status, r->reason);
}

void vm_end_reply(struct ttrpc_call *call, const struct vm_end *end)
{
	Lodge__V1__WaitVmResponse r = LODGE__V1__WAIT_VM_RESPONSE__INIT;
	struct vm_end copy = *end;

	r.end = copy.end;
	r.reason = copy.reason;
	r.exit_status = copy.exit_status;
	ttrpc_call_reply(call, &r.base);
}
