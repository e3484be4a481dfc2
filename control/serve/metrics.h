/*
 * GetMetrics over many VMs: their processes are asked one after the other, so that a call takes one
 * descriptor however many VMs there are. A VM that does not answer in its time, or ends meanwhile,
 * is left out; so are the rest when the whole takes too long.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_SERVE_METRICS_H
#define CONTROL_SERVE_METRICS_H

#include "control/serve/vm.h"

/* Zeroed but for `table`. */
struct metrics {
	const struct vm_table *table;
};

/* GetMetrics and GetMetricsText, as the method of the call says. */
void metrics_get(struct metrics *metrics, struct ttrpc_call *call,
		 const Lodge__V1__GetMetricsRequest *request);
void metrics_cancelled(struct ttrpc_call *call);

#endif
