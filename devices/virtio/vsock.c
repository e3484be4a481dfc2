/* virtio-vsock: the device's life, and packets from the guest. virtio 1.2 §5.10. */
#include "devices/virtio/vsock.h"

#include "base/cleanup.h"
#include "devices/virtio/vsock_priv.h"

#include <errno.h>
#include <string.h>

static struct vsock *vsock_of(struct virtio_dev *dev)
{
	return container_of(dev, struct vsock, dev);
}

/* ---- packets from the guest ---- */

/* Splits a chain into the header, copied once, and the data. False: it is no packet. */
static bool packet_read(const struct virtq_chain *chain, struct vsock_packet *p, struct iovec *data,
			unsigned *ret_ndata)
{
	struct vsock_hdr hdr;
	uint8_t *dst = (uint8_t *)&hdr;
	size_t head = sizeof(hdr), left;
	unsigned n = 0;

	if (chain->nwrite || chain->read_bytes < sizeof(hdr))
		return false;
	left = chain->read_bytes - sizeof(hdr);
	for (unsigned i = 0; i < chain->nread; i++) {
		uint8_t *base = chain->iov[i].iov_base;
		size_t len = chain->iov[i].iov_len;
		const size_t part = MIN(head, len);

		memcpy(dst, base, part);
		dst += part;
		head -= part;
		if (len > part)
			data[n++] = (struct iovec){.iov_base = base + part, .iov_len = len - part};
	}
	*p = (struct vsock_packet){
	    .src_cid = le64_get(hdr.src_cid),
	    .dst_cid = le64_get(hdr.dst_cid),
	    .src_port = le32_get(hdr.src_port),
	    .dst_port = le32_get(hdr.dst_port),
	    .len = le32_get(hdr.len),
	    .flags = le32_get(hdr.flags),
	    .buf_alloc = le32_get(hdr.buf_alloc),
	    .fwd_cnt = le32_get(hdr.fwd_cnt),
	    .type = le16_get(hdr.type),
	    .op = le16_get(hdr.op),
	};
	*ret_ndata = n;
	if (p->len > left)
		p->op = VSOCK_OP_INVALID; /* data that is not there */
	return true;
}

/* Cuts the data to what the header says. */
static unsigned trim(struct iovec *iov, unsigned n, size_t len)
{
	unsigned used = 0;

	for (; used < n && len; used++) {
		iov[used].iov_len = MIN(iov[used].iov_len, len);
		len -= iov[used].iov_len;
	}
	return used;
}

static int packet(struct vsock *vs, const struct virtq_chain *chain)
{
	struct iovec data[VIRTQ_SEGS_MAX];
	struct vsock_packet p;
	struct vsock_conn *c;
	unsigned n;

	if (!packet_read(chain, &p, data, &n))
		return -EPROTO;
	/* Not its own: there is nobody to answer to. */
	if (p.src_cid != vs->cid)
		return 0;
	if (p.dst_cid != VSOCK_CID_HOST || p.type != VSOCK_TYPE_STREAM) {
		vsock_rst(vs, &p);
		return 0;
	}
	c = vsock_conn_find(vs, p.src_port, p.dst_port);
	if (c)
		vsock_conn_packet(c, &p, data, trim(data, n, p.len));
	else if (p.op == VSOCK_OP_REQUEST)
		vsock_host_connect(vs, &p);
	else
		vsock_rst(vs, &p);
	return 0;
}

/* Takes packets, as many as a ring holds before others have their turn. */
static void tx_serve(struct vsock *vs)
{
	struct virtio_loop_queue *q = &vs->vl.queues[VSOCK_QUEUE_TX];
	struct virtq_chain chain = {.iov = vs->tx_iov, .max_iov = VIRTQ_SEGS_MAX};
	unsigned budget = VSOCK_QUEUE_SIZE;

	while (budget--) {
		/* §5.10.6.1: with no room for answers nothing is taken that may want one */
		if (vs->nrsts >= VSOCK_RSTS_FULL) {
			vs->tx_paused = true;
			return;
		}
		if (virtio_loop_pull(q, &chain) != 1)
			break;
		if (packet(vs, &chain)) {
			virtio_loop_forget(q);
			virtio_loop_break(&vs->vl);
			break;
		}
		virtio_loop_push(q, chain.head, 0);
	}
	if (vs->vl.broken)
		vsock_kick_pump(vs);
	else if (budget == UINT32_MAX)
		virtio_loop_again(q);
}

void vsock_tx_resume(struct vsock *vs)
{
	if (!vs->tx_paused)
		return;
	vs->tx_paused = false;
	virtio_loop_again(&vs->vl.queues[VSOCK_QUEUE_TX]);
}

/* ---- the loop ---- */

static void pump_fn(struct loop_msg *m)
{
	struct vsock *vs = container_of(m, struct vsock, pump);

	vs->pump_pending = false;
	if (!vs->vl.stopping)
		vsock_pump(vs);
	virtio_loop_unhold(&vs->vl);
}

void vsock_kick_pump(struct vsock *vs)
{
	if (vs->pump_pending)
		return;
	vs->pump_pending = true;
	virtio_loop_hold(&vs->vl);
	loop_defer(vs->vl.loop, &vs->pump);
}

static void vsock_ready(struct virtio_loop_queue *q)
{
	struct vsock *vs = container_of(q->vl, struct vsock, vl);

	switch (q->index) {
	case VSOCK_QUEUE_RX: /* the driver is there */
		vsock_host_accept(vs);
		vsock_kick_pump(vs);
		break;
	case VSOCK_QUEUE_TX:
		tx_serve(vs);
		break;
	default: /* events tell of migration only: none are sent */
		break;
	}
}

static void vsock_starting(struct virtio_loop *vl)
{
	vsock_own_start(container_of(vl, struct vsock, vl));
}

static void vsock_stopping(struct virtio_loop *vl)
{
	struct vsock *vs = container_of(vl, struct vsock, vl);

	vsock_own_stop(vs);
	vsock_wait_stop(vs);
	vsock_host_stop(vs);
	vsock_conn_close_all(vs);
	vsock_rx_drop(vs);
	vs->tx_paused = false;
}

static const struct virtio_loop_ops vsock_loop_ops = {
    .pulled = 1 << VSOCK_QUEUE_RX | 1 << VSOCK_QUEUE_TX | 1 << VSOCK_QUEUE_EVENT,
    .ready = vsock_ready,
    .starting = vsock_starting,
    .stopping = vsock_stopping,
};

/* ---- life ---- */

static void vsock_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	const struct vsock_config_wire c = {.guest_cid = le64_put(vsock_of(dev)->cid)};

	memset(buf, 0, len);
	if (offset < sizeof(c))
		memcpy(buf, (const uint8_t *)&c + offset, MIN(len, sizeof(c) - offset));
}

/* Nothing in it is the driver's to write. */
static void vsock_config_write(struct virtio_dev *dev, unsigned offset, const void *buf,
			       unsigned len)
{
	(void)dev;
	(void)offset;
	(void)buf;
	(void)len;
}

static int vsock_activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	(void)features;
	virtio_loop_start(&vsock_of(dev)->vl, queues);
	return 0;
}

static void vsock_reset(struct virtio_dev *dev)
{
	virtio_loop_stop(&vsock_of(dev)->vl);
}

/* Connections stay: only the guest's memory is left alone. */
static void vsock_pause(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx)
{
	virtio_loop_pause(&vsock_of(dev)->vl, quiet, ctx);
}

static void vsock_resume(struct virtio_dev *dev)
{
	virtio_loop_resume(&vsock_of(dev)->vl);
}

static void vsock_free(struct virtio_dev *dev)
{
	struct vsock *vs = vsock_of(dev);

	cleanup_fd(&vs->listen_fd);
	vsock_own_fini(&vs->own);
	cleanup_fd(&vs->wait_fd);
	virtio_loop_fini(&vs->vl);
	virtio_dev_fini(dev);
	free(vs->path);
	free(vs->conns);
	free(vs);
}

static const struct virtio_dev_ops vsock_ops = {
    .config_read = vsock_config_read,
    .config_write = vsock_config_write,
    .activate = vsock_activate,
    .reset = vsock_reset,
    .pause = vsock_pause,
    .resume = vsock_resume,
    .free = vsock_free,
};

static int check_config(const struct virtio_vsock_config *config, struct err *err)
{
	if (config->cid < VSOCK_CID_FIRST || config->cid > VSOCK_CID_MAX)
		return err_set(err, EINVAL, "vsock: cid %u; use a number from %d to %u",
			       config->cid, VSOCK_CID_FIRST, VSOCK_CID_MAX);
	if (config->conns > VSOCK_CONNS_MAX)
		return err_set(err, EINVAL, "vsock: %u connections; at most %d are possible",
			       config->conns, VSOCK_CONNS_MAX);
	if (config->path && strlen(config->path) > VSOCK_PATH_MAX)
		return err_set(err, ENAMETOOLONG,
			       "vsock: socket %s is longer than %d bytes, which leaves no room for "
			       "_PORT behind it",
			       config->path, VSOCK_PATH_MAX);
	return 0;
}

int virtio_vsock_new(const struct virtio_vsock_config *config, struct loop *loop,
		     struct virtio_dev **ret_dev, struct err *err)
{
	struct vsock *vs;
	int r = check_config(config, err);

	if (r < 0)
		return r;
	vs = calloc(1, sizeof(*vs));
	if (!vs)
		return err_set(err, ENOMEM, "vsock: out of memory");
	vs->dev.ops = &vsock_ops;
	vs->dev.name = "virtio-vsock";
	vs->dev.id = VIRTIO_ID_VSOCK;
	vs->dev.nqueues = VSOCK_QUEUES;
	vs->dev.queue_size_max = VSOCK_QUEUE_SIZE;
	vs->dev.config_len = sizeof(struct vsock_config_wire);
	vs->cid = config->cid;
	vs->listen_fd = vs->waiting_fd = -1;
	vs->nconns_max = config->conns ? config->conns : VSOCK_CONNS_MAX;
	vs->active_tail = &vs->active;
	vs->pump.fn = pump_fn;
	virtio_loop_init(&vs->vl, &vsock_loop_ops, &vs->dev, loop);
	r = virtio_dev_init(&vs->dev, err);
	vsock_own_init(&vs->own, config);
	if (r == 0 && vs->own.event_fd < 0)
		r = err_sys(err, errno, "vsock: eventfd");
	vsock_wait_init(vs);
	if (r == 0 && vs->wait_fd < 0)
		r = err_sys(err, errno, "vsock: epoll");
	if (r == 0) {
		/* large enough to be a mapping: slots that are never used cost nothing */
		vs->conns = calloc(vs->nconns_max, sizeof(*vs->conns));
		vs->path = config->path ? strdup(config->path) : NULL;
		if (!vs->conns || (config->path && !vs->path))
			r = err_set(err, ENOMEM, "vsock: out of memory");
	}
	if (r < 0) {
		vsock_free(&vs->dev);
		return r;
	}
	vs->listen_fd = config->listen_fd;
	*ret_dev = &vs->dev;
	return 0;
}

unsigned virtio_vsock_conns(struct virtio_dev *dev)
{
	return vsock_of(dev)->nconns;
}
