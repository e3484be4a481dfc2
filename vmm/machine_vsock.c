/* A machine's vsock. See machine_vsock.h. */
#include "vmm/machine_vsock.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "devices/virtio/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_BACKLOG 128

/* ---- the host's socket ---- */

/* Takes a socket away that nobody serves. */
static int make_room(const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	autofd int fd = -1;

	if (lstat(addr->sun_path, &st))
		return errno == ENOENT ? 0 : err_sys(err, errno, "vsock: %s", addr->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, EADDRINUSE,
			       "vsock: %s is there and no socket; name another path",
			       addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(err, errno, "vsock: socket");
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) || errno == EAGAIN)
		return err_set(err, EADDRINUSE,
			       "vsock: another process serves %s; name another path",
			       addr->sun_path);
	if (errno != ECONNREFUSED)
		return err_sys(err, errno, "vsock: %s", addr->sun_path);
	if (unlink(addr->sun_path) && errno != ENOENT)
		return err_sys(err, errno, "vsock: %s", addr->sun_path);
	return 0;
}

static int listen_at(struct machine_vsock *v, const char *path, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	autofd int fd = -1;
	int r;

	if (strlen(path) > VSOCK_PATH_MAX)
		return err_set(err, ENAMETOOLONG,
			       "vsock: socket %s is longer than %d bytes; name a shorter path",
			       path, VSOCK_PATH_MAX);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	r = make_room(&addr, err);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* the mode that bind(2) then gives the file: its owner's alone */
	if (fd < 0 || fchmod(fd, 0600))
		return err_sys(err, errno, "vsock: socket");
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return err_sys(err, errno, "vsock: socket %s", path);
	if (listen(fd, SOCKET_BACKLOG))
		return err_sys(err, errno, "vsock: socket %s", path);
	v->listen_fd = steal_fd(&fd);
	return 0;
}

/* Names in it are all that the device connects to. */
static int open_folder(struct machine_vsock *v, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[VSOCK_PATH_MAX + 2] = ".";

	v->name = slash ? slash + 1 : path;
	if (slash)
		snprintf(dir, sizeof(dir), "%.*s/", (int)(slash - path), path);
	v->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return v->dir_fd < 0 ? err_sys(err, errno, "vsock: folder %s", dir) : 0;
}

/* Each connection takes a descriptor: asks for as many more, as far as the host allows. */
static void raise_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur == RLIM_INFINITY)
		return;
	l.rlim_cur += 2 * VSOCK_CONNS_MAX; /* both ends where they are this process's */
	if (l.rlim_cur > l.rlim_max)
		l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

/* ---- backends ---- */

static int claim_vhost(void *ctx, uint32_t cid)
{
	return vhost_vsock_set_cid(ctx, cid);
}

static int take_vhost(struct machine_vsock *v, const struct vsock_config *config, struct err *err)
{
	v->by_host = true;
	return cid_take(NULL, config->cid, claim_vhost, &v->vhost, &v->cid, err);
}

static int open_builtin(struct machine_vsock *v, const struct vsock_config *config, struct err *err)
{
	int r = cid_take(NULL, config->cid, NULL, NULL, &v->cid, err);

	if (r)
		return r;
	raise_limit();
	r = config->socket ? listen_at(v, config->socket, err) : 0;
	return !r && config->socket ? open_folder(v, config->socket, err) : r;
}

/* Vhost, but built-in where the host lacks it and the guest can be `reached` otherwise. */
static int open_any(struct machine_vsock *v, const struct vsock_config *c, bool reached,
		    struct err *err)
{
	struct err why = ERR_INIT;

	if (!vhost_vsock_open(VHOST_VSOCK_DEVICE, NULL, &v->vhost, &why))
		return take_vhost(v, c, err);
	if (!c->socket && !reached)
		return err_set(err, why.code, "%s; or use backend=builtin,socket=PATH", why.msg);
	log_info("%s; so it is the built-in one", why.msg);
	return open_builtin(v, c, err);
}

static int open_backend(struct machine_vsock *v, const struct vsock_config *c, bool reached,
			struct err *err)
{
	int r;

	switch (c->backend) {
	case VSOCK_VHOST:
		r = vhost_vsock_open(VHOST_VSOCK_DEVICE, NULL, &v->vhost, err);
		return r ? r : take_vhost(v, c, err);
	case VSOCK_BUILTIN:
		return open_builtin(v, c, err);
	default:
		return open_any(v, c, reached, err);
	}
}

static int open_port(struct machine_vsock *v, struct loop *control,
		     const struct machine_callbacks *callbacks, struct err *err)
{
	int r;

	if (!callbacks->vsock_accepted)
		return 0;
	r = vsock_port_new(control, callbacks->vsock_port, callbacks->vsock_accepted,
			   callbacks->ctx, &v->port, err);
	return !r && v->by_host ? vsock_port_listen(v->port, v->cid.cid, err) : r;
}

int machine_vsock_open(struct machine_vsock *v, const struct machine_config *config,
		       struct loop *control, const struct machine_callbacks *callbacks,
		       struct err *err)
{
	const char *socket = config->vsock.socket;
	int r = open_backend(v, &config->vsock, callbacks->vsock_accepted != NULL, err);

	if (!r)
		r = open_port(v, control, callbacks, err);
	if (r)
		return r;
	log_info("vsock: cid %u, %s%s", v->cid.cid, v->by_host ? "vhost" : "built-in at ",
		 v->by_host ? ""
		 : socket   ? socket
			    : "no socket");
	return 0;
}

int machine_vsock_device(struct machine_vsock *v, const struct platform *plat, struct loop *loop,
			 struct virtio_dev **ret_dev, struct err *err)
{
	const struct virtio_vsock_config c = {
	    .cid = v->cid.cid,
	    .path = v->name,
	    .listen_fd = v->listen_fd,
	    .accepted = v->port ? vsock_port_give : NULL,
	    .ctx = v->port,
	    .own_port = v->port ? vsock_port_number(v->port) : 0,
	};
	int r;

	if (v->by_host)
		return virtio_vhost_vsock_new(&v->vhost, v->cid.cid, plat, loop, ret_dev, err);
	r = virtio_vsock_new(&c, loop, ret_dev, err);
	if (!r)
		v->listen_fd = -1; /* the device's */
	return r;
}

void machine_vsock_free(struct machine_vsock *v)
{
	cleanup_fd(&v->listen_fd);
	cleanup_fd(&v->dir_fd);
	vhost_close(&v->vhost);
	vsock_port_free(v->port);
	cid_drop(&v->cid);
	*v = (struct machine_vsock)MACHINE_VSOCK_INIT;
}
