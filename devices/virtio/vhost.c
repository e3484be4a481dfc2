/* vhost, what its devices share. linux/vhost.h. See vhost.h. */
#include "devices/virtio/vhost.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

/* Before the kernel's header. */
const uint64_t vhost_needs = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1;

#include <linux/vhost.h>

/* ---- the kernel's side ---- */

static int real_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

int vhost_call(const struct vhost *v, unsigned long request, void *arg)
{
	return v->ioctl(v->fd, request, arg) < 0 ? -errno : 0;
}

int vhost_open(const char *path, const struct vhost_names *names, vhost_ioctl *ioctl_fn,
	       struct vhost *ret_vhost, struct err *err)
{
	autofd int fd = open(path, O_RDWR | O_CLOEXEC);
	struct vhost v = {.fd = fd, .ioctl = ioctl_fn ? ioctl_fn : real_ioctl};
	__u64 features = 0;
	int r;

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(err, errno,
			       "no permission to open %s; run as root or give your group access",
			       path);
	if (fd < 0)
		return err_sys(err, errno, "%s: %s (modprobe %s?)", names->device, path,
			       names->module);
	r = vhost_call(&v, VHOST_SET_OWNER, NULL);
	if (r < 0)
		return err_sys(err, -r, "%s: %s: cannot be owned", names->device, path);
	r = vhost_call(&v, VHOST_GET_FEATURES, &features);
	if (r < 0)
		return err_sys(err, -r, "%s: %s: no features", names->device, path);
	if ((features & vhost_needs) != vhost_needs)
		return err_set(err, EOPNOTSUPP,
			       "%s: %s has features %#llx, which lack %#llx; use %s", names->device,
			       path, (unsigned long long)features,
			       (unsigned long long)(vhost_needs & ~features), names->instead);
	v.features = features;
	v.fd = steal_fd(&fd);
	*ret_vhost = v;
	return 0;
}

void vhost_close(struct vhost *vhost)
{
	cleanup_fd(&vhost->fd);
	vhost->fd = -1;
}

int vhost_set_features(const struct vhost *vhost, uint64_t features)
{
	__u64 v = features;

	return vhost_call(vhost, VHOST_SET_FEATURES, &v);
}

int vhost_set_memory(const struct vhost *vhost, const struct gmem *mem)
{
	uint64_t space[(sizeof(struct vhost_memory) +
			GMEM_REGIONS_MAX * sizeof(struct vhost_memory_region)) /
		       sizeof(uint64_t)] = {0};
	struct vhost_memory *table = (struct vhost_memory *)space;
	const struct gmem_region *r;

	for (unsigned i = 0; (r = gmem_region_at(mem, i)); i++) {
		table->regions[i] = (struct vhost_memory_region){
		    .guest_phys_addr = r->gpa,
		    .memory_size = r->len_bytes,
		    .userspace_addr = (uintptr_t)r->host,
		};
		table->nregions = i + 1;
	}
	return vhost_call(vhost, VHOST_SET_MEM_TABLE, table);
}

int vhost_get_base(const struct vhost *vhost, unsigned ring, uint16_t *ret_base)
{
	struct vhost_vring_state state = {.index = ring};
	int r = vhost_call(vhost, VHOST_GET_VRING_BASE, &state);

	if (!r)
		*ret_base = (uint16_t)state.num;
	return r;
}

int vhost_set_base(const struct vhost *vhost, unsigned ring, uint16_t base)
{
	struct vhost_vring_state state = {.index = ring, .num = base};

	return vhost_call(vhost, VHOST_SET_VRING_BASE, &state);
}

static int set_call_locked(const struct vhost_rings *rings, unsigned queue)
{
	const int irq_fd = rings->routes[queue].irq_fd;
	struct vhost_vring_file file = {
	    .index = rings->routes[queue].ring,
	    .fd = irq_fd >= 0 ? irq_fd : rings->calls[queue].fd,
	};

	return vhost_call(rings->routes[queue].vhost, VHOST_SET_VRING_CALL, &file);
}

void vhost_rings_irq(struct vhost_rings *rings, unsigned queue, int irq_fd)
{
	if (queue >= rings->n)
		return;
	AUTOLOCK(&rings->lock);
	if (rings->routes[queue].irq_fd == irq_fd)
		return;
	rings->routes[queue].irq_fd = irq_fd;
	/* A ring that took one eventfd takes another; what the first has is not lost. */
	if (rings->routes[queue].vhost)
		set_call_locked(rings, queue);
}

static int route(struct vhost_rings *rings, unsigned queue, const struct vhost *vhost,
		 unsigned ring)
{
	AUTOLOCK(&rings->lock);
	rings->routes[queue].vhost = vhost;
	rings->routes[queue].ring = ring;
	return set_call_locked(rings, queue);
}

void vhost_rings_unset(struct vhost_rings *rings)
{
	AUTOLOCK(&rings->lock);
	for (unsigned i = 0; i < rings->n; i++)
		rings->routes[i].vhost = NULL;
}

int vhost_rings_set(struct vhost_rings *rings, const struct vhost *vhost, unsigned ring,
		    const struct virtq *vq)
{
	const unsigned queue = virtq_index(vq);
	const struct virtq_rings at = virtq_rings(vq);
	struct vhost_vring_state state = {.index = ring, .num = virtq_size(vq)};
	struct vhost_vring_addr addr = {
	    .index = ring,
	    .desc_user_addr = (uintptr_t)at.desc,
	    .avail_user_addr = (uintptr_t)at.avail,
	    .used_user_addr = (uintptr_t)at.used,
	};
	struct vhost_vring_file file = {.index = ring};
	int r = vhost_call(vhost, VHOST_SET_VRING_NUM, &state);

	if (!r)
		r = vhost_set_base(vhost, ring, 0); /* where a driver begins */
	if (!r)
		r = vhost_call(vhost, VHOST_SET_VRING_ADDR, &addr);
	file.fd = rings->vl->dev->kick_fd[queue];
	if (!r)
		r = vhost_call(vhost, VHOST_SET_VRING_KICK, &file);
	if (!r)
		r = route(rings, queue, vhost, ring);
	file.fd = rings->error.fd;
	if (!r)
		r = vhost_call(vhost, VHOST_SET_VRING_ERR, &file);
	return r;
}

/* ---- its signals, on the loop ---- */

static void called(struct loop_watch *w)
{
	struct vhost_signal *s = container_of(w, struct vhost_signal, watch);
	struct vhost_rings *rings = s->owner;

	/* The kernel has looked whether the driver wants it. */
	virtio_raise_queue(rings->vl->dev, (unsigned)(s - rings->calls));
}

static void failed(struct loop_watch *w)
{
	struct vhost_rings *rings = container_of(w, struct vhost_signal, watch)->owner;

	rings->failed(rings->vl);
}

static void unwatched(struct loop_watch *w)
{
	virtio_loop_unhold(container_of(w, struct vhost_signal, watch)->owner->vl);
}

static void watch(struct vhost_signal *s, void (*fn)(struct loop_watch *w))
{
	struct virtio_loop *vl = s->owner->vl;

	s->watch = (struct loop_watch){.fn = fn, .stopped = unwatched};
	virtio_loop_hold(vl);
	loop_watch(vl->loop, &s->watch, s->fd);
}

void vhost_rings_start(struct vhost_rings *rings)
{
	for (unsigned i = 0; i < rings->n; i++)
		watch(&rings->calls[i], called);
	watch(&rings->error, failed);
}

void vhost_rings_stop(struct vhost_rings *rings)
{
	for (unsigned i = 0; i < rings->n; i++)
		loop_unwatch(&rings->calls[i].watch);
	loop_unwatch(&rings->error.watch);
	vhost_rings_unset(rings);
}

void vhost_rings_kick(const struct vhost_rings *rings, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		eventfd_write(rings->vl->dev->kick_fd[i], 1);
}

/* ---- life ---- */

static int make_signal(struct vhost_rings *rings, struct vhost_signal *s, struct err *err)
{
	s->owner = rings;
	s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return s->fd < 0 ? err_sys(err, errno, "%s: eventfd", rings->vl->dev->name) : 0;
}

int vhost_rings_init(struct vhost_rings *rings, struct virtio_loop *vl, unsigned n,
		     void (*failed_fn)(struct virtio_loop *vl), struct err *err)
{
	int r;

	*rings =
	    (struct vhost_rings){.vl = vl, .failed = failed_fn, .lock = PTHREAD_MUTEX_INITIALIZER};
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		rings->routes[i].irq_fd = -1;
	r = make_signal(rings, &rings->error, err);
	while (rings->n < n && !r) {
		r = make_signal(rings, &rings->calls[rings->n], err);
		rings->n += !r;
	}
	return r;
}

void vhost_rings_fini(struct vhost_rings *rings)
{
	if (!rings->vl)
		return;
	for (unsigned i = 0; i < rings->n; i++)
		cleanup_fd(&rings->calls[i].fd);
	cleanup_fd(&rings->error.fd);
	pthread_mutex_destroy(&rings->lock);
	*rings = (struct vhost_rings){0};
}
