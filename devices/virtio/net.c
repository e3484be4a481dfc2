/* virtio-net: features, configuration space, life. virtio 1.2 §5.1. See net_priv.h. */
#include "devices/virtio/net.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "devices/virtio/net_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* ---- features ---- */

static uint64_t net_features(const struct tap *tap, unsigned mtu)
{
	uint64_t f = NET_F_MAC | NET_F_MRG_RXBUF | NET_F_STATUS | NET_F_CTRL_VQ |
		     NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR;

	if (mtu)
		f |= NET_F_MTU;
	if (tap->queues > 1)
		f |= NET_F_MQ;
	/* a socket's other end may know nothing of offloads */
	if (tap->socket)
		return f;
	f |= NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN |
	     NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN | NET_F_CTRL_GUEST_OFFLOADS |
	     NET_F_CTRL_RX | NET_F_CTRL_RX_EXTRA;
	if (tap->uso)
		f |= NET_F_GUEST_USO4 | NET_F_GUEST_USO6 | NET_F_HOST_USO;
	return f;
}

/* ---- configuration space ---- */

void net_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	const struct net *net = net_of(dev);
	const struct le64 mac = le64_put(atomic_load(&net->mac));
	struct net_config_wire c = {
	    .status = le16_put(atomic_load(&net->status)),
	    .max_virtqueue_pairs = le16_put((uint16_t)net_pairs(net)),
	    .mtu = le16_put((uint16_t)net->mtu),
	};

	memcpy(c.mac, mac.b, sizeof(c.mac));
	memset(buf, 0, len);
	if (offset < sizeof(c))
		memcpy(buf, (const uint8_t *)&c + offset, MIN(len, sizeof(c) - offset));
}

/* §5.1.4.2: the address is set by the control queue. */
void net_config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	(void)dev;
	(void)offset;
	(void)buf;
	(void)len;
}

bool net_status(struct net *net, uint16_t clear, uint16_t set)
{
	uint16_t old = atomic_load(&net->status), now;

	do
		now = (uint16_t)((old & ~clear) | set);
	while (!atomic_compare_exchange_weak(&net->status, &old, now));
	return now != old;
}

void net_gone(struct net *net)
{
	if (atomic_exchange(&net->gone, true))
		return;
	if (net->tap.socket)
		log_warn("network: the other end of the socket is gone; the guest's link is down");
	else
		log_warn("network: tap %s is gone; the guest's link is down", net->tap.name);
	if (net_status(net, NET_S_LINK_UP, 0))
		virtio_raise_config(&net->dev);
}

void net_refused(struct net *net, int code)
{
	static struct log_limit limit;

	log_limited(&limit, LOG_LEVEL_WARN,
		    "network: tap %s cannot be used: %s; the guest's link is down until its driver "
		    "starts again",
		    net->tap.name, strerrordesc_np(-code));
	atomic_store(&net->refused, true);
	if (net_status(net, NET_S_LINK_UP, 0))
		virtio_raise_config(&net->dev);
}

void virtio_net_set_link(struct virtio_dev *dev, bool up)
{
	struct net *net = net_of(dev);

	atomic_store(&net->unplugged, !up);
	if (up && (atomic_load(&net->gone) || atomic_load(&net->refused)))
		return;
	if (!net_status(net, up ? 0 : NET_S_LINK_UP, up ? NET_S_LINK_UP : 0))
		return;
	if (up && atomic_load(&net->gone)) /* meanwhile; the loop's thread may have told already */
		net_status(net, NET_S_LINK_UP, 0);
	if (net->path->link)
		net->path->link(net);
	virtio_raise_config(dev);
}

void virtio_net_announce(struct virtio_dev *dev)
{
	struct net *net = net_of(dev);

	/* whose link is down is asked when it goes up */
	if (net_has(net, NET_F_GUEST_ANNOUNCE) && net_link(net) &&
	    net_status(net, 0, NET_S_ANNOUNCE))
		virtio_raise_config(dev);
}

/* ---- another stream ---- */

void net_reconnect_step(struct net *net)
{
	struct virtio_net_reconnect *r = net->reconnect;
	struct net_pair *p = net->pairs;

	if (!r || p->rx.polling || p->tx.polling)
		return;
	net->reconnect = NULL;
	cleanup_fd(&net->tap.fds[0]);
	net->tap.fds[0] = r->fd;
	net_port_init(&p->port, &net->tap, 0);
	atomic_store(&net->gone, false);
	log_warn("network: another end of the socket is there; the guest's link is %s",
		 atomic_load(&net->unplugged) ? "down, as was asked for" : "up");
	if (!atomic_load(&net->unplugged) && net_status(net, 0, NET_S_LINK_UP))
		virtio_raise_config(&net->dev);
	virtio_net_announce(&net->dev);
	virtio_loop_job_end(&r->job);
	r->done(r);
}

static void reconnect_run(struct virtio_loop_job *job)
{
	struct virtio_net_reconnect *r = container_of(job, struct virtio_net_reconnect, job);
	struct net *net = net_of(r->dev);

	net->reconnect = r;
	/* what still waits for the former */
	loop_cancel(net->vl.loop, &net->pairs[0].rx.op);
	loop_cancel(net->vl.loop, &net->pairs[0].tx.op);
	net_reconnect_step(net);
}

void virtio_net_reconnect(struct virtio_dev *dev, struct virtio_net_reconnect *r, int fd)
{
	struct net *net = net_of(dev);

	fcntl(fd, F_SETFL, O_NONBLOCK);
	r->dev = dev;
	r->fd = fd;
	r->job = (struct virtio_loop_job){.run = reconnect_run};
	virtio_loop_alone(&net->vl, &r->job);
}

void virtio_net_stats(struct virtio_dev *dev, struct virtio_net_stats *ret_stats)
{
	const struct net *net = net_of(dev);
	struct virtio_net_stats s = {.link_up = net_link(net)};

	for (unsigned i = 0; net->pairs && i < net_pairs(net); i++) {
		const struct net_pair *p = &net->pairs[i];

		s.rx_packets += atomic_load_explicit(&p->rx_count.packets, memory_order_relaxed);
		s.rx_bytes += atomic_load_explicit(&p->rx_count.bytes, memory_order_relaxed);
		s.rx_dropped += atomic_load_explicit(&p->rx_count.dropped, memory_order_relaxed);
		s.tx_packets += atomic_load_explicit(&p->tx_count.packets, memory_order_relaxed);
		s.tx_bytes += atomic_load_explicit(&p->tx_count.bytes, memory_order_relaxed);
		s.tx_dropped += atomic_load_explicit(&p->tx_count.dropped, memory_order_relaxed);
		s.tx_spoofed += atomic_load_explicit(&p->tx_spoofed, memory_order_relaxed);
	}
	*ret_stats = s;
}

/* ---- what both backends' devices have ---- */

int net_activated(struct net *net, uint64_t features, struct virtq *const *queues)
{
	if (!queues[0] || !queues[1])
		return -EINVAL;
	for (unsigned i = 0; i < net->dev.nqueues; i++)
		net->queue_given[i] = queues[i];
	/* §5.1.2: behind the pairs that are negotiated */
	net->ctrl_index = features & NET_F_MQ ? 2 * net_pairs(net) : 2;
	if (!(features & NET_F_CTRL_VQ))
		net->ctrl_index = 0;
	atomic_store(&net->features, features);
	return 0;
}

void net_deactivated(struct net *net)
{
	atomic_store(&net->features, 0);
	atomic_store(&net->mac, net->config_mac);
	net_status(net, NET_S_ANNOUNCE, 0);
	/* the next driver is given another try */
	if (atomic_exchange(&net->refused, false) && !atomic_load(&net->unplugged) &&
	    !atomic_load(&net->gone))
		net_status(net, 0, NET_S_LINK_UP);
}

void net_begin(struct net *net)
{
	int r;

	net_ctrl_start(net);
	r = net_set_pairs(net, 1);
	if (r && !atomic_load(&net->gone))
		net_refused(net, r);
}

static int check_config(const struct virtio_net_config *config, const struct tap *tap,
			struct err *err)
{
	static const uint8_t none[6];
	const unsigned size = config->queue_size, mtu = config->mtu;

	if (!tap->queues || tap->queues > VIRTIO_NET_PAIRS_MAX)
		return err_set(err, EINVAL, "network: %u queue pairs; 1 to %d are possible",
			       tap->queues, VIRTIO_NET_PAIRS_MAX);
	if (size && (!is_pow2(size) || size > VIRTQ_SIZE_MAX))
		return err_set(err, EINVAL, "network: queue size %u; use a power of two up to %d",
			       size, VIRTQ_SIZE_MAX);
	if (mtu && (mtu < VIRTIO_NET_MTU_MIN || mtu > VIRTIO_NET_MTU_MAX))
		return err_set(err, EINVAL, "network: MTU %u; use a number from %d to %d", mtu,
			       VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX);
	if (config->nipv6 > VIRTIO_NET_IPV6_MAX)
		return err_set(err, EINVAL, "network: more than %d IPv6 addresses",
			       VIRTIO_NET_IPV6_MAX);
	if ((config->mac[0] & 1) || !memcmp(config->mac, none, 6))
		return err_set(err, EINVAL,
			       "network: the MAC address is no address of one interface; its first "
			       "byte is to be even");
	return 0;
}

int net_init(struct net *net, const struct virtio_net_config *config, const struct tap *tap,
	     const struct virtio_dev_ops *ops, const struct virtio_loop_ops *loop_ops,
	     const struct net_path *path, struct loop *loop, struct err *err)
{
	struct le64 mac = {0};
	int r = check_config(config, tap, err);

	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		net->dev.kick_fd[i] = -1;
	if (r)
		return r;
	memcpy(mac.b, config->mac, sizeof(config->mac));
	net->dev.ops = ops;
	net->dev.name = "virtio-net";
	net->dev.id = VIRTIO_ID_NET;
	net->dev.nqueues = 2 * tap->queues + 1;
	net->dev.queue_size_max = config->queue_size ? config->queue_size : NET_QUEUE_SIZE;
	net->dev.config_len = sizeof(struct net_config_wire);
	net->dev.features = net_features(tap, config->mtu);
	net->path = path;
	net->tap = *tap;
	net->mtu = config->mtu;
	net->may_spoof = config->may_spoof;
	net_own_init(&net->own, config);
	net_limit_init(&net->rx_limit, config->rx_bytes_per_s, config->rx_packets_per_s);
	net_limit_init(&net->tx_limit, config->tx_bytes_per_s, config->tx_packets_per_s);
	net->config_mac = le64_get(mac);
	net->mac = net->config_mac;
	net->status = NET_S_LINK_UP;
	virtio_loop_init(&net->vl, loop_ops, &net->dev, loop);
	return virtio_dev_init(&net->dev, err);
}

void net_fini(struct net *net)
{
	tap_close(&net->tap);
	virtio_loop_fini(&net->vl);
	virtio_dev_fini(&net->dev);
}

/* ---- the built-in path ---- */

static int pair_on(struct net *net, unsigned pair)
{
	struct net_pair *p = &net->pairs[pair];
	int r = tap_set_queue(&net->tap, pair, true);

	if (r)
		return r;
	p->on = true;
	net_rx_pump(p);
	net_tx_pump(p);
	return 0;
}

static void pair_off(struct net *net, unsigned pair)
{
	struct net_pair *p = &net->pairs[pair];

	p->on = false;
	net_rx_off(p);
	net_tx_off(p);
	tap_set_queue(&net->tap, pair, false);
}

static void ready(struct virtio_loop_queue *q)
{
	struct net *net = container_of(q->vl, struct net, vl);
	struct net_pair *p = &net->pairs[MIN(q->index / 2, net_pairs(net) - 1)];

	if (net->ctrl_index && q->index == net->ctrl_index)
		net_ctrl_ready(net);
	else if (q->index >= 2 * net_pairs(net) || !p->on)
		return;
	else if (q->index & 1)
		net_tx_pump(p);
	else
		net_rx_pump(p);
}

static void starting(struct virtio_loop *vl)
{
	net_begin(container_of(vl, struct net, vl));
}

static void stopping(struct virtio_loop *vl)
{
	struct net *net = container_of(vl, struct net, vl);

	for (unsigned i = 0; i < net_pairs(net); i++) {
		net_rx_stop(&net->pairs[i]);
		net_tx_stop(&net->pairs[i]);
	}
	net_set_pairs(net, 0);
}

static const struct virtio_loop_ops loop_ops = {
    .pulled = (1u << VIRTIO_QUEUES_MAX) - 1,
    .ready = ready,
    .starting = starting,
    .stopping = stopping,
};

static const struct net_path builtin_path = {
    .pair_on = pair_on,
    .pair_off = pair_off,
};

static int activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	struct net *net = net_of(dev);
	int r = net_activated(net, features, queues);

	if (!r)
		virtio_loop_start(&net->vl, queues);
	return r;
}

static void reset(struct virtio_dev *dev)
{
	virtio_loop_stop(&net_of(dev)->vl);
	net_deactivated(net_of(dev));
}

/* What comes meanwhile waits in the tap. */
static void net_pause(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx)
{
	virtio_loop_pause(&net_of(dev)->vl, quiet, ctx);
}

static void net_resume(struct virtio_dev *dev)
{
	virtio_loop_resume(&net_of(dev)->vl);
}

static void net_free(struct virtio_dev *dev)
{
	struct net *net = net_of(dev);

	net_fini(net);
	free(net->pairs);
	free(net);
}

static const struct virtio_dev_ops net_ops = {
    .config_read = net_config_read,
    .config_write = net_config_write,
    .activate = activate,
    .reset = reset,
    .pause = net_pause,
    .resume = net_resume,
    .free = net_free,
};

int virtio_net_new(const struct virtio_net_config *config, struct tap *tap, struct loop *loop,
		   struct virtio_dev **ret_dev, struct err *err)
{
	struct net *net = calloc(1, sizeof(*net));
	/* large enough to be mappings: what is never used costs nothing */
	struct net_pair *pairs = calloc(tap->queues, sizeof(*pairs));
	int r;

	if (!net || !pairs) {
		free(net);
		free(pairs);
		return err_set(err, ENOMEM, "network: out of memory");
	}
	for (unsigned i = 0; i < tap->queues; i++) {
		pairs[i].net = net;
		pairs[i].index = i;
		net_port_init(&pairs[i].port, tap, i);
		tap_set_queue(tap, i, false); /* until its pair goes on */
	}
	net->pairs = pairs;
	r = net_init(net, config, tap, &net_ops, &loop_ops, &builtin_path, loop, err);
	if (r) {
		net->tap.queues = 0; /* the caller's */
		net_free(&net->dev);
		return r;
	}
	tap->queues = 0;
	*ret_dev = &net->dev;
	return 0;
}
