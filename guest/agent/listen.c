/* Sockets of the agent. See guest/agent/listen.h; vsock(7). */
#include "guest/agent/listen.h"

#include "guest/agent/agent.h"

#include "base/checked.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* after sys/socket.h, whose types it needs */
#include <linux/vm_sockets.h>

#define BACKLOG	      128
#define READY_TRY_NS  UINT64_C(100000000)
#define READY_TRY_MAX 600

union address {
	struct sockaddr sa;
	struct sockaddr_vm vm;
	struct sockaddr_un un;
};

/* `cid`: of the vsock. 0 or -EINVAL. */
static int parse_address(const char *where, unsigned cid, union address *ret, socklen_t *ret_len,
			 struct err *err)
{
	union address a = {0};
	unsigned long port;
	char *end;

	if (!strncmp(where, "vsock:", 6)) {
		port = strtoul(where + 6, &end, 10);
		if (where[6] < '0' || where[6] > '9' || *end || port >= UINT32_MAX)
			return err_set(err, EINVAL, "'%s' has no port number", where);
		a.vm = (struct sockaddr_vm){
		    .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = (unsigned)port};
		*ret_len = sizeof(a.vm);
	} else if (!strncmp(where, "unix:", 5)) {
		if (!where[5] || strlen(where + 5) >= sizeof(a.un.sun_path))
			return err_set(err, EINVAL, "'%s' has no path of up to %zu bytes", where,
				       sizeof(a.un.sun_path) - 1);
		a.un.sun_family = AF_UNIX;
		strcpy(a.un.sun_path, where + 5);
		*ret_len = sizeof(a.un);
	} else {
		return err_set(err, EINVAL, "'%s' is neither vsock:PORT nor unix:PATH", where);
	}
	*ret = a;
	return 0;
}

int listen_open(const char *where, int *ret_fd, struct err *err)
{
	union address a;
	socklen_t len;
	int fd, res = parse_address(where, VMADDR_CID_ANY, &a, &len, err);

	if (res)
		return res;
	fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 && a.sa.sa_family == AF_VSOCK && errno == EAFNOSUPPORT)
		return err_set(err, EAFNOSUPPORT,
			       "this kernel has no vsock, or its module is not "
			       "loaded (modprobe vmw_vsock_virtio_transport)");
	if (fd < 0)
		return err_sys(err, errno, "a socket for %s", where);
	if (bind(fd, &a.sa, len) < 0 || listen(fd, BACKLOG) < 0) {
		res = err_sys(err, errno, "listening on %s", where);
		close(fd);
		return res;
	}
	*ret_fd = fd;
	return 0;
}

/* ---- who calls ----------------------------------------------------------------------------------
 */

struct peer {
	bool trusted;
};

void *listen_admit(void *ctx, int fd)
{
	const struct agent *agent = ctx;
	union address a = {0};
	socklen_t len = sizeof(a);
	struct peer *peer;

	if (getpeername(fd, &a.sa, &len) < 0)
		return NULL;
	if (a.sa.sa_family == AF_VSOCK && a.vm.svm_cid != VMADDR_CID_HOST)
		return NULL;
	peer = calloc(1, sizeof(*peer));
	if (peer)
		peer->trusted = !agent->token;
	return peer;
}

void listen_leave(void *ctx, void *peer)
{
	(void)ctx;
	free(peer);
}

bool listen_permit(void *ctx, const void *peer, const struct ttrpc_method *method,
		   const ProtobufCMessage *request, struct err *err)
{
	(void)ctx;
	(void)request;
	if (((const struct peer *)peer)->trusted || method->start == listen_authenticate)
		return true;
	err_set(err, EACCES, "the agent serves only the process of its VM (Authenticate)");
	return false;
}

/* Takes as long for each token of that length. */
static bool same(const char *a, const char *b)
{
	size_t len = strlen(a);
	unsigned char differ = 0;

	if (len != strlen(b))
		return false;
	for (size_t i = 0; i < len; i++)
		differ |= (unsigned char)(a[i] ^ b[i]);
	return !differ;
}

void listen_authenticate(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	const Lodge__Agent__V1__AuthenticateRequest *r =
	    (const Lodge__Agent__V1__AuthenticateRequest *)request;
	Lodge__Agent__V1__AuthenticateResponse reply =
	    LODGE__AGENT__V1__AUTHENTICATE_RESPONSE__INIT;
	const struct agent *agent = ctx;
	union {
		const void *in;
		struct peer *out;
	} peer = {.in = ttrpc_call_peer(call)};

	if (agent->token && !same(r->token, agent->token)) {
		ttrpc_call_fail(call, TTRPC_PERMISSION_DENIED,
				"the token is not that of this agent");
		return;
	}
	if (peer.out)
		peer.out->trusted = true;
	ttrpc_call_reply(call, &reply.base);
}

/* ---- ready --------------------------------------------------------------------------------------
 */

static void ready_try(struct ready *r);

static void ready_again(struct ready *r, int error)
{
	close(r->fd);
	r->fd = -1;
	if (++r->tries < READY_TRY_MAX)
		loop_timer_arm(r->loop, &r->timer, loop_now_ns() + READY_TRY_NS);
	else
		log_warn("the host cannot be told that the agent is ready: %s: %s", r->where,
			 strerror(error));
}

static void ready_done(struct loop_op *op, int res)
{
	struct ready *r = container_of(op, struct ready, op);
	int error = 0;
	socklen_t len = sizeof(error);

	if (res < 0 || getsockopt(r->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = res < 0 ? -res : errno;
	if (error) {
		ready_again(r, error);
	} else {
		close(r->fd);
		r->fd = -1;
	}
}

static void ready_timer(struct loop_timer *t)
{
	ready_try(container_of(t, struct ready, timer));
}

static void ready_try(struct ready *r)
{
	union address a;
	socklen_t len;

	(void)parse_address(r->where, VMADDR_CID_HOST, &a, &len, NULL); /* was tried */
	r->fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (r->fd < 0 || (connect(r->fd, &a.sa, len) < 0 && errno != EINPROGRESS))
		ready_again(r, errno);
	else
		loop_poll(r->loop, &r->op, r->fd, POLLOUT);
}

int ready_begin(struct ready *r, struct loop *loop, const char *where, struct err *err)
{
	union address a;
	socklen_t len;
	int res = parse_address(where, VMADDR_CID_HOST, &a, &len, err);

	if (res)
		return res;
	*r = (struct ready){.loop = loop, .where = where, .fd = -1};
	r->op.done = ready_done;
	r->timer.fn = ready_timer;
	ready_try(r);
	return 0;
}
