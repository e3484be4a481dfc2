/* The agent's part of `lodge run`. See control/run/guest.h. */
#include "control/run/guest.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/agent/guests.h"

#include <errno.h>
#include <sys/socket.h>

/* ---- calls of the other process -----------------------------------------------------------------
 */

static bool is_mine(void *ctx, const char *name)
{
	(void)ctx;
	(void)name;
	return true;
}

static struct ttrpc_client *client(void *ctx, struct err *err)
{
	return guest_client(&((struct run_guest *)ctx)->guest, err);
}

static const struct relay_ops relay_ops = {.is_mine = is_mine, .client = client};

static void call_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	relay_start(&((struct run_guest *)ctx)->relay, call, request);
}

static const struct ttrpc_method methods[] = {
    GUESTS_METHODS(call_start, relay_data, relay_data_end, relay_cancelled)};
static const struct ttrpc_service guests = {GUESTS_SERVICE, methods, ARRAY_LEN(methods)};
static const struct ttrpc_service *const services[] = {&guests, NULL};

static void *admit(void *ctx, int fd)
{
	(void)fd;
	return ctx;
}

static void leave(void *ctx, void *peer)
{
	struct run_guest *g = ctx;

	(void)peer;
	g->callbacks.over(g->callbacks.ctx);
}

static void serve(struct run_guest *g)
{
	struct ttrpc_server_config config = {
	    .loop = g->loop, .services = services, .ctx = g, .admit = admit, .leave = leave};
	struct err err = ERR_INIT;

	if (g->watching) {
		loop_cancel(g->loop, &g->watch);
		g->watching = false;
	}
	if (ttrpc_server_new(&config, &g->server, &err)) {
		g->callbacks.failed(g->callbacks.ctx, &err);
		return;
	}
	if (send(g->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) {
		g->callbacks.over(g->callbacks.ctx);
		return;
	}
	(void)ttrpc_server_adopt(g->server,
				 steal_fd(&g->fd)); /* on failure the other one sees it */
}

/* The other process has gone before it was served. */
static void gone(struct loop_op *op, int res)
{
	struct run_guest *g = container_of(op, struct run_guest, watch);

	if (res == -ECANCELED)
		return;
	g->watching = false;
	g->callbacks.over(g->callbacks.ctx);
}

/* ---- the start ----------------------------------------------------------------------------------
 */

static void booted(void *ctx, const struct err *err)
{
	struct run_guest *g = ctx;

	if (err->code)
		g->callbacks.failed(g->callbacks.ctx, err);
	else if (g->fd >= 0)
		serve(g);
}

static void agent_ready(void *ctx)
{
	boot_agent_ready(&((struct run_guest *)ctx)->boot);
}

void run_guest_shares_changed(struct run_guest *g)
{
	boot_shares_changed(&g->boot);
}

static void agent_leaving(void *ctx)
{
	relay_end(&((struct run_guest *)ctx)->relay, "the guest has ended");
}

void run_guest_init(struct run_guest *g, struct loop *loop,
		    const struct run_guest_callbacks *callbacks)
{
	const struct guest_callbacks c = {.ready = agent_ready, .leaving = agent_leaving, .ctx = g};

	*g =
	    (struct run_guest){.loop = loop, .callbacks = *callbacks, .watch.done = gone, .fd = -1};
	g->relay = (struct relay){.ops = &relay_ops, .ctx = g};
	guest_init(&g->guest, loop, &c);
}

void run_guest_begin(struct run_guest *g, struct machine *machine,
		     const struct machine_config *config, const struct shares *shares,
		     unsigned timeout_ms, int fd)
{
	g->fd = fd;
	if (fd >= 0) {
		g->watching = true;
		loop_poll(g->loop, &g->watch, fd, POLLIN | POLLHUP);
	}
	guest_attach(&g->guest, machine, config->agent_token);
	boot_begin(&g->boot, g->loop, &g->guest, config, shares, timeout_ms, booted, g);
}

/* ---- the end ------------------------------------------------------------------------------------
 */

static void refused(void *ctx)
{
	struct run_guest *g = ctx;

	g->refused(g->callbacks.ctx);
}

bool run_guest_shutdown(struct run_guest *g, void (*refused_fn)(void *ctx))
{
	g->refused = refused_fn;
	boot_end(&g->boot);
	return guest_shutdown(&g->guest, refused);
}

void run_guest_end(struct run_guest *g)
{
	if (!g->loop)
		return;
	if (g->watching)
		loop_cancel(g->loop, &g->watch);
	boot_end(&g->boot);
	guest_detach(&g->guest);
	if (g->server)
		ttrpc_server_close(g->server);
}

void run_guest_free(struct run_guest *g)
{
	if (!g->loop)
		return;
	ttrpc_server_free(g->server);
	cleanup_fd(&g->fd);
}
