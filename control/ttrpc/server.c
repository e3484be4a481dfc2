/* Connections of a ttrpc server. See control/ttrpc/server.h. */
#include "base/checked.h"
#include "base/log.h"
#include "control/ttrpc/server_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Descriptors are back when some connection ends; nobody says when. */
#define ACCEPT_RETRY_NS UINT64_C(50000000)

static void server_accept(struct ttrpc_server *s);

/* ---- one connection -----------------------------------------------------------------------------
 */

static void conn_frame(void *ctx, const struct ttrpc_header *h, const uint8_t *data)
{
	struct server_conn *c = ctx;

	switch (h->type) {
	case TTRPC_REQUEST:
	case TTRPC_DATA:
		break;
	default: /* as the Go server does */
		return;
	}
	if (h->stream % 2 == 0) {
		server_status(c, h->stream, TTRPC_INVALID_ARGUMENT,
			      "a client's stream ids are odd");
	} else if (h->type == TTRPC_DATA) {
		server_data(c, h, data);
	} else if (h->stream <= c->last_stream) {
		server_status(c, h->stream, TTRPC_INVALID_ARGUMENT,
			      "stream ids ascend; this one is not above the last");
	} else {
		c->last_stream = h->stream;
		server_request(c, h, data);
	}
}

static void conn_oversized(void *ctx, const struct ttrpc_header *h)
{
	server_status(ctx, h->stream, TTRPC_RESOURCE_EXHAUSTED,
		      "the message has more than 4194304 bytes");
}

static void conn_drained(void *ctx)
{
	struct server_conn *c = ctx;

	server_writable(c);
	if (c->server->drained)
		loop_defer(c->server->config.loop, &c->server->drain_msg);
}

static void conn_drop(struct server_conn *c)
{
	struct ttrpc_server *s = c->server;

	while (c->calls)
		server_orphan(c->calls);
	ttrpc_conn_close(c->conn);
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	s->nconns--;
	if (c->peer && s->config.leave)
		s->config.leave(s->config.ctx, c->peer);
	free(c);
	if (s->drained)
		loop_defer(s->config.loop, &s->drain_msg);
	server_accept(s);
}

static void conn_closed(void *ctx, int error)
{
	if (error == -ENOBUFS)
		log_warn("control: a client that does not read its answers is disconnected");
	conn_drop(ctx);
}

static const struct ttrpc_conn_ops conn_ops = {
    .frame = conn_frame,
    .oversized = conn_oversized,
    .drained = conn_drained,
    .closed = conn_closed,
};

int ttrpc_server_adopt(struct ttrpc_server *s, int fd)
{
	struct server_conn *c = calloc(1, sizeof(*c));
	int res;

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	if (s->config.admit) {
		c->peer = s->config.admit(s->config.ctx, fd);
		if (!c->peer) {
			close(fd);
			free(c);
			return -EACCES;
		}
	}
	res = ttrpc_conn_new(s->config.loop, fd, &conn_ops, c, &c->conn);
	if (res) {
		if (c->peer && s->config.leave)
			s->config.leave(s->config.ctx, c->peer);
		free(c);
		return res;
	}
	c->server = s;
	c->next = s->conns;
	c->at = &s->conns;
	if (c->next)
		c->next->at = &c->next;
	s->conns = c;
	s->nconns++;
	return 0;
}

/* ---- accepting ----------------------------------------------------------------------------------
 */

static void accept_done(struct loop_op *op, int res)
{
	struct ttrpc_server *s = container_of(op, struct ttrpc_server, accept_op);

	s->accepting = false;
	if (s->closed || res == -ECANCELED) {
		if (res >= 0)
			close(res);
		return;
	}
	if (res >= 0) {
		(void)ttrpc_server_adopt(s, res);
	} else if (res != -EINTR && res != -ECONNABORTED) {
		static struct log_limit limit;

		log_limited(&limit, LOG_LEVEL_WARN, "control: accept: %s", strerror(-res));
		loop_timer_arm(s->config.loop, &s->accept_timer, loop_now_ns() + ACCEPT_RETRY_NS);
		return;
	}
	server_accept(s);
}

/* Above the limit newcomers wait in the socket's own queue. */
static void server_accept(struct ttrpc_server *s)
{
	if (s->accepting || s->closed || s->listen_fd < 0 || s->nconns >= TTRPC_CONNS_MAX)
		return;
	s->accepting = true;
	loop_accept(s->config.loop, &s->accept_op, s->listen_fd);
}

static void accept_again(struct loop_timer *t)
{
	server_accept(container_of(t, struct ttrpc_server, accept_timer));
}

/* ---- life ---------------------------------------------------------------------------------------
 */

static void drain_check(struct loop_msg *m)
{
	struct ttrpc_server *s = container_of(m, struct ttrpc_server, drain_msg);
	void (*drained)(void *ctx) = s->drained;

	for (struct server_conn *c = s->conns; c; c = c->next) {
		if (ttrpc_conn_queued(c->conn))
			return;
	}
	s->drained = NULL;
	if (drained)
		drained(s->config.ctx);
}

int ttrpc_server_new(const struct ttrpc_server_config *config, struct ttrpc_server **ret_server,
		     struct err *err)
{
	struct ttrpc_server *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, ENOMEM, "out of memory for the control server");
	s->config = *config;
	s->listen_fd = -1;
	s->accept_op.done = accept_done;
	s->accept_timer.fn = accept_again;
	s->drain_msg.fn = drain_check;
	*ret_server = s;
	return 0;
}

void ttrpc_server_listen(struct ttrpc_server *s, int fd)
{
	s->listen_fd = fd;
	server_accept(s);
}

void ttrpc_server_drain(struct ttrpc_server *s, void (*drained)(void *ctx))
{
	s->drained = drained;
	loop_defer(s->config.loop, &s->drain_msg);
}

void ttrpc_server_close(struct ttrpc_server *s)
{
	if (!s || s->closed)
		return;
	s->closed = true;
	loop_timer_disarm(s->config.loop, &s->accept_timer);
	if (s->accepting)
		loop_cancel(s->config.loop, &s->accept_op);
	for (struct server_conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		conn_drop(c);
	}
}

void ttrpc_server_free(struct ttrpc_server *s)
{
	if (!s)
		return;
	assert(!s->conns && !s->orphans);
	free(s);
}
