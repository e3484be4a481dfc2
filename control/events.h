/*
 * Events of VMs (WatchEvents), to everyone who watches.
 *
 * A watcher first gets the state of every VM as it is, then `initial_done`, then each change. One
 * that reads so slowly that TTRPC_QUEUE_HIGH bytes wait for it is ended with RESOURCE_EXHAUSTED:
 * what it would miss cannot be told later, and it may watch again, from the state as it is then.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_EVENTS_H
#define CONTROL_EVENTS_H

#include "control/vm/end.h"
#include "proto/lodge.pb-c.h"

struct events_watcher;

/* Zeroed: nobody watches. */
struct events {
	struct events_watcher *first;
};

/* Which events a watcher that starts is sent: one call of events_initial() for each VM that there
 * is. */
typedef void events_list_fn(void *ctx, struct events_watcher *watcher);

/* WatchEvents. Answers the call at its end; events_cancelled() is the method's `cancelled`. */
void events_watch(struct events *events, struct ttrpc_call *call,
		  const Lodge__V1__WatchEventsRequest *request, events_list_fn *list, void *ctx);
void events_cancelled(struct events *events, struct ttrpc_call *call);

/* From within an events_list_fn only. */
void events_initial(struct events_watcher *watcher, const char *name,
		    VmTools__Concierge__VmState state, int pid);

/* A change. `end` is how a VM has ended that is gone, with a state of UNKNOWN; else NULL. */
void events_publish(struct events *events, const char *name, VmTools__Concierge__VmState state,
		    int pid, const struct vm_end *end);

/* This server ends, and so do the streams. */
void events_end(struct events *events);

#endif
