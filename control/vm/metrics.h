/*
 * What a VM has done and takes, as GetMetrics puts it.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_VM_METRICS_H
#define CONTROL_VM_METRICS_H

#include "control/vm/console.h"
#include "control/vm/vm.h"
#include "proto/lodge.pb-c.h"

struct vm_metrics_sources {
	struct vm *vm;
	const struct vm_console *console;
	const char *name;
	int statm_fd; /* /proc/self/statm, opened before the process is locked in; -1: none */
};

/* NULL: out of memory. Freed with free(); it borrows from the VM's config and `name`. */
Lodge__V1__VmMetrics *vm_metrics_new(const struct vm_metrics_sources *sources);

#endif
