/* How the end of a machine becomes the exit status of its process. */
#ifndef CONTROL_OUTCOME_H
#define CONTROL_OUTCOME_H

#include "control/command.h"
#include "devices/platform.h"

/* Of a machine that nobody asked to stop; MACHINE_STOPPED: LODGE_FAILED. */
static inline int outcome_status(enum machine_event event)
{
	switch (event) {
	case MACHINE_POWEROFF:
		return LODGE_OK;
	case MACHINE_REBOOT:
		return LODGE_REBOOT;
	case MACHINE_PANIC:
	case MACHINE_CRASH_LOADED:
		return LODGE_PANIC;
	case MACHINE_TRIPLE_FAULT:
		return LODGE_TRIPLE_FAULT;
	case MACHINE_FAILED:
		return LODGE_HOST_FAILED;
	case MACHINE_STOPPED:
		break;
	}
	return LODGE_FAILED;
}

#endif
