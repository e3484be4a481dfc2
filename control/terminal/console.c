#include "control/terminal/console.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Typed or read, not yet taken by the UART: a paste of any usual size. Unused, it takes no memory.
 */
#define PENDING_BYTES (1024 * 1024)
#define READ_BYTES    512
#define ASYNC_BYTES   4096
#define BACKGROUND_NS UINT64_C(500000000) /* how often a background process looks again */

enum out_kind {
	OUT_DIRECT, /* write(2) never blocks here */
	OUT_SOCKET,
	OUT_ASYNC,
};

struct console {
	struct loop *loop;
	struct console_callbacks callbacks;
	struct uart_sink sink;
	struct uart *uart; /* NULL before connect and after drain */
	bool closing;

	/* output */
	int out_fd;
	int out_own_fd; /* out_fd opened anew; -1: none */
	enum out_kind out_kind;
	bool out_busy; /* out_op is in flight */
	bool draining;
	uint64_t out_bytes;
	struct loop_op out_op;
	struct loop_timer drain_timer;
	size_t async_len, async_off;
	uint8_t async[ASYNC_BYTES];

	/* input */
	int in_fd;
	int in_own_fd; /* the terminal opened anew; -1: none */
	bool in_tty;
	bool in_open; /* not at its end */
	bool in_busy; /* in_op is in flight */
	bool suspended;
	struct escape escape;
	struct loop_op in_op;
	struct loop_timer background_timer;
	size_t pending_off, pending_len;
	uint8_t pending[PENDING_BYTES];
};

/* ---- output -----------------------------------------------------------------------------------
 */

static void out_wait(struct console *c);

/* The descriptor takes bytes again, or is gone: the UART tries, and sees. */
static void out_ready(struct console *c)
{
	if (c->draining)
		loop_stop(c->loop);
	else if (c->uart && !c->closing)
		uart_sink_ready(c->uart);
}

static void out_polled(struct loop_op *op, int res)
{
	struct console *c = container_of(op, struct console, out_op);

	(void)res;
	c->out_busy = false;
	out_ready(c);
}

static void out_written(struct loop_op *op, int res)
{
	struct console *c = container_of(op, struct console, out_op);

	c->out_busy = false;
	if (res == -EAGAIN || res == -EINTR) {
		if (!c->closing)
			out_wait(c);
		return;
	}
	if (res < 0) {
		/* the next write of the sink says why output ends */
		c->async_len = c->async_off = 0;
	} else {
		c->async_off += (size_t)res;
		c->out_bytes += (uint64_t)res;
		if (c->async_off < c->async_len && !c->closing) {
			out_wait(c);
			return;
		}
		c->async_len = c->async_off = 0;
	}
	out_ready(c);
}

/* Goes on when the descriptor takes bytes. */
static void out_wait(struct console *c)
{
	if (c->out_busy)
		return;
	c->out_busy = true;
	if (c->out_kind == OUT_ASYNC) {
		c->out_op.done = out_written;
		loop_write(c->loop, &c->out_op, c->out_fd, c->async + c->async_off,
			   c->async_len - c->async_off);
	} else {
		c->out_op.done = out_polled;
		loop_poll(c->loop, &c->out_op, c->out_own_fd >= 0 ? c->out_own_fd : c->out_fd,
			  POLLOUT);
	}
}

static long out_failed(int errnum)
{
	/* a reader that has gone (`| head`) wanted no more */
	if (errnum != EPIPE)
		log_warn("console output ends here: %s", strerror(errnum));
	return -errnum;
}

static long out_write(void *ctx, const void *buf, size_t len)
{
	struct console *c = ctx;
	int fd = c->out_own_fd >= 0 ? c->out_own_fd : c->out_fd;
	ssize_t n;

	if (c->out_busy)
		return -EAGAIN;
	if (c->out_kind == OUT_ASYNC) {
		c->async_len = MIN(len, sizeof(c->async));
		memcpy(c->async, buf, c->async_len);
		out_wait(c);
		return (long)c->async_len;
	}
	do {
		n = c->out_kind == OUT_SOCKET ? send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL)
					      : write(fd, buf, len);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN) {
		out_wait(c);
		return -EAGAIN;
	}
	if (n < 0)
		return out_failed(errno);
	c->out_bytes += (uint64_t)n;
	return n;
}

/* The same file with O_NONBLOCK of its own: set on `fd` itself a shell would get to feel it. */
static int open_anew(int fd, int mode)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static void out_open(struct console *c, int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	c->out_fd = fd;
	c->out_own_fd = -1;
	c->out_kind = OUT_DIRECT;
	if (flags < 0 || (flags & O_NONBLOCK) || fstat(fd, &st))
		return;
	if (S_ISSOCK(st.st_mode)) {
		c->out_kind = OUT_SOCKET;
	} else if (S_ISFIFO(st.st_mode) || isatty(fd)) {
		c->out_own_fd = open_anew(fd, O_WRONLY);
		if (c->out_own_fd < 0)
			c->out_kind = OUT_ASYNC;
	}
}

static void drain_stalled(struct loop_timer *t)
{
	loop_stop(container_of(t, struct console, drain_timer)->loop);
}

void console_drain(struct console *c, unsigned stall_ms)
{
	uint64_t moved = c->out_bytes;
	uint64_t deadline_ns = loop_now_ns() + stall_ms * UINT64_C(1000000);

	if (!c->uart)
		return;
	c->draining = true;
	c->drain_timer.fn = drain_stalled;
	for (;;) {
		if (!c->out_busy)
			uart_flush(c->uart);
		if (!c->out_busy)
			break;
		if (c->out_bytes != moved) {
			moved = c->out_bytes;
			deadline_ns = loop_now_ns() + stall_ms * UINT64_C(1000000);
		}
		if (loop_now_ns() >= deadline_ns)
			break;
		loop_timer_arm(c->loop, &c->drain_timer, deadline_ns);
		if (loop_run(c->loop))
			break;
		loop_timer_disarm(c->loop, &c->drain_timer);
	}
	loop_timer_disarm(c->loop, &c->drain_timer);
	c->uart = NULL;
}

/* ---- input ------------------------------------------------------------------------------------
 */

static void in_wait(struct console *c);

static void in_help(void)
{
	tty_say("lodge: Ctrl-A x ends the machine, p presses its power button, b sends a break, "
		"a sends Ctrl-A");
}

/* Hands pending bytes to the guest as far as it takes them. */
static void in_pump(struct console *c)
{
	size_t n;

	if (!c->uart || !c->pending_len)
		return;
	n = uart_feed(c->uart, c->pending + c->pending_off, c->pending_len);
	c->pending_off += n;
	c->pending_len -= n;
	if (!c->pending_len)
		c->pending_off = 0;
}

/* Only where that cannot block. */
static void in_bell(struct console *c)
{
	if (c->out_own_fd >= 0 && write(c->out_own_fd, "\a", 1) < 0)
		log_debug("the terminal takes no bell");
}

static void in_append(struct console *c, const uint8_t *buf, size_t len)
{
	if (c->pending_off + c->pending_len + len > PENDING_BYTES) {
		memmove(c->pending, c->pending + c->pending_off, c->pending_len);
		c->pending_off = 0;
	}
	if (c->pending_len + len > PENDING_BYTES) {
		/* only typing gets here: the guest has not read for 1 MiB */
		in_bell(c);
		return;
	}
	memcpy(c->pending + c->pending_off + c->pending_len, buf, len);
	c->pending_len += len;
}

static void in_typed(struct console *c, const uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char out[2];
		size_t n;
		enum escape_action action = escape_key(&c->escape, buf[i], out, &n);

		in_append(c, out, n);
		switch (action) {
		case ESCAPE_NONE:
			break;
		case ESCAPE_BREAK:
			in_pump(c);
			if (c->uart)
				uart_break(c->uart);
			break;
		case ESCAPE_HELP:
			in_help();
			break;
		case ESCAPE_QUIT:
		case ESCAPE_POWER:
			c->callbacks.action(c->callbacks.ctx, action);
			break;
		}
	}
}

static void in_background(struct loop_timer *t)
{
	struct console *c = container_of(t, struct console, background_timer);

	console_resume(c);
}

/* A terminal is read in its foreground only: elsewhere reading fails with EIO. */
static bool in_ours(const struct console *c)
{
	return !c->in_tty || tty_foreground();
}

/* Reads what is there. Readiness can be gone again (a change of the terminal's mode ends a poll),
 * so this never waits. */
static ssize_t in_read(struct console *c, void *buf, size_t len)
{
	struct pollfd p = {.fd = c->in_fd, .events = POLLIN};

	if (c->in_own_fd >= 0)
		return read(c->in_own_fd, buf, len);
	if (poll(&p, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	return read(c->in_fd, buf, len);
}

static void in_polled(struct loop_op *op, int res)
{
	struct console *c = container_of(op, struct console, in_op);
	uint8_t buf[READ_BYTES];
	ssize_t n;

	c->in_busy = false;
	if (c->closing || c->suspended || res == -ECANCELED)
		return;
	if (!in_ours(c)) {
		in_wait(c);
		return;
	}
	n = in_read(c, buf, sizeof(buf));
	if (n > 0) {
		if (c->in_tty)
			in_typed(c, buf, (size_t)n);
		else
			in_append(c, buf, (size_t)n);
		in_pump(c);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR && in_ours(c))) {
		c->in_open = false; /* the end, or the terminal was hung up */
	}
	in_wait(c);
}

/* Asks for more input where there is a use for it. */
static void in_wait(struct console *c)
{
	if (!c->in_open || c->in_busy || c->closing || c->suspended || !c->uart)
		return;
	if (!c->in_tty && c->pending_len)
		return; /* in_drained() goes on */
	if (!in_ours(c)) {
		c->background_timer.fn = in_background;
		loop_timer_arm(c->loop, &c->background_timer, loop_now_ns() + BACKGROUND_NS);
		return;
	}
	c->in_busy = true;
	c->in_op.done = in_polled;
	loop_poll(c->loop, &c->in_op, c->in_fd, POLLIN);
}

static void in_drained(void *ctx)
{
	struct console *c = ctx;

	in_pump(c);
	in_wait(c);
}

void console_suspend(struct console *c)
{
	if (!c->in_tty)
		return;
	c->suspended = true;
	tty_restore();
}

void console_resume(struct console *c)
{
	int rc;

	if (!c->in_tty || c->closing)
		return;
	c->suspended = false;
	rc = c->uart ? tty_raw() : 0;
	if (rc)
		log_warn("the terminal cannot be put into raw mode: %s", strerror(-rc));
	in_wait(c);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

int console_new(struct loop *loop, int in_fd, int out_fd, const struct console_callbacks *callbacks,
		struct console **ret_console, struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	c->loop = loop;
	c->callbacks = *callbacks;
	c->sink.write = out_write;
	c->sink.drained = in_drained;
	c->sink.ctx = c;
	out_open(c, out_fd);
	c->in_fd = in_fd;
	c->in_open = in_fd >= 0;
	c->in_tty = c->in_open && tty_adopt(in_fd) == 0;
	c->in_own_fd = c->in_tty ? open_anew(in_fd, O_RDONLY) : -1;
	*ret_console = c;
	return 0;
}

const struct uart_sink *console_sink(struct console *c)
{
	return &c->sink;
}

void console_connect(struct console *c, struct uart *uart)
{
	c->uart = uart;
	if (c->in_tty)
		console_resume(c);
	else
		in_wait(c);
}

void console_close(struct console *c)
{
	c->closing = true;
	c->draining = false;
	c->uart = NULL;
	if (c->in_tty)
		tty_forget();
	loop_timer_disarm(c->loop, &c->background_timer);
	if (c->in_busy)
		loop_cancel(c->loop, &c->in_op);
	if (c->out_busy)
		loop_cancel(c->loop, &c->out_op);
}

void console_free(struct console *c)
{
	if (!c)
		return;
	cleanup_fd(&c->out_own_fd);
	cleanup_fd(&c->in_own_fd);
	free(c);
}

int console_open_file(const char *path, bool (*is_taken)(const void *ctx, const struct stat *st),
		      const void *ctx, int *ret_fd, bool *ret_created, struct err *err)
{
	/* O_NONBLOCK: a FIFO without a reader is an error, not a wait */
	const int flags = O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	autofd int fd = open(path, flags | O_CREAT | O_EXCL, 0666);
	bool created = fd >= 0;
	struct stat st;

	if (fd < 0 && errno == EEXIST)
		fd = open(path, flags);
	if (fd < 0 && errno == ENXIO)
		return err_set(err, ENXIO,
			       "console file %s: nobody reads it; start the reader first", path);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(err, errno, "console file %s", path);
	if (S_ISBLK(st.st_mode))
		return err_set(err, EINVAL, "console file %s is a block device; name a file", path);
	if (is_taken(ctx, &st))
		return err_set(err, EINVAL,
			       "console file %s is also the kernel, the initrd or a disk; name "
			       "another file",
			       path);
	*ret_fd = steal_fd(&fd);
	*ret_created = created;
	return 0;
}
