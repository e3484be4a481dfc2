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
	l.rlim_cur += VSOCK_CONNS_MAX;
	if (l.rlim_cur > l.rlim_max)
		l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

/* ---- backends ---- */

static int claim_vhost(void *ctx, uint32_t cid)
{
	return vhost_vsock_set_cid(ctx, cid);
}

static int open_vhost(struct machine_vsock *v, const struct vsock_config *config, struct err *err)
{
	int r = vhost_vsock_open(VHOST_VSOCK_DEVICE, NULL, &v->vhost, err);

	if (r)
		return r;
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

int machine_vsock_open(struct machine_vsock *v, const struct vsock_config *config, struct err *err)
{
	struct err why = ERR_INIT;
	bool vhost = config->backend == VSOCK_VHOST;
	int r;

	if (config->backend == VSOCK_AUTO) {
		vhost = !access(VHOST_VSOCK_DEVICE, R_OK | W_OK);
		if (!vhost && !config->socket)
			return err_sys(err, errno,
				       "vsock: %s; modprobe vhost_vsock, or use "
				       "backend=builtin,socket=PATH",
				       VHOST_VSOCK_DEVICE);
	}
	r = vhost ? open_vhost(v, config, &why) : open_builtin(v, config, &why);
	if (r)
		return err_set(err, why.code, "%s", why.msg);
	log_info("vsock: cid %u, %s%s", v->cid.cid, vhost ? "vhost" : "built-in at ",
		 vhost		  ? ""
		 : config->socket ? config->socket
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
	};
	int r;

	if (v->vhost.fd >= 0)
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
	vhost_vsock_close(&v->vhost);
	cid_drop(&v->cid);
	*v = (struct machine_vsock)MACHINE_VSOCK_INIT;
}
