/* AF_VSOCK as a guest's program uses it. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define BLOCK  32768
#define WAIT_S 60

static bool send_all(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static int vsock_connect(unsigned port)
{
	const struct sockaddr_vm host = {
	    .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	const struct timeval wait = {.tv_sec = WAIT_S};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* by default it is 2 s, which a busy host may take to answer */
	if (fd >= 0)
		setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &wait, sizeof(wait));
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&host, sizeof(host))) {
		int code = errno;

		close(fd);
		errno = code;
		return -1;
	}
	return fd;
}

/* Sends back what comes, to its end, and then its own; waits for the peer to have all of it, which
 * the end of the machine would take from it. */
static int echo(int fd)
{
	const struct linger linger = {.l_onoff = 1, .l_linger = WAIT_S};
	uint8_t block[BLOCK];
	ssize_t n;

	while ((n = recv(fd, block, sizeof(block), 0)) > 0) {
		if (!send_all(fd, block, (size_t)n))
			return 1;
	}
	return n < 0 || shutdown(fd, SHUT_WR) ||
	       setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) || close(fd);
}

/* vsockecho:PORT,COUNT: serves so many connections, all at a time. */
int cmd_vsockecho(const struct args *args)
{
	const struct sockaddr_vm any = {.svm_family = AF_VSOCK,
					.svm_cid = VMADDR_CID_ANY,
					.svm_port = (unsigned)arg_number(args, 0, 7)};
	unsigned count = (unsigned)arg_number(args, 1, 1), faults = 0;
	int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), status;

	if (listener < 0 || bind(listener, (const struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 128))
		return fail("listen: %s", strerror(errno));
	say("vsock listening");
	for (unsigned i = 0; i < count; i++) {
		struct pollfd p = {.fd = listener, .events = POLLIN};
		int fd = poll(&p, 1, WAIT_S * 1000) == 1 ? accept(listener, NULL, NULL) : -1;

		if (fd < 0)
			return fail("accept %u: %s", i, strerror(errno));
		switch (fork()) {
		case -1:
			return fail("fork: %s", strerror(errno));
		case 0:
			_exit(echo(fd));
		default:
			close(fd);
		}
		while (waitpid(-1, &status, WNOHANG) > 0)
			faults += status != 0;
	}
	while (waitpid(-1, &status, 0) > 0)
		faults += status != 0;
	close(listener);
	if (faults)
		return fail("%u of %u connections broke", faults, count);
	say("vsock echoed %u", count);
	return 0;
}

/* vsockcall:PORT,BYTES,TIMES: sends to the host, half closes, and gets the same back. */
static int call(unsigned port, uint64_t bytes, uint64_t seed)
{
	uint64_t out = seed, in = seed, got = 0;
	uint8_t block[BLOCK], want[8];
	int fd = vsock_connect(port), status;
	ssize_t n = 0;
	pid_t pid;

	if (fd < 0)
		return fail("connect to %u: %s", port, strerror(errno));
	pid = fork();
	if (pid == 0) {
		for (uint64_t at = 0; at < bytes; at += sizeof(block)) {
			for (unsigned i = 0; i < sizeof(block); i += 8) {
				uint64_t v = random_next(&out);

				memcpy(block + i, &v, 8);
			}
			if (!send_all(fd, block, sizeof(block)))
				_exit(1);
		}
		_exit(shutdown(fd, SHUT_WR) != 0);
	}
	while ((n = recv(fd, block, sizeof(block), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++, got++) {
			if (got % 8 == 0) {
				uint64_t v = random_next(&in);

				memcpy(want, &v, 8);
			}
			if (block[i] != want[got % 8])
				return fail("byte %llu differs", (unsigned long long)got);
		}
	}
	close(fd);
	if (waitpid(pid, &status, 0) != pid || status)
		return fail("sending broke");
	if (n < 0 || got != bytes)
		return fail("%llu bytes came back of %llu", (unsigned long long)got,
			    (unsigned long long)bytes);
	return 0;
}

int cmd_vsockcall(const struct args *args)
{
	const unsigned port = (unsigned)arg_number(args, 0, 7777);
	const uint64_t bytes = arg_number(args, 1, BLOCK) / BLOCK * BLOCK;
	const unsigned times = (unsigned)arg_number(args, 2, 1);

	for (unsigned i = 0; i < times; i++) {
		if (call(port, bytes, i + 1))
			return -1;
	}
	say("vsock called %u", times);
	return 0;
}

/* vsockrefused:PORT: nobody listens there. */
int cmd_vsockrefused(const struct args *args)
{
	const uint64_t before = now_ms();
	int fd = vsock_connect((unsigned)arg_number(args, 0, 1));

	if (fd >= 0)
		return fail("somebody listens");
	if (errno != ECONNRESET && errno != ECONNREFUSED)
		return fail("%s after %llu ms", strerror(errno),
			    (unsigned long long)(now_ms() - before));
	say("vsock refused");
	return 0;
}

#define DRIVER "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport"

/* vsockhold:PORT,COUNT: connections to the host, until the host ends them. */
int cmd_vsockhold(const struct args *args)
{
	const unsigned port = (unsigned)arg_number(args, 0, 7777);
	const unsigned count = (unsigned)arg_number(args, 1, 1);
	int fds[64];
	char c;

	for (unsigned i = 0; i < count && i < 64; i++) {
		fds[i] = vsock_connect(port);
		if (fds[i] < 0)
			return fail("connect to %u: %s", port, strerror(errno));
	}
	say("vsock held %u", count);
	for (unsigned i = 0; i < count && i < 64; i++) {
		struct pollfd p = {.fd = fds[i], .events = POLLIN};

		if (poll(&p, 1, WAIT_S * 1000) != 1 || recv(fds[i], &c, 1, 0) > 0)
			return fail("connection %u goes on", i);
		close(fds[i]);
	}
	say("vsock lost %u", count);
	return 0;
}

/* vsockrebind:PORT,TIMES: takes the driver from the device, which resets it, and gives it back,
 * with connections that are open. */
int cmd_vsockrebind(const struct args *args)
{
	const unsigned port = (unsigned)arg_number(args, 0, 7777);
	const unsigned times = (unsigned)arg_number(args, 1, 1);
	char name[32] = "";
	struct dirent *e;
	DIR *dir = opendir(DRIVER);

	while (dir && (e = readdir(dir)))
		if (!strncmp(e->d_name, "virtio", 6) && strlen(e->d_name) < sizeof(name))
			strcpy(name, e->d_name);
	if (dir)
		closedir(dir);
	if (!*name)
		return fail("no device of " DRIVER);
	for (unsigned i = 0; i < times; i++) {
		int fd = vsock_connect(port);
		char c;

		if (fd < 0)
			return fail("connect to %u: %s", port, strerror(errno));
		if (write_file(DRIVER "/unbind", name))
			return fail("unbind %s: %s", name, strerror(errno));
		if (recv(fd, &c, 1, 0) > 0)
			return fail("data from nowhere");
		close(fd);
		if (write_file(DRIVER "/bind", name))
			return fail("bind %s: %s", name, strerror(errno));
	}
	say("vsock rebound %u", times);
	return 0;
}
