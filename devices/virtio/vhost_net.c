/*
 * vhost-net. virtio 1.2 §5.1, linux/vhost.h. See vhost_net.h.
 *
 * Invariants
 *  1. Kernel threads touch a pair's rings only while `served`; leave() returns when they do not any
 *     more. A ring's base is set only while it is not served.
 *  2. `served` follows `on`, `paused` and the link, in pair_apply_locked() alone. Link: the status
 *     bit, which is down for good when the tap is gone.
 *
 * Threads: `lock` (below all others) for what kernel threads are told of pairs: the loop's thread
 * turns them on and off, virtio_net_set_link() comes from any.
 */
#include "devices/virtio/vhost_net.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "devices/virtio/link_news.h"
#include "devices/virtio/net_priv.h"

#include <errno.h>
#include <linux/vhost.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define PAIR_RINGS 2 /* receive and transmit */

struct served_pair {
	struct vhost vhost;
	bool on;	/* by the driver */
	bool served;	/* it has a backend */
	bool base_kept; /* `base` is where the kernel stopped */
	uint16_t base[PAIR_RINGS];
};

struct vhost_net_dev {
	struct net net;
	const struct gmem *mem;
	struct vhost_rings rings;

	pthread_mutex_t lock;
	bool paused;
	struct served_pair pairs[VIRTIO_NET_PAIRS_MAX];

	/* the loop's thread */
	struct loop_msg resume;
	void (*quiet)(void *ctx);
	void *quiet_ctx;
	struct link_news news;
};

static struct vhost_net_dev *vhost_net_of(struct net *net)
{
	return container_of(net, struct vhost_net_dev, net);
}

static struct vhost_net_dev *of_loop(struct virtio_loop *vl)
{
	return vhost_net_of(container_of(vl, struct net, vl));
}

/* ---- opening ---- */

int vhost_net_open(const char *path, unsigned pairs, vhost_ioctl *ioctl_fn,
		   struct vhost_net *ret_vhost, struct err *err)
{
	static const struct vhost_names names = {
	    .device = "network",
	    .module = "vhost_net",
	    .instead = "backend=builtin",
	};
	struct vhost_net v = VHOST_NET_INIT;
	int r = 0;

	if (!pairs || pairs > VIRTIO_NET_PAIRS_MAX)
		return err_set(err, EINVAL, "network: %u queue pairs; 1 to %d are possible", pairs,
			       VIRTIO_NET_PAIRS_MAX);
	while (v.n < pairs && !r) {
		r = vhost_open(path, &names, ioctl_fn, &v.pairs[v.n], err);
		v.n += !r;
	}
	if (r) {
		vhost_net_close(&v);
		return r;
	}
	*ret_vhost = v;
	return 0;
}

void vhost_net_close(struct vhost_net *vhost)
{
	while (vhost->n)
		vhost_close(&vhost->pairs[--vhost->n]);
}

/* ---- pairs ---- */

static int set_backend(const struct vhost *vhost, unsigned ring, int fd)
{
	struct vhost_vring_file file = {.index = ring, .fd = fd};

	return vhost_call(vhost, VHOST_NET_SET_BACKEND, &file);
}

/*
 * The kernel's threads are done with the pair when this returns. Should it not let go, its
 * descriptor is closed, which makes it: the pair works no more, guest memory stays safe.
 */
static void leave_locked(struct vhost_net_dev *d, unsigned index)
{
	struct served_pair *p = &d->pairs[index];
	int r = 0;

	for (unsigned i = 0; i < PAIR_RINGS; i++) {
		const int res = set_backend(&p->vhost, i, VHOST_FILE_UNBIND);

		r = r ? r : res;
	}
	p->served = false;
	if (!r)
		return;
	log_error("network: vhost of tap %s does not stop: %s; queue pair %u works no more",
		  d->net.tap.name, strerrordesc_np(-r), index);
	vhost_close(&p->vhost);
}

static int serve_locked(struct vhost_net_dev *d, unsigned index)
{
	struct served_pair *p = &d->pairs[index];
	int r = 0;

	for (unsigned i = 0; i < PAIR_RINGS && p->base_kept && !r; i++)
		r = vhost_set_base(&p->vhost, i, p->base[i]);
	p->base_kept &= r != 0;
	for (unsigned i = 0; i < PAIR_RINGS && !r; i++)
		r = set_backend(&p->vhost, i, d->net.tap.fds[index]);
	if (r) {
		leave_locked(d, index);
		return r;
	}
	p->served = true;
	vhost_rings_kick(&d->rings, index * PAIR_RINGS, PAIR_RINGS);
	return 0;
}

static int pair_apply_locked(struct vhost_net_dev *d, unsigned index)
{
	struct served_pair *p = &d->pairs[index];
	const bool wanted = p->on && !d->paused && net_link(&d->net);

	if (wanted && !p->served)
		return serve_locked(d, index);
	if (!wanted && p->served)
		leave_locked(d, index);
	return 0;
}

/* All pairs; what cannot be served takes the guest's link down, with a line. */
static void apply(struct vhost_net_dev *d)
{
	int r = 0;

	AUTOLOCK(&d->lock);
	for (unsigned i = 0; i < net_pairs(&d->net) && !r; i++)
		r = pair_apply_locked(d, i);
	if (!r)
		return;
	net_refused(&d->net, r);
	for (unsigned i = 0; i < net_pairs(&d->net); i++)
		pair_apply_locked(d, i);
}

static int pair_on(struct net *net, unsigned pair)
{
	struct vhost_net_dev *d = vhost_net_of(net);
	/* before the backend: the kernel takes none that is detached */
	int r = tap_set_queue(&net->tap, pair, true);

	if (r)
		return r;
	AUTOLOCK(&d->lock);
	d->pairs[pair].on = true;
	r = pair_apply_locked(d, pair);
	if (r) {
		d->pairs[pair].on = false;
		tap_set_queue(&net->tap, pair, false);
	}
	return r;
}

static void pair_off(struct net *net, unsigned pair)
{
	struct vhost_net_dev *d = vhost_net_of(net);

	AUTOLOCK(&d->lock);
	d->pairs[pair].on = false;
	pair_apply_locked(d, pair);
	tap_set_queue(&net->tap, pair, false);
}

static void link_changed(struct net *net)
{
	apply(vhost_net_of(net));
}

static const struct net_path vhost_path = {
    .pair_on = pair_on,
    .pair_off = pair_off,
    .link = link_changed,
};

/* ---- the end of the tap ---- */

static bool tap_is_gone(const struct vhost_net_dev *d)
{
	/* one that is detached looks like one whose tap is gone; the first never is */
	struct pollfd p = {.fd = d->net.tap.fds[0]};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP));
}

static bool look_after_tap(struct vhost_net_dev *d)
{
	if (!tap_is_gone(d))
		return false;
	net_gone(&d->net);
	apply(d);
	return true;
}

static void news_came(struct link_news *news)
{
	look_after_tap(container_of(news, struct vhost_net_dev, news));
}

/* ---- on the loop ---- */

static void gave_up(struct virtio_loop *vl)
{
	if (!look_after_tap(of_loop(vl)))
		virtio_loop_break(vl);
}

static void starting(struct virtio_loop *vl)
{
	struct vhost_net_dev *d = of_loop(vl);

	vhost_rings_start(&d->rings);
	net_begin(&d->net);
	link_news_start(&d->news);
}

static void stopping(struct virtio_loop *vl)
{
	struct vhost_net_dev *d = of_loop(vl);

	net_set_pairs(&d->net, 0);
	vhost_rings_stop(&d->rings);
	link_news_stop(&d->news);
}

static void ready(struct virtio_loop_queue *q)
{
	struct net *net = container_of(q->vl, struct net, vl);

	if (q->index == net->ctrl_index)
		net_ctrl_ready(net);
}

static const struct virtio_loop_ops loop_ops = {
    .pulled = (1u << VIRTIO_QUEUES_MAX) - 1,
    .ready = ready,
    .starting = starting,
    .stopping = stopping,
};

/* The control queue is quiet: now the kernel's threads. */
static void quieten(void *ctx)
{
	struct vhost_net_dev *d = ctx;
	int r = 0;

	pthread_mutex_lock(&d->lock);
	d->paused = true;
	for (unsigned i = 0; i < net_pairs(&d->net); i++) {
		struct served_pair *p = &d->pairs[i];
		const bool served = p->served;

		pair_apply_locked(d, i);
		for (unsigned k = 0; k < PAIR_RINGS && served && !r; k++)
			r = vhost_get_base(&p->vhost, k, &p->base[k]);
		p->base_kept |= served && !r;
	}
	pthread_mutex_unlock(&d->lock);
	if (r)
		net_refused(&d->net, r);
	d->quiet(d->quiet_ctx);
}

static void resumed(struct loop_msg *m)
{
	struct vhost_net_dev *d = container_of(m, struct vhost_net_dev, resume);

	pthread_mutex_lock(&d->lock);
	d->paused = false;
	pthread_mutex_unlock(&d->lock);
	apply(d);
}

/* ---- the device ---- */

/* All but its backend. */
static int set_pair(struct vhost_net_dev *d, unsigned index, uint64_t features,
		    struct virtq *const *queues)
{
	struct served_pair *p = &d->pairs[index];
	const uint64_t ours = vhost_needs | NET_F_MRG_RXBUF;
	int r = vhost_set_features(&p->vhost, features & ours & p->vhost.features);

	p->base_kept = false;
	if (!r)
		r = vhost_set_memory(&p->vhost, d->mem);
	for (unsigned i = 0; i < PAIR_RINGS && !r; i++)
		r = vhost_rings_set(&d->rings, &p->vhost, i, queues[index * PAIR_RINGS + i]);
	return r;
}

static int activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	struct net *net = net_of(dev);
	struct vhost_net_dev *d = vhost_net_of(net);
	struct virtq *ours[VIRTIO_QUEUES_MAX] = {0};
	const unsigned n = features & NET_F_MQ ? net_pairs(net) : 1;
	int r = net_activated(net, features, queues);

	pthread_mutex_lock(&d->lock);
	d->paused = false; /* a reset ended the pause */
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < n && !r; i++) {
		/* one that lacks a queue cannot be turned on */
		if (queues[i * PAIR_RINGS] && queues[i * PAIR_RINGS + 1])
			r = set_pair(d, i, features, queues);
	}
	if (r) {
		vhost_rings_unset(&d->rings);
		net_deactivated(net);
		return r;
	}
	ours[net->ctrl_index] = queues[net->ctrl_index];
	virtio_loop_start(&net->vl, ours);
	return 0;
}

static void reset(struct virtio_dev *dev)
{
	virtio_loop_stop(&net_of(dev)->vl);
	net_deactivated(net_of(dev));
}

static void vhost_pause(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx)
{
	struct vhost_net_dev *d = vhost_net_of(net_of(dev));

	d->quiet = quiet;
	d->quiet_ctx = ctx;
	virtio_loop_pause(&d->net.vl, quieten, d);
}

static void vhost_resume(struct virtio_dev *dev)
{
	struct vhost_net_dev *d = vhost_net_of(net_of(dev));

	loop_post(d->net.vl.loop, &d->resume);
	virtio_loop_resume(&d->net.vl);
}

static void queue_irq(struct virtio_dev *dev, unsigned index, int irq_fd)
{
	vhost_rings_irq(&vhost_net_of(net_of(dev))->rings, index, irq_fd);
}

static void drop(struct virtio_dev *dev)
{
	struct net *net = net_of(dev);
	struct vhost_net_dev *d = vhost_net_of(net);

	for (unsigned i = 0; i < VIRTIO_NET_PAIRS_MAX; i++)
		vhost_close(&d->pairs[i].vhost);
	vhost_rings_fini(&d->rings);
	link_news_close(&d->news);
	net_fini(net);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static const struct virtio_dev_ops ops = {
    .config_read = net_config_read,
    .config_write = net_config_write,
    .activate = activate,
    .reset = reset,
    .pause = vhost_pause,
    .resume = vhost_resume,
    .queue_irq = queue_irq,
    .free = drop,
};

static int check(const struct tap *tap, const struct vhost_net *vhost, struct err *err)
{
	if (tap->socket)
		return err_set(err, EINVAL,
			       "network: vhost serves taps, not sockets; use backend=builtin");
	if (vhost->n != tap->queues)
		return err_set(err, EINVAL, "network: %u queue pairs of vhost for %u of tap %s",
			       vhost->n, tap->queues, tap->name);
	return 0;
}

static int init(struct vhost_net_dev *d, const struct virtio_net_config *config,
		const struct tap *tap, struct loop *loop, struct err *err)
{
	struct err why = ERR_INIT;
	int r = net_init(&d->net, config, tap, &ops, &loop_ops, &vhost_path, loop, err);

	if (!r)
		r = vhost_rings_init(&d->rings, &d->net.vl, PAIR_RINGS * tap->queues, gave_up, err);
	if (!r && link_news_open(&d->news, &d->net.vl, news_came, &why))
		log_warn("%s; the end of tap %s will not be noticed", why.msg, tap->name);
	return r;
}

int virtio_vhost_net_new(const struct virtio_net_config *config, struct tap *tap,
			 struct vhost_net *vhost, const struct platform *plat, struct loop *loop,
			 struct virtio_dev **ret_dev, struct err *err)
{
	struct vhost_net_dev *d;
	int r = check(tap, vhost, err);

	if (r)
		return r;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(err, ENOMEM, "network: out of memory");
	pthread_mutex_init(&d->lock, NULL);
	d->mem = plat->mem;
	d->news.fd = -1;
	d->resume.fn = resumed;
	for (unsigned i = 0; i < VIRTIO_NET_PAIRS_MAX; i++)
		d->pairs[i].vhost.fd = -1;
	r = init(d, config, tap, loop, err);
	if (r) {
		d->net.tap.queues = 0; /* the caller's */
		drop(&d->net.dev);
		return r;
	}
	for (unsigned i = 0; i < tap->queues; i++) {
		d->pairs[i].vhost = vhost->pairs[i];
		if (!(vhost->pairs[i].features & NET_F_MRG_RXBUF))
			d->net.dev.features &= ~NET_F_MRG_RXBUF;
		tap_set_queue(tap, i, false); /* until its pair goes on */
	}
	tap->queues = 0;
	vhost->n = 0;
	*ret_dev = &d->net.dev;
	return 0;
}
