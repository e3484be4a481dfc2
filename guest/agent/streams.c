/* A process's streams: bytes to it and from it. See guest/agent/process.h. */
#include "guest/agent/process_priv.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CTRL_D 4

#define IN_RING_BYTES ((size_t)WINDOW_BYTES)

/* More than the kernel keeps of a terminal's output. */
#define TERMINAL_LEFT_BYTES (64 * 1024)

/* ---- output -------------------------------------------------------------------------------------
 */

static void out_close(struct process_out *o)
{
	close(o->fd);
	o->fd = -1;
	o->held = false;
}

static void out_poll(struct process_out *o)
{
	o->polling = true;
	loop_poll(o->process->agent->loop, &o->op, o->fd, POLLIN);
}

/* Delivers one piece; the rest has its turn when others had theirs. */
static void out_pump(struct process_out *o)
{
	struct process *p = o->process;
	ssize_t n;

	if (!p->ops || !o->left_bytes) {
		out_close(o);
		return;
	}
	if (!p->ops->room(p->ctx)) {
		o->held = true;
		return;
	}
	o->held = false;
	n = read(o->fd, p->agent->chunk, MIN(sizeof(p->agent->chunk), o->left_bytes));
	if (n > 0) {
		if (o->left_bytes != SIZE_MAX)
			o->left_bytes -= (size_t)n;
		p->ops->output(p->ctx, o->which, p->agent->chunk, (size_t)n);
		if (o->fd >= 0)
			out_poll(o);
	} else if (n < 0 && (errno == EAGAIN || errno == EINTR) && o->left_bytes == SIZE_MAX) {
		out_poll(o);
	} else { /* a terminal without a process gives EIO */
		out_close(o);
	}
}

static void out_ready(struct loop_op *op, int res)
{
	struct process_out *o = container_of(op, struct process_out, op);

	(void)res; /* reading tells; cancelled: the process has exited */
	o->polling = false;
	out_pump(o);
	process_check(o->process);
}

/* ---- input --------------------------------------------------------------------------------------
 */

static void in_close(struct process_in *in)
{
	close(in->fd);
	in->fd = -1;
	in->count = 0;
}

static void in_write(struct process *p)
{
	struct process_in *in = &p->in;

	if (in->writing || in->fd < 0)
		return;
	if (in->count) {
		in->writing = true;
		loop_write(p->agent->loop, &in->op, in->fd, in->ring + in->head,
			   MIN(in->count, IN_RING_BYTES - in->head));
		return;
	}
	in->head = 0;
	if (in->end)
		in_close(in);
}

static void in_written(struct loop_op *op, int res)
{
	struct process *p = container_of(op, struct process, in.op);
	struct process_in *in = &p->in;
	size_t n = res > 0 ? (size_t)res : 0;

	in->writing = false;
	if (!p->ops || p->exited || (res < 0 && res != -EINTR && res != -EAGAIN)) {
		n = in->count; /* it does not want more: dropped */
		in_close(in);
	} else {
		in->head = (in->head + n) % IN_RING_BYTES;
		in->count -= n;
		in_write(p);
	}
	if (n && p->ops && p->ops->taken)
		p->ops->taken(p->ctx, n);
	process_check(p);
}

/* There is room, and the ring. */
static void in_put(struct process_in *in, const uint8_t *data, size_t len)
{
	while (len) {
		size_t at = (in->head + in->count) % IN_RING_BYTES;
		size_t n = MIN(len, IN_RING_BYTES - at);

		memcpy(in->ring + at, data, n);
		in->count += n;
		data += n;
		len -= n;
	}
}

int process_write(struct process *p, const void *data, size_t len)
{
	struct process_in *in = &p->in;

	if (in->end && !p->exited)
		return -EPIPE;
	if (in->fd < 0) {
		if (p->ops && p->ops->taken && len)
			p->ops->taken(p->ctx, len);
		return 0;
	}
	if (in->count + len > WINDOW_BYTES)
		return -ENOBUFS;
	if (!in->ring)
		in->ring = malloc(IN_RING_BYTES);
	if (!in->ring)
		return -ENOMEM;
	in_put(in, data, len);
	in_write(p);
	return 0;
}

void process_write_end(struct process *p)
{
	struct process_in *in = &p->in;
	static const uint8_t eof = CTRL_D;

	if (in->end || in->fd < 0)
		return;
	if (p->terminal_fd >= 0) {
		(void)process_write(p, &eof, 1); /* its descriptor is the terminal itself */
		return;
	}
	in->end = true;
	in_write(p);
}

/* ---- what a child says of itself ----------------------------------------------------------------
 */

static void status_read(struct process *p)
{
	struct process_status *s = &p->status;

	s->reading = true;
	loop_read(p->agent->loop, &s->op, s->fd, (char *)&s->err + s->have_bytes,
		  sizeof(s->err) - s->have_bytes);
}

static void status_done(struct loop_op *op, int res)
{
	struct process *p = container_of(op, struct process, status.op);
	struct process_status *s = &p->status;

	s->reading = false;
	if (res > 0)
		s->have_bytes += (size_t)res;
	if (res > 0 && s->have_bytes < sizeof(s->err)) {
		status_read(p);
		return;
	}
	close(s->fd);
	s->fd = -1;
	if (s->have_bytes < sizeof(s->err)) {
		s->err.code = 0;
		p->started = true;
		if (p->ops && p->ops->started)
			p->ops->started(p->ctx);
	}
	process_check(p);
}

/* ---- all of them --------------------------------------------------------------------------------
 */

void streams_init(struct process *p)
{
	p->terminal_fd = p->in.fd = p->status.fd = -1;
	p->in.op.done = in_written;
	p->status.op.done = status_done;
	for (int i = 0; i < PROCESS_OUTS; i++)
		p->out[i] = (struct process_out){.fd = -1,
						 .which = i,
						 .left_bytes = SIZE_MAX,
						 .process = p,
						 .op.done = out_ready};
}

void streams_begin(struct process *p)
{
	status_read(p);
	for (int i = 0; i < PROCESS_OUTS; i++)
		if (p->out[i].fd >= 0)
			out_poll(&p->out[i]);
}

/* Stops what is in flight, whose callback goes on from there. */
static void in_stop(struct process *p)
{
	if (p->in.writing)
		loop_cancel(p->agent->loop, &p->in.op);
	else if (p->in.fd >= 0)
		in_close(&p->in);
}

/* What is to be delivered still: others may hold the stream open, and write for ever. */
static size_t left_over(const struct process *p, const struct process_out *o)
{
	int n = 0;

	if (p->terminal_fd >= 0)
		return p->linger_over ? MIN(o->left_bytes, (size_t)TERMINAL_LEFT_BYTES)
				      : o->left_bytes;
	(void)ioctl(o->fd, FIONREAD, &n);
	return (size_t)n;
}

void streams_exited(struct process *p)
{
	p->in.end = true;
	in_stop(p);
	for (int i = 0; i < PROCESS_OUTS; i++) {
		struct process_out *o = &p->out[i];

		if (o->fd < 0)
			continue;
		o->left_bytes = left_over(p, o);
		if (o->polling)
			loop_cancel(p->agent->loop, &o->op);
	}
}

void streams_drop(struct process *p)
{
	in_stop(p);
	for (int i = 0; i < PROCESS_OUTS; i++) {
		struct process_out *o = &p->out[i];

		if (o->fd >= 0 && o->polling)
			loop_cancel(p->agent->loop, &o->op);
		else if (o->fd >= 0)
			out_close(o);
	}
}

void process_go_on(struct process *p)
{
	for (int i = 0; i < PROCESS_OUTS; i++)
		if (p->out[i].fd >= 0 && p->out[i].held)
			out_pump(&p->out[i]);
	process_check(p);
}
