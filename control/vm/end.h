/*
 * How a VM has ended: what WaitVm answers and the last event of a VM says.
 *
 * Threads: any; the replies on the loop's.
 */
#ifndef CONTROL_VM_END_H
#define CONTROL_VM_END_H

#include "base/err.h"
#include "control/ttrpc/server.h"
#include "devices/platform.h"
#include "proto/lodge.pb-c.h"

#include <stdbool.h>

struct vm_end {
	Lodge__V1__VmEnd end;
	int exit_status;	  /* enum lodge_exit */
	char reason[ERR_MSG_MAX]; /* as the wire takes it */
};

/* The end of a machine; `asked`: by StopVm or a signal. */
void vm_end_of_machine(struct vm_end *ret_end, enum machine_event event, bool asked,
		       const char *reason);

/* An end that no machine told: START_FAILED, ERROR and KILLED have LODGE_FAILED. */
void vm_end_failed(struct vm_end *ret_end, Lodge__V1__VmEnd kind, const char *reason);

/* What another process has answered to WaitVm. */
void vm_end_of_wait(struct vm_end *ret_end, const Lodge__V1__WaitVmResponse *r);

/* Answers a WaitVm. */
void vm_end_reply(struct ttrpc_call *call, const struct vm_end *end);

#endif
