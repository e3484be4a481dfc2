/* A port of the host for the machine's own process. See vsock_port.h; vsock(7). */
#include "vmm/vsock_port.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
/* after sys/socket.h, whose types it needs */
#include <linux/vm_sockets.h>

#define BACKLOG	 128
#define RETRY_NS UINT64_C(100000000) /* after accept(2) failed for lack of something */

/*
 * What the loop has of it (a message, an accept) may outlive vsock_port_free(): the last that comes
 * back frees it.
 */
struct vsock_port {
	struct loop *loop;
	void (*accepted)(void *ctx, int fd); /* NULL: freed */
	void *ctx;
	uint32_t port;

	/* vhost; the loop's thread */
	uint32_t guest_cid;
	int listen_fd; /* -1: none */
	bool accepting;
	struct loop_op accept;
	struct loop_timer retry;

	/* built-in */
	struct loop_msg given;
	bool giving;	      /* the loop's thread is among `accepted`s */
	pthread_mutex_t lock; /* below all others; the rest: */
	bool posted;
	int fds[VSOCK_PORT_WAITING];
	unsigned nfds;
};

/* Is it freed, and nothing under way any more? Then it is gone. */
static void put(struct vsock_port *p)
{
	pthread_mutex_lock(&p->lock);
	const bool busy = p->accepted || p->accepting || p->giving || p->posted;
	pthread_mutex_unlock(&p->lock);

	if (busy)
		return;
	cleanup_fd(&p->listen_fd);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---- built-in ---- */

static void given(struct loop_msg *m)
{
	struct vsock_port *p = container_of(m, struct vsock_port, given);
	int fds[VSOCK_PORT_WAITING];
	unsigned n;

	pthread_mutex_lock(&p->lock);
	p->posted = false;
	for (n = 0; n < p->nfds; n++)
		fds[n] = p->fds[n];
	p->nfds = 0;
	pthread_mutex_unlock(&p->lock);
	p->giving = true;
	for (unsigned i = 0; i < n; i++) {
		/* one of them may free the port */
		if (p->accepted)
			p->accepted(p->ctx, fds[i]);
		else
			close(fds[i]);
	}
	p->giving = false;
	put(p);
}

bool vsock_port_give(void *port, int fd)
{
	struct vsock_port *p = port;
	AUTOLOCK(&p->lock);

	if (p->nfds == VSOCK_PORT_WAITING)
		return false;
	p->fds[p->nfds++] = fd;
	if (!p->posted) {
		p->posted = true;
		loop_post(p->loop, &p->given);
	}
	return true;
}

/* ---- vhost ---- */

static bool is_guest(const struct vsock_port *p, int fd)
{
	struct sockaddr_vm peer = {0};
	socklen_t len = sizeof(peer);

	return !getpeername(fd, (struct sockaddr *)&peer, &len) && peer.svm_family == AF_VSOCK &&
	       peer.svm_cid == p->guest_cid;
}

static void accept_next(struct vsock_port *p)
{
	p->accepting = true;
	loop_accept(p->loop, &p->accept, p->listen_fd);
}

static void came(struct loop_op *op, int res)
{
	struct vsock_port *p = container_of(op, struct vsock_port, accept);

	p->accepting = false;
	if (!p->accepted) {
		if (res >= 0)
			close(res);
		put(p);
		return;
	}
	if (res < 0) {
		/* such as too many descriptors: again at once would be again in vain */
		loop_timer_arm(p->loop, &p->retry, loop_now_ns() + RETRY_NS);
		return;
	}
	accept_next(p);
	if (is_guest(p, res))
		p->accepted(p->ctx, res);
	else
		close(res);
}

static void again(struct loop_timer *t)
{
	accept_next(container_of(t, struct vsock_port, retry));
}

int vsock_port_listen(struct vsock_port *p, uint32_t guest_cid, struct err *err)
{
	struct sockaddr_vm a = {
	    .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = p->port};
	autofd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);
	int r;

	if (fd < 0)
		return err_sys(err, errno, "vsock: a socket for the guest's connections");
	r = bind(fd, (const struct sockaddr *)&a, sizeof(a));
	if (r && (errno == EADDRINUSE || errno == EACCES)) {
		a.svm_port = VMADDR_PORT_ANY;
		r = bind(fd, (const struct sockaddr *)&a, sizeof(a));
	}
	if (r || listen(fd, BACKLOG) || getsockname(fd, (struct sockaddr *)&a, &len))
		return err_sys(err, errno, "vsock: port %u of the host", p->port);
	p->port = a.svm_port;
	p->guest_cid = guest_cid;
	p->listen_fd = steal_fd(&fd);
	return 0;
}

void vsock_port_start(struct vsock_port *p)
{
	if (p->listen_fd >= 0)
		accept_next(p);
}

/* ---- life ---- */

int vsock_port_new(struct loop *loop, uint32_t port, void (*accepted)(void *ctx, int fd), void *ctx,
		   struct vsock_port **ret_port, struct err *err)
{
	struct vsock_port *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, ENOMEM, "vsock: out of memory");
	*p = (struct vsock_port){
	    .loop = loop,
	    .accepted = accepted,
	    .ctx = ctx,
	    .port = port,
	    .listen_fd = -1,
	    .accept.done = came,
	    .retry.fn = again,
	    .given.fn = given,
	    .lock = PTHREAD_MUTEX_INITIALIZER,
	};
	*ret_port = p;
	return 0;
}

uint32_t vsock_port_number(const struct vsock_port *p)
{
	return p->port;
}

void vsock_port_free(struct vsock_port *p)
{
	if (!p)
		return;
	p->accepted = NULL;
	if (p->accepting)
		loop_cancel(p->loop, &p->accept);
	if (p->retry.p.armed)
		loop_timer_disarm(p->loop, &p->retry);
	put(p);
}
