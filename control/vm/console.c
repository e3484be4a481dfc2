/* The console of the VM of this process. See control/vm/console.h. */
#include "control/vm/console.h"

#include "base/checked.h"
#include "control/vm/console_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Left to other streams of the connection. */
#define ROOM_KEPT (128 * 1024)
/* What is typed of one client before it is another one's turn. */
#define TURN_BYTES 256

struct watcher {
	struct vm_console *console;
	struct watcher *next, **at;
	struct ttrpc_call *call;
	uint64_t pos;	  /* the next byte of the ring */
	uint64_t limit;	  /* the stream ends there; UINT64_MAX: with the VM */
	uint64_t dropped; /* not told yet */
	bool waits;	  /* for the client to read */

	bool types;
	uint8_t *input; /* VM_CONSOLE_INPUT_MAX, while any waits */
	size_t input_at, input_len;
	bool line_break; /* after what waits */
	uint64_t taken, taken_told;
};

struct vm_console {
	struct loop *loop;
	struct console_ring ring;
	struct uart_sink sink;
	struct uart *uart;
	struct watcher *watchers;
	unsigned ntypes;
	uint64_t in_bytes;
	bool ended;
	struct loop_msg pump;
};

/* ---- life of a watcher
 * ----------------------------------------------------------------------------
 */

static void watcher_free(struct watcher *w)
{
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
	w->console->ntypes -= w->types;
	free(w->input);
	free(w);
}

static struct watcher *watcher_new(struct vm_console *c, struct ttrpc_call *call,
				   const Lodge__V1__ReadConsoleRequest *r)
{
	struct watcher *w = calloc(1, sizeof(*w));
	uint64_t kept = c->ring.end - console_ring_start(&c->ring);

	if (!w) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
		return NULL;
	}
	if (r->replay_bytes_max)
		kept = MIN(kept, r->replay_bytes_max);
	w->console = c;
	w->call = call;
	w->pos = c->ring.end - (r->no_replay ? 0 : kept);
	w->limit = r->no_follow ? c->ring.end : UINT64_MAX;
	w->next = c->watchers;
	w->at = &c->watchers;
	if (w->next)
		w->next->at = &w->next;
	c->watchers = w;
	ttrpc_call_set_user(call, w);
	return w;
}

/* ---- output -------------------------------------------------------------------------------------
 */

static void watcher_pump(struct watcher *w);

static void watcher_writable(void *ctx, struct ttrpc_call *call)
{
	struct watcher *w = ttrpc_call_user(call);

	(void)ctx;
	w->waits = false;
	watcher_pump(w);
}

static void watcher_wait(struct watcher *w)
{
	w->waits = true;
	ttrpc_call_wait(w->call, watcher_writable);
}

static uint64_t watcher_end(const struct watcher *w)
{
	return MIN(w->limit, w->console->ring.end);
}

/* Is there nothing left to come? */
static bool watcher_over(const struct watcher *w)
{
	return w->pos >= w->limit || (w->console->ended && w->pos == w->console->ring.end);
}

/* One message of what has come, and what of the input was taken. */
static int watcher_send(struct watcher *w)
{
	Lodge__V1__ConsoleOutput out = LODGE__V1__CONSOLE_OUTPUT__INIT;
	const uint8_t *data;
	size_t len = console_ring_get(&w->console->ring, w->pos, &data);
	int res;

	len = (size_t)MIN(MIN((uint64_t)len, watcher_end(w) - w->pos),
			  (uint64_t)VM_CONSOLE_PIECE_BYTES);
	out.data.len = len;
	memcpy(&out.data.data, &data, sizeof(data));
	out.dropped_bytes = w->dropped;
	out.input_taken_bytes = w->taken;
	res = ttrpc_call_send(w->call, &out.base);
	if (res)
		return res;
	w->pos += len;
	w->dropped = 0;
	w->taken_told = w->taken;
	return 0;
}

/* What the ring has forgotten since. */
static void watcher_catch_up(struct watcher *w)
{
	uint64_t to = MIN(console_ring_start(&w->console->ring), w->limit);

	if (w->pos < to) {
		w->dropped += to - w->pos;
		w->pos = to;
	}
}

/* A turn: one message at most. May free `w`. */
static void watcher_pump(struct watcher *w)
{
	struct ttrpc_call *call = w->call;
	int res = 0;

	if (w->waits)
		return;
	watcher_catch_up(w);
	if (w->pos < watcher_end(w) || w->dropped ||
	    w->taken - w->taken_told >= VM_CONSOLE_INPUT_TOLD) {
		if (ttrpc_call_room(call) < ROOM_KEPT) {
			watcher_wait(w);
			return;
		}
		res = watcher_send(w);
	}
	if (res == -EPIPE) /* it is cancelled soon */
		return;
	if (res) {
		watcher_free(w);
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
	} else if (watcher_over(w)) {
		watcher_free(w);
		ttrpc_call_reply(call, NULL);
	} else if (w->pos < watcher_end(w)) {
		watcher_wait(w);
	}
}

static void pump(struct loop_msg *m)
{
	struct vm_console *c = container_of(m, struct vm_console, pump);

	for (struct watcher *w = c->watchers, *next; w; w = next) {
		next = w->next;
		watcher_pump(w);
	}
}

static long sink_write(void *ctx, const void *buf, size_t len)
{
	struct vm_console *c = ctx;

	console_ring_put(&c->ring, buf, len);
	if (c->watchers)
		loop_defer(c->loop, &c->pump);
	return (long)len;
}

/* ---- input --------------------------------------------------------------------------------------
 */

/* Gives the port a turn's worth of what waits. False: it takes no more. */
static bool type_turn(struct watcher *w)
{
	struct vm_console *c = w->console;
	size_t len = MIN(w->input_len, (size_t)TURN_BYTES);
	size_t n = uart_feed(c->uart, w->input + w->input_at, len);

	w->input_at += n;
	w->input_len -= n;
	w->taken += n;
	c->in_bytes += n;
	if (!w->input_len) {
		free(w->input);
		w->input = NULL;
		if (w->line_break)
			uart_break(c->uart);
		w->line_break = false;
	}
	return n == len;
}

/* Those that have input take turns until the port is full. */
static void type_all(struct vm_console *c)
{
	bool more = true;

	if (!c->uart)
		return;
	while (more) {
		more = false;
		for (struct watcher *w = c->watchers; w; w = w->next) {
			if (!w->input)
				continue;
			if (!type_turn(w)) {
				loop_defer(c->loop, &c->pump);
				return;
			}
			more = true;
		}
	}
	loop_defer(c->loop, &c->pump);
}

static void sink_drained(void *ctx)
{
	type_all(ctx);
}

/* False: too much waits. */
static bool input_keep(struct watcher *w, const uint8_t *data, size_t len)
{
	if (len > VM_CONSOLE_INPUT_MAX - w->input_len)
		return false;
	if (!w->input) {
		w->input = malloc(VM_CONSOLE_INPUT_MAX);
		w->input_at = 0;
	}
	if (!w->input)
		return false;
	if (w->input_at + w->input_len + len > VM_CONSOLE_INPUT_MAX) {
		memmove(w->input, w->input + w->input_at, w->input_len);
		w->input_at = 0;
	}
	memcpy(w->input + w->input_at + w->input_len, data, len);
	w->input_len += len;
	return true;
}

void vm_console_input(struct ttrpc_call *call, const Lodge__V1__ConsoleInput *input)
{
	struct watcher *w = ttrpc_call_user(call);
	struct vm_console *c = w->console;

	if (c->ended)
		return;
	if (input->data.len && !input_keep(w, input->data.data, input->data.len)) {
		watcher_free(w);
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED,
				"more than %d bytes wait for the guest to read them; "
				"input_taken_bytes tells when more may be sent",
				VM_CONSOLE_INPUT_MAX);
		return;
	}
	if (input->line_break && w->input)
		w->line_break = true;
	else if (input->line_break && c->uart)
		uart_break(c->uart);
	if (w->input)
		type_all(c);
}

/* ---- streams ------------------------------------------------------------------------------------
 */

void vm_console_read(struct vm_console *c, struct ttrpc_call *call,
		     const Lodge__V1__ReadConsoleRequest *request)
{
	struct watcher *w = watcher_new(c, call, request);

	if (w)
		watcher_pump(w);
}

bool vm_console_open(struct vm_console *c, struct ttrpc_call *call,
		     const Lodge__V1__ReadConsoleRequest *request)
{
	struct watcher *w;

	if (c->ntypes == VM_CONSOLE_ATTACH_MAX) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED,
				"%d clients are attached to this console", VM_CONSOLE_ATTACH_MAX);
		return false;
	}
	w = watcher_new(c, call, request);
	if (!w)
		return false;
	w->types = true;
	c->ntypes++;
	/* after its input, which comes with the same message */
	loop_defer(c->loop, &c->pump);
	return true;
}

void vm_console_close(struct ttrpc_call *call)
{
	if (ttrpc_call_user(call))
		watcher_free(ttrpc_call_user(call));
}

/* ---- life ---------------------------------------------------------------------------------------
 */

const struct uart_sink *vm_console_sink(struct vm_console *c)
{
	return &c->sink;
}

void vm_console_connect(struct vm_console *c, struct uart *uart)
{
	c->uart = uart;
	type_all(c);
}

void vm_console_begin(struct vm_console *c)
{
	c->ended = false;
}

void vm_console_end(struct vm_console *c)
{
	c->ended = true;
	loop_defer(c->loop, &c->pump);
}

void vm_console_stats(const struct vm_console *c, struct vm_console_stats *ret_stats)
{
	*ret_stats = (struct vm_console_stats){.out_bytes = c->ring.end, .in_bytes = c->in_bytes};
}

int vm_console_new(struct loop *loop, struct vm_console **ret_console)
{
	struct vm_console *c = calloc(1, sizeof(*c));

	if (!c || console_ring_init(&c->ring)) {
		free(c);
		return -ENOMEM;
	}
	c->loop = loop;
	c->sink = (struct uart_sink){.write = sink_write, .drained = sink_drained, .ctx = c};
	c->pump.fn = pump;
	*ret_console = c;
	return 0;
}

void vm_console_free(struct vm_console *c)
{
	if (!c)
		return;
	console_ring_fini(&c->ring);
	free(c);
}
