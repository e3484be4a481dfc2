/* See net_port.h. A write to a socket without a reader raises SIGPIPE, which main() ignores. */
#include "devices/virtio/net_port.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define HDR_BYTES sizeof(struct net_hdr)

/* Reads that may fail in a row before that is taken for the end, so that no error spins. */
#define LOST_MAX 1024

void net_port_init(struct net_port *port, const struct tap *tap, unsigned queue)
{
	port->fd = tap->fds[queue];
	port->lost = port->in_at = port->in_end = port->out_at = port->out_end = 0;
	port->stream = tap->stream;
	port->datagram = tap->datagram;
}

/* What Linux's tun says of an interface that was deleted (EBADFD; ENODEV and, reading, EIO of older
 * ones), and sockets of a peer that went. */
static bool is_end(int error)
{
	return error == EBADFD || error == EBADF || error == ENODEV || error == EPIPE ||
	       error == ECONNRESET || error == ENOTCONN || error == ECONNREFUSED;
}

static int read_error(struct net_port *port, int error)
{
	if (error == EAGAIN)
		return -EAGAIN;
	if (is_end(error) || error == EIO || ++port->lost > LOST_MAX)
		return -EPIPE;
	return -EIO;
}

static int write_error(int error)
{
	/* EIO is a tap that is down, by `ip link set`: it may come up again */
	return error == EAGAIN ? -EAGAIN : is_end(error) ? -EPIPE : -EIO;
}

/* ---- streams ---- */

static void scatter(const struct iovec *iov, const uint8_t *hdr, const uint8_t *frame, size_t len)
{
	size_t left = HDR_BYTES + len, from = 0;

	for (; left; iov++) {
		uint8_t *to = iov->iov_base;
		size_t room = MIN(left, iov->iov_len), n;

		left -= room;
		n = from < HDR_BYTES ? MIN(room, HDR_BYTES - from) : 0;
		memcpy(to, hdr + from, n);
		from += n;
		room -= n;
		if (!room)
			continue;
		memcpy(to + n, frame + (from - HDR_BYTES), room);
		from += room;
	}
}

/* Is there a whole frame? Its bytes, 0: not yet, -EPIPE: what no frame can have. */
static ssize_t frame_waiting(const struct net_port *port)
{
	const unsigned have = port->in_end - port->in_at;
	uint32_t len;

	if (have < NET_PORT_LEN_BYTES)
		return 0;
	len = be32_load(&port->in[port->in_at]);
	if (!len || len > NET_FRAME_MAX)
		return -EPIPE;
	return have - NET_PORT_LEN_BYTES >= len ? (ssize_t)len : 0;
}

static ssize_t stream_read(struct net_port *port, const struct iovec *iov)
{
	static const uint8_t header[HDR_BYTES];
	ssize_t n = frame_waiting(port);

	while (!n) {
		if (port->in_at) {
			memmove(port->in, &port->in[port->in_at], port->in_end - port->in_at);
			port->in_end -= port->in_at;
			port->in_at = 0;
		}
		n = read(port->fd, &port->in[port->in_end], sizeof(port->in) - port->in_end);
		if (n <= 0)
			return n < 0 ? read_error(port, errno) : -EPIPE;
		port->in_end += (unsigned)n;
		n = frame_waiting(port);
	}
	if (n < 0)
		return n;
	scatter(iov, header, &port->in[port->in_at + NET_PORT_LEN_BYTES], (size_t)n);
	port->in_at += NET_PORT_LEN_BYTES + (unsigned)n;
	return n + (ssize_t)HDR_BYTES;
}

int net_port_flush(struct net_port *port)
{
	while (port->out_at < port->out_end) {
		const ssize_t n =
		    write(port->fd, &port->out[port->out_at], port->out_end - port->out_at);

		if (n < 0)
			return errno == EAGAIN ? -EAGAIN : -EPIPE; /* no frame can follow a part */
		port->out_at += (unsigned)n;
	}
	port->out_at = port->out_end = 0;
	return 0;
}

/* What is behind the first `sent` bytes. */
static void keep_rest(struct net_port *port, const struct iovec *iov, unsigned niov, size_t sent)
{
	for (; niov--; iov++) {
		const size_t skip = MIN(sent, iov->iov_len), n = iov->iov_len - skip;

		sent -= skip;
		memcpy(&port->out[port->out_end], (const uint8_t *)iov->iov_base + skip, n);
		port->out_end += (unsigned)n;
	}
}

static int stream_write(struct net_port *port, struct iovec *iov, unsigned niov, size_t frame_bytes)
{
	const struct iovec first = iov[0];
	ssize_t n;
	int r = net_port_flush(port);

	if (r)
		return r;
	/* the length stands where the header ends */
	iov[0].iov_base = (uint8_t *)first.iov_base + (HDR_BYTES - NET_PORT_LEN_BYTES);
	iov[0].iov_len -= HDR_BYTES - NET_PORT_LEN_BYTES;
	be32_store(iov[0].iov_base, (uint32_t)frame_bytes);
	n = writev(port->fd, iov, (int)niov);
	if (n < 0) {
		r = write_error(errno);
	} else if ((size_t)n < NET_PORT_LEN_BYTES + frame_bytes) {
		keep_rest(port, iov, niov, (size_t)n);
		r = net_port_flush(port) == -EPIPE ? -EPIPE : 0;
	}
	iov[0] = first;
	return r;
}

/* ---- all kinds ---- */

ssize_t net_port_read(struct net_port *port, const struct iovec *iov, unsigned niov)
{
	ssize_t n;

	if (port->stream) {
		n = stream_read(port, iov);
	} else {
		n = readv(port->fd, iov, (int)niov);
		if (n < 0)
			n = read_error(port, errno);
		else if (n == 0)
			n = port->datagram ? -EIO : -EPIPE;
	}
	if (n > 0)
		port->lost = 0;
	return n;
}

int net_port_write(struct net_port *port, struct iovec *iov, unsigned niov, size_t frame_bytes)
{
	if (port->stream)
		return stream_write(port, iov, niov, frame_bytes);
	return writev(port->fd, iov, (int)niov) < 0 ? write_error(errno) : 0;
}
