/* The way to the agent. See control/agent/guest.h. */
#include "control/agent/guest.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "proto/agent.pb-c.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

#define CONNECT_NS  UINT64_C(10000000000)
#define SHUTDOWN_NS UINT64_C(2000000000)
/* Between attempts, doubled each time. */
#define RETRY_FIRST_NS UINT64_C(50000000)
#define TRIES_MAX      8 /* about 13 s: then only "ready" counts, or a call that is wanted */

static void connect_now(struct guest *g);

static void stop_waiting(struct guest *g)
{
	if (g->retrying)
		loop_timer_disarm(g->loop, &g->retry);
	g->retrying = false;
}

static void disconnect(struct guest *g)
{
	stop_waiting(g);
	agent_connect_cancel(steal_ptr(&g->connect));
	if (g->client && g->callbacks.leaving)
		g->callbacks.leaving(g->callbacks.ctx);
	ttrpc_client_close(steal_ptr(&g->client));
}

/* Nobody listened, or it was lost. */
static void try_later(struct guest *g)
{
	g->state = GUEST_AWAITED;
	if (g->tries >= TRIES_MAX)
		return;
	g->retrying = true;
	loop_timer_arm(g->loop, &g->retry, loop_now_ns() + (RETRY_FIRST_NS << g->tries));
	g->tries++;
}

static void retry(struct loop_timer *t)
{
	connect_now(container_of(t, struct guest, retry));
}

static void lost(void *ctx)
{
	struct guest *g = ctx;

	ttrpc_client_close(steal_ptr(&g->client));
	try_later(g);
}

static void there(struct guest *g)
{
	g->state = GUEST_THERE;
	g->tries = 0;
	if (g->callbacks.ready)
		g->callbacks.ready(g->callbacks.ctx);
}

static void authenticated(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct guest *g = ctx;

	(void)reply;
	if (code == TTRPC_OK) {
		there(g);
		return;
	}
	log_warn("guest: its agent is not the one that was put into it (code %d)", code);
	(void)text; /* the guest's own words */
	ttrpc_client_close(steal_ptr(&g->client));
	try_later(g);
}

static void authenticate(struct guest *g)
{
	Lodge__Agent__V1__AuthenticateRequest request =
	    LODGE__AGENT__V1__AUTHENTICATE_REQUEST__INIT;
	struct ttrpc_rpc rpc = {
	    .service = AGENT_SERVICE,
	    .method = "Authenticate",
	    .request = &request.base,
	    .output = &lodge__agent__v1__authenticate_response__descriptor,
	    .timeout_ns = CONNECT_NS,
	    .done = authenticated,
	    .ctx = g,
	};
	char token[33];

	snprintf(token, sizeof(token), "%s", g->token);
	request.token = token;
	if (ttrpc_client_start(g->client, &rpc, NULL)) {
		ttrpc_client_close(steal_ptr(&g->client));
		try_later(g);
	}
}

static void connected(void *ctx, int fd, const struct err *err)
{
	struct guest *g = ctx;

	g->connect = NULL;
	if (fd < 0) {
		log_debug("guest: %s", err->msg);
		try_later(g);
		return;
	}
	if (ttrpc_client_new(g->loop, fd, lost, g, &g->client)) {
		try_later(g);
		return;
	}
	if (*g->token)
		authenticate(g);
	else
		there(g);
}

/* The device's end of a pair is served as if a program had connected to its socket. */
static int built_in_end(struct guest *g, int *ret_fd, struct err *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds))
		return err_sys(err, errno, "socketpair");
	machine_vsock_adopt(g->machine, fds[1]);
	*ret_fd = fds[0];
	return 0;
}

static void connect_now(struct guest *g)
{
	struct agent_address a = {
	    .way = AGENT_BY_VSOCK,
	    .cid = machine_cid(g->machine),
	    .port = AGENT_PORT,
	    .fd = -1,
	};
	struct err err = ERR_INIT;
	int res = 0;

	stop_waiting(g);
	g->state = GUEST_CONNECTING;
	if (!machine_vsock_by_host(g->machine)) {
		a.way = AGENT_BY_BUILTIN;
		res = built_in_end(g, &a.fd, &err);
	}
	if (!res)
		res = agent_connect(g->loop, &a, CONNECT_NS, connected, g, &g->connect, &err);
	if (res) {
		log_debug("guest: %s", err.msg);
		try_later(g);
	}
}

void guest_said_ready(struct guest *g, int fd)
{
	cleanup_fd(&fd);
	g->tries = 0;
	if (g->state == GUEST_AWAITED)
		connect_now(g);
}

struct ttrpc_client *guest_client(struct guest *g, struct err *err)
{
	switch (g->state) {
	case GUEST_AWAY:
		err_set(err, ENOENT, "the VM does not run");
		return NULL;
	case GUEST_AWAITED:
		if (!machine_cid(g->machine)) {
			err_set(err, ENOTSUP, "the VM has no vsock, and so no agent");
			return NULL;
		}
		if (!g->retrying)
			connect_now(g); /* it may be there by the next call */
		break;
	case GUEST_CONNECTING:
		break;
	case GUEST_THERE:
		return g->client;
	}
	err_set(err, EAGAIN,
		"no agent answers in the guest; it is still starting, or its initrd or root does "
		"not start lodge-agent");
	return NULL;
}

static void shutdown_answered(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct guest *g = ctx;

	(void)text;
	(void)reply;
	if (code != TTRPC_OK)
		g->refused(g->callbacks.ctx);
}

bool guest_shutdown(struct guest *g, void (*refused)(void *ctx))
{
	Lodge__Agent__V1__ShutdownRequest request = LODGE__AGENT__V1__SHUTDOWN_REQUEST__INIT;
	struct ttrpc_rpc rpc = {
	    .service = AGENT_SERVICE,
	    .method = "Shutdown",
	    .request = &request.base,
	    .output = &lodge__agent__v1__shutdown_response__descriptor,
	    .timeout_ns = SHUTDOWN_NS,
	    .done = shutdown_answered,
	    .ctx = g,
	};

	if (g->state != GUEST_THERE)
		return false;
	g->refused = refused;
	return !ttrpc_client_start(g->client, &rpc, NULL);
}

void guest_init(struct guest *g, struct loop *loop, const struct guest_callbacks *callbacks)
{
	*g = (struct guest){.loop = loop, .callbacks = *callbacks, .retry.fn = retry};
}

int guest_make_token(char ret_token[33], struct err *err)
{
	uint8_t bytes[16];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return err_sys(err, errno, "getrandom");
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(ret_token + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

void guest_attach(struct guest *g, struct machine *machine, const char *token)
{
	g->machine = machine;
	g->token = token;
	g->state = GUEST_AWAITED;
	g->tries = 0;
}

void guest_detach(struct guest *g)
{
	disconnect(g);
	g->state = GUEST_AWAY;
	g->machine = NULL;
}
