/* Connections to the agent. See control/agent/connect.h; vsock(7). */
#include "control/agent/connect.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* after sys/socket.h, whose types it needs */
#include <linux/vm_sockets.h>

/* "OK 4294967295\n" and a terminator */
#define LINE_BYTES_MAX 32

union address {
	struct sockaddr sa;
	struct sockaddr_vm vm;
	struct sockaddr_un un;
};

/* connecting --> (built-in: "CONNECT" goes out --> "OK" comes) --> done. Threads: the loop's. */
struct agent_connect {
	struct loop *loop;
	void (*done)(void *ctx, int fd, const struct err *err); /* NULL: cancelled */
	void *ctx;
	int fd;
	enum agent_way way;
	int error; /* positive errno, from when it has failed */
	char line[LINE_BYTES_MAX];
	size_t len, at;
	struct loop_op op;
	struct loop_timer timer;
};

static void connect_free(struct agent_connect *c)
{
	loop_timer_disarm(c->loop, &c->timer);
	if (c->fd >= 0)
		close(c->fd);
	free(c);
}

static const char *cure(int error)
{
	switch (error) {
	case ETIMEDOUT:
		return "; the guest does not answer";
	case ECONNREFUSED:
	case ECONNRESET:
	case ENODEV:
		return "; does the guest run the agent (is it still starting, or has its own "
		       "initrd)?";
	case ENOENT:
		return "; has the VM ended?";
	default:
		return "";
	}
}

static void connect_finish(struct agent_connect *c)
{
	struct err err = ERR_INIT;
	int fd = c->error ? -1 : c->fd;

	if (c->error)
		err_set(&err, c->error, "the guest's agent cannot be reached: %s%s",
			strerror(c->error), cure(c->error));
	else
		c->fd = -1;
	if (c->done)
		c->done(c->ctx, c->error ? -c->error : fd, &err);
	else if (fd >= 0)
		close(fd);
	connect_free(c);
}

static void connect_fail(struct agent_connect *c, int error)
{
	c->error = error;
	connect_finish(c);
}

/* ---- the built-in device's greeting -------------------------------------------------------------
 */

static void read_line(struct agent_connect *c)
{
	loop_read(c->loop, &c->op, c->fd, c->line + c->len, sizeof(c->line) - 1 - c->len);
}

static void line_came(struct loop_op *op, int res)
{
	struct agent_connect *c = container_of(op, struct agent_connect, op);
	char *end;

	if (c->error || res <= 0) {
		/* it closes where nobody listens in the guest */
		connect_fail(c, c->error ? c->error : res < 0 ? -res : ECONNREFUSED);
		return;
	}
	c->len += (size_t)res;
	c->line[c->len] = '\0';
	end = memchr(c->line, '\n', c->len);
	if (!end && c->len < sizeof(c->line) - 1)
		read_line(c);
	else if (!end || end + 1 != c->line + c->len || strncmp(c->line, "OK ", 3) != 0)
		connect_fail(c, EPROTO); /* the agent says nothing before it is asked */
	else
		connect_finish(c);
}

static void write_line(struct agent_connect *c)
{
	loop_write(c->loop, &c->op, c->fd, c->line + c->at, c->len - c->at);
}

static void line_went(struct loop_op *op, int res)
{
	struct agent_connect *c = container_of(op, struct agent_connect, op);

	if (c->error || res < 0) {
		connect_fail(c, c->error ? c->error : -res);
		return;
	}
	c->at += (size_t)res;
	if (c->at < c->len) {
		write_line(c);
		return;
	}
	c->len = 0;
	c->op.done = line_came;
	read_line(c);
}

/* ---- connecting ---------------------------------------------------------------------------------
 */

static void connected(struct loop_op *op, int res)
{
	struct agent_connect *c = container_of(op, struct agent_connect, op);
	int error = 0;
	socklen_t len = sizeof(error);

	if (!c->error && res < 0)
		c->error = -res;
	else if (!c->error && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0)
		c->error = error;
	if (c->error || c->way != AGENT_BY_BUILTIN) {
		connect_finish(c);
		return;
	}
	c->op.done = line_went;
	write_line(c);
}

static void timed_out(struct loop_timer *t)
{
	struct agent_connect *c = container_of(t, struct agent_connect, timer);

	c->error = ETIMEDOUT;
	loop_cancel(c->loop, &c->op); /* its callback ends it */
}

static int fill_address(const struct agent_address *a, union address *ret, socklen_t *ret_len,
			struct err *err)
{
	memset(ret, 0, sizeof(*ret));
	if (a->way == AGENT_BY_VSOCK) {
		ret->vm = (struct sockaddr_vm){
		    .svm_family = AF_VSOCK, .svm_cid = a->cid, .svm_port = a->port};
		*ret_len = sizeof(ret->vm);
		return 0;
	}
	if (!a->path || !a->path[0])
		return err_set(err, EINVAL,
			       "the guest's agent has no address: the VM has no vsock");
	if (strlen(a->path) >= sizeof(ret->un.sun_path))
		return err_set(err, ENAMETOOLONG,
			       "socket path %s has more than %zu bytes; use a shorter runtime "
			       "directory",
			       a->path, sizeof(ret->un.sun_path) - 1);
	ret->un.sun_family = AF_UNIX;
	memcpy(ret->un.sun_path, a->path, strlen(a->path) + 1);
	*ret_len = sizeof(ret->un);
	return 0;
}

/* A socket that is connected, or about to be: *ret_fd. */
static int open_socket(const struct agent_address *address, int *ret_fd, struct err *err)
{
	union address a;
	socklen_t len = 0;
	autofd int fd = -1;
	int res;

	if (address->way == AGENT_BY_BUILTIN && !address->path && address->fd >= 0) {
		*ret_fd = address->fd;
		return 0;
	}
	res = fill_address(address, &a, &len, err);
	if (res)
		return res;
	fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || (connect(fd, &a.sa, len) < 0 && errno != EINPROGRESS)) {
		res = errno == EAGAIN ? ECONNREFUSED : errno; /* its queue is full */
		return err_set(err, res, "the guest's agent cannot be reached: %s%s", strerror(res),
			       cure(res));
	}
	*ret_fd = steal_fd(&fd);
	return 0;
}

int agent_connect(struct loop *loop, const struct agent_address *address, uint64_t timeout_ns,
		  void (*done)(void *ctx, int fd, const struct err *err), void *ctx,
		  struct agent_connect **ret_connect, struct err *err)
{
	struct agent_connect *c;
	int fd = -1;
	int res = open_socket(address, &fd, err);

	if (res)
		return res;
	c = calloc(1, sizeof(*c));
	if (!c) {
		cleanup_fd(&fd);
		return err_set(err, ENOMEM, "out of memory");
	}
	*c = (struct agent_connect){
	    .loop = loop, .done = done, .ctx = ctx, .fd = fd, .way = address->way};
	c->op.done = connected;
	c->timer.fn = timed_out;
	c->len = (size_t)snprintf(c->line, sizeof(c->line), "CONNECT %u\n", address->port);
	loop_poll(loop, &c->op, c->fd, POLLOUT);
	loop_timer_arm(loop, &c->timer, loop_now_ns() + timeout_ns);
	*ret_connect = c;
	return 0;
}

void agent_connect_cancel(struct agent_connect *c)
{
	if (!c)
		return;
	c->done = NULL;
	c->error = ECANCELED;
	loop_cancel(c->loop, &c->op);
}
