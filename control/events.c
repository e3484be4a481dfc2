/* Events of VMs to everyone who watches. See control/events.h. */
#include "control/events.h"

#include "control/vm/start_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct events_watcher {
	struct events_watcher *next, **at;
	struct ttrpc_call *call;
	const char *name; /* of the request: "": all VMs */
	int error;	  /* of the first event that could not be sent */
};

static uint64_t since_1970_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void watcher_unlink(struct events_watcher *w)
{
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
}

/* Ends the stream: the client has been too slow, or there is no memory. */
static void watcher_fail(struct events_watcher *w)
{
	struct ttrpc_call *call = w->call;

	watcher_unlink(w);
	if (w->error == -EAGAIN)
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED,
				"this client reads its events too slowly; watch again");
	else
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
	free(w);
}

static void watcher_send(struct events_watcher *w, const Lodge__V1__VmEvent *event)
{
	int res;

	if (w->error || (*w->name && strcmp(w->name, event->name) != 0))
		return;
	res = ttrpc_call_send(w->call, &event->base);
	if (res != -EPIPE) /* then it is cancelled soon */
		w->error = res;
}

/* An event with the text that it borrows. */
struct event_text {
	Lodge__V1__VmEvent event;
	char name[VM_NAME_MAX + 1];
	struct vm_end end;
};

static const Lodge__V1__VmEvent *event_fill(struct event_text *t, const char *name,
					    VmTools__Concierge__VmState state, int pid)
{
	lodge__v1__vm_event__init(&t->event);
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->event.time_ns = since_1970_ns();
	t->event.name = t->name;
	t->event.state = state;
	t->event.pid = pid;
	return &t->event;
}

void events_initial(struct events_watcher *w, const char *name, VmTools__Concierge__VmState state,
		    int pid)
{
	struct event_text t;

	event_fill(&t, name, state, pid);
	t.event.initial = true;
	watcher_send(w, &t.event);
}

void events_watch(struct events *events, struct ttrpc_call *call,
		  const Lodge__V1__WatchEventsRequest *request, events_list_fn *list, void *ctx)
{
	Lodge__V1__VmEvent done = LODGE__V1__VM_EVENT__INIT;
	struct events_watcher *w = calloc(1, sizeof(*w));

	if (!w) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
		return;
	}
	w->call = call;
	w->name = request->name;
	w->next = events->first;
	w->at = &events->first;
	if (w->next)
		w->next->at = &w->next;
	events->first = w;
	ttrpc_call_set_user(call, w);
	list(ctx, w);
	done.initial_done = true;
	if (!w->error)
		w->error = ttrpc_call_send(call, &done.base);
	if (w->error && w->error != -EPIPE)
		watcher_fail(w);
}

void events_cancelled(struct events *events, struct ttrpc_call *call)
{
	struct events_watcher *w = ttrpc_call_user(call);

	(void)events;
	watcher_unlink(w);
	free(w);
	ttrpc_call_reply(call, NULL);
}

void events_publish(struct events *events, const char *name, VmTools__Concierge__VmState state,
		    int pid, const struct vm_end *end)
{
	struct event_text t;

	event_fill(&t, name, state, pid);
	if (end) {
		t.end = *end;
		t.event.end = t.end.end;
		t.event.reason = t.end.reason;
		t.event.exit_status = t.end.exit_status;
	}
	for (struct events_watcher *w = events->first, *next; w; w = next) {
		next = w->next;
		watcher_send(w, &t.event);
		if (w->error)
			watcher_fail(w);
	}
}

void events_end(struct events *events)
{
	for (struct events_watcher *w = events->first, *next; w; w = next) {
		struct ttrpc_call *call = w->call;

		next = w->next;
		watcher_unlink(w);
		free(w);
		ttrpc_call_reply(call, NULL);
	}
}
