/* A connection with ttrpc frames. See control/ttrpc/conn.h. */
#include "control/ttrpc/conn.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES (8 * 1024)
/* One that had to grow above this is given back when it is empty. */
#define OUT_KEPT (64 * 1024)

struct out {
	uint8_t *data;
	size_t len, cap;
};

/* Threads: the loop's. */
struct ttrpc_conn {
	struct loop *loop;
	const struct ttrpc_conn_ops *ops;
	void *ctx;
	int fd;
	int error; /* that `closed` will say, when `ended` */
	bool ended;
	bool told;   /* `closed` has been called */
	bool closed; /* by the owner: no more callbacks */
	bool reading, writing;
	bool held;
	struct loop_msg later;

	struct ttrpc_reader reader;
	struct loop_op read_op;
	uint8_t in[READ_BYTES];
	size_t in_at, in_len; /* what the reader has not seen, while the peer does not read */

	struct out queue; /* grows while `flight` is with the kernel */
	struct out flight;
	size_t flight_sent;
	struct loop_op write_op;
};

static void conn_go_on(struct ttrpc_conn *c);

static void conn_free(struct ttrpc_conn *c)
{
	ttrpc_reader_fini(&c->reader);
	free(c->queue.data);
	free(c->flight.data);
	close(c->fd);
	free(c);
}

/* The connection is over; the owner is told in a round of its own. */
static void conn_end(struct ttrpc_conn *c, int error)
{
	if (c->ended)
		return;
	c->ended = true;
	c->error = error;
	loop_defer(c->loop, &c->later);
}

/* ---- writing ------------------------------------------------------------------------------------
 */

static bool reads_on(const struct ttrpc_conn *c)
{
	return !c->ended && !c->closed && !c->held && ttrpc_conn_queued(c) < TTRPC_QUEUE_HIGH;
}

static void out_reset(struct out *o)
{
	o->len = 0;
	if (o->cap > OUT_KEPT) {
		free(o->data);
		*o = (struct out){0};
	}
}

static void conn_write(struct ttrpc_conn *c)
{
	if (c->writing || c->ended || c->closed)
		return;
	if (c->flight_sent == c->flight.len) {
		struct out empty = c->flight;

		out_reset(&empty);
		c->flight = c->queue;
		c->queue = empty;
		c->flight_sent = 0;
	}
	if (!c->flight.len)
		return;
	c->writing = true;
	loop_write(c->loop, &c->write_op, c->fd, c->flight.data + c->flight_sent,
		   c->flight.len - c->flight_sent);
}

static void write_done(struct loop_op *op, int res)
{
	struct ttrpc_conn *c = container_of(op, struct ttrpc_conn, write_op);

	c->writing = false;
	if (res < 0 && res != -EINTR)
		conn_end(c, res);
	else if (res > 0)
		c->flight_sent += (size_t)res;
	if (!c->closed && !c->ended) {
		conn_write(c);
		if (!c->writing)
			c->ops->drained(c->ctx);
	}
	conn_go_on(c);
}

static int out_reserve(struct out *o, size_t more)
{
	size_t cap = MAX(o->cap, (size_t)512);
	uint8_t *data;

	if (more <= o->cap - o->len)
		return 0;
	while (cap - o->len < more)
		cap *= 2;
	data = realloc(o->data, cap);
	if (!data)
		return -ENOMEM;
	o->data = data;
	o->cap = cap;
	return 0;
}

int ttrpc_conn_send(struct ttrpc_conn *c, const struct ttrpc_header *header, const void *data)
{
	struct ttrpc_wire_header wire = ttrpc_header_put(header);
	size_t size = sizeof(wire) + header->len_bytes;
	int res = 0;

	if (c->ended || c->closed)
		return -EPIPE;
	if (ttrpc_conn_queued(c) + size > TTRPC_QUEUE_MAX)
		res = -ENOBUFS;
	else
		res = out_reserve(&c->queue, size);
	if (res) {
		conn_end(c, res);
		return res;
	}
	memcpy(c->queue.data + c->queue.len, &wire, sizeof(wire));
	if (header->len_bytes)
		memcpy(c->queue.data + c->queue.len + sizeof(wire), data, header->len_bytes);
	c->queue.len += size;
	/* what one round has to say goes out together */
	loop_defer(c->loop, &c->later);
	return 0;
}

void ttrpc_conn_hold(struct ttrpc_conn *c, bool hold)
{
	c->held = hold;
	if (!hold && !c->closed)
		loop_defer(c->loop, &c->later);
}

size_t ttrpc_conn_queued(const struct ttrpc_conn *c)
{
	return c->queue.len + c->flight.len - c->flight_sent;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

/* Hands on what has come, as long as the peer reads the answers. */
static void conn_parse(struct ttrpc_conn *c)
{
	while (c->in_at < c->in_len && reads_on(c)) {
		size_t used = 0;
		int event =
		    ttrpc_reader_feed(&c->reader, c->in + c->in_at, c->in_len - c->in_at, &used);

		c->in_at += used;
		if (event == TTRPC_FRAME)
			c->ops->frame(c->ctx, &c->reader.header, c->reader.data);
		else if (event == TTRPC_OVERSIZED)
			c->ops->oversized(c->ctx, &c->reader.header);
		else if (event < 0)
			conn_end(c, event);
	}
}

static void read_done(struct loop_op *op, int res)
{
	struct ttrpc_conn *c = container_of(op, struct ttrpc_conn, read_op);

	c->reading = false;
	if (res > 0) {
		c->in_at = 0;
		c->in_len = (size_t)res;
		conn_parse(c);
	} else if (res != -EINTR) {
		conn_end(c, res);
	}
	conn_go_on(c);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

/* What is to be done next, whatever came: the only place that reads on, and that frees. */
static void conn_go_on(struct ttrpc_conn *c)
{
	if (c->ended && !c->told && !c->closed) {
		c->told = true;
		c->ops->closed(c->ctx, c->error);
	}
	if (c->closed) {
		if (!c->reading && !c->writing && !c->later.queued)
			conn_free(c);
		return;
	}
	conn_parse(c);
	conn_write(c);
	if (!c->reading && reads_on(c) && c->in_at == c->in_len) {
		c->reading = true;
		loop_read(c->loop, &c->read_op, c->fd, c->in, sizeof(c->in));
	}
	/* what conn_parse() ended is told in a round of its own: `later` is queued then */
}

static void conn_later(struct loop_msg *m)
{
	conn_go_on(container_of(m, struct ttrpc_conn, later));
}

int ttrpc_conn_new(struct loop *loop, int fd, const struct ttrpc_conn_ops *ops, void *ctx,
		   struct ttrpc_conn **ret_conn)
{
	struct ttrpc_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->loop = loop;
	c->fd = fd;
	c->ops = ops;
	c->ctx = ctx;
	c->read_op.done = read_done;
	c->write_op.done = write_done;
	c->later.fn = conn_later;
	loop_defer(loop, &c->later);
	*ret_conn = c;
	return 0;
}

void ttrpc_conn_close(struct ttrpc_conn *c)
{
	if (!c || c->closed)
		return;
	c->closed = true;
	/* ends what is in flight whatever the backend does with a cancellation */
	shutdown(c->fd, SHUT_RDWR);
	if (c->reading)
		loop_cancel(c->loop, &c->read_op);
	if (c->writing)
		loop_cancel(c->loop, &c->write_op);
	loop_defer(c->loop, &c->later);
}
