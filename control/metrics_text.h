/*
 * Metrics of VMs in Prometheus' text format, version 0.0.4.
 *
 * Threads: none of their own.
 */
#ifndef CONTROL_METRICS_TEXT_H
#define CONTROL_METRICS_TEXT_H

#include "proto/lodge.pb-c.h"

#include <stddef.h>

/* All samples of a family stand together, whatever VM they are of. The text is the caller's to
 * free(); NULL: out of memory. */
char *metrics_text(Lodge__V1__VmMetrics *const *vms, size_t nvms);

#endif
