/*
 * One attempt at an operation, by system call: what the epoll backend does where io_uring has an
 * opcode.
 *
 * A stream operation must not block although its descriptor may be blocking (a terminal that is
 * shared with the shell cannot be switched). Where the kernel cannot promise that for one call
 * (RWF_NOWAIT, MSG_DONTWAIT), the descriptor is polled first; that is enough because one loop is
 * the only reader of what it reads.
 */
#include "base/loop_try.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int result(ssize_t n)
{
	return n < 0 ? -errno : (int)n;
}

static bool is_ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 0) > 0;
}

static int try_read(const struct loop_op *op, bool always_ready)
{
	struct iovec iov = {.iov_base = op->p.buf, .iov_len = MIN(op->p.len, (size_t)INT32_MAX)};
	int r = result(preadv2(op->p.fd, &iov, 1, -1, RWF_NOWAIT));

	if (r != -EOPNOTSUPP && !(always_ready && r == -EAGAIN))
		return r;
	if (!always_ready && !is_ready(op->p.fd, POLLIN))
		return -EAGAIN;
	return result(read(op->p.fd, iov.iov_base, iov.iov_len));
}

/*
 * The most that may be written without blocking to a descriptor that polls as writable: a pipe has
 * room for PIPE_BUF then, a terminal's driver for some hundred bytes.
 */
static size_t write_max(int fd)
{
	struct stat st;

	if (fcntl(fd, F_GETFL) & O_NONBLOCK || fstat(fd, &st))
		return INT32_MAX;
	if (S_ISFIFO(st.st_mode))
		return PIPE_BUF;
	return S_ISCHR(st.st_mode) ? 256 : INT32_MAX;
}

static int try_write(const struct loop_op *op, bool always_ready)
{
	struct iovec iov = {.iov_base = op->p.buf, .iov_len = MIN(op->p.len, (size_t)INT32_MAX)};
	int r = result(pwritev2(op->p.fd, &iov, 1, -1, RWF_NOWAIT));

	if (r != -EOPNOTSUPP && !(always_ready && r == -EAGAIN))
		return r;
	if (!always_ready) {
		if (!is_ready(op->p.fd, POLLOUT))
			return -EAGAIN;
		iov.iov_len = MIN(iov.iov_len, write_max(op->p.fd));
	}
	return result(write(op->p.fd, iov.iov_base, iov.iov_len));
}

static int try_poll(const struct loop_op *op)
{
	struct pollfd p = {.fd = op->p.fd, .events = op_poll_events(op)};
	int r = result(poll(&p, 1, 0));

	if (r < 0)
		return r;
	if (p.revents & POLLNVAL)
		return -EBADF;
	return r ? p.revents : -EAGAIN;
}

int loop_try_stream(const struct loop_op *op, bool always_ready)
{
	switch (op->p.code) {
	case OP_READ:
		return try_read(op, always_ready);
	case OP_WRITE:
		return try_write(op, always_ready);
	case OP_RECVMSG:
		return result(recvmsg(op->p.fd, op->p.msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
	case OP_SENDMSG:
		return result(sendmsg(op->p.fd, op->p.msg, MSG_DONTWAIT | MSG_NOSIGNAL));
	case OP_ACCEPT:
		if (!always_ready && !is_ready(op->p.fd, POLLIN))
			return -EAGAIN;
		return result(accept4(op->p.fd, NULL, NULL, SOCK_CLOEXEC));
	default:
		return try_poll(op);
	}
}

int loop_try_positioned(const struct loop_op *op)
{
	switch (op->p.code) {
	case OP_READV:
		return result(preadv(op->p.fd, op->p.iov, (int)op->p.len, (off_t)op->p.offset));
	case OP_WRITEV:
		return result(pwritev(op->p.fd, op->p.iov, (int)op->p.len, (off_t)op->p.offset));
	case OP_FDATASYNC:
		return result(fdatasync(op->p.fd));
	default:
		return result(
		    fallocate(op->p.fd, op->p.mode, (off_t)op->p.offset, (off_t)op->p.range));
	}
}
