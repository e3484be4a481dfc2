/* The vsock of a running machine, whose guest is the vsock payload: built-in, and vhost where the
 * host has it. */
#include "base/checked.h"
#include "tests/direct/direct.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* after sys/socket.h, whose types it needs */
#include <linux/vm_sockets.h>

#define VHOST	   "/dev/vhost-vsock"
#define WAIT_MS	   20000
#define ECHO_BYTES (8 * MIB)
#define GEN_BYTES  (16 * MIB)

struct fixture {
	struct direct d;
	char folder[32], path[64];
	int ready;     /* listens at PATH_7777; -1: nobody does */
	bool host;     /* vhost: by AF_VSOCK */
	bool own;      /* no paths: by this process's own ends */
	int paused[2]; /* a pipe: the machine is */
	int given[2];  /* a pipe for what the machine gives */
	void (*program)(struct fixture *f);
	int last;	     /* the connection that ended the guest */
	const char *failure; /* what the program found wrong */
	pthread_t thread;
};

/* cmocka's assertions belong to the main thread. */
#define EXPECT(cond)                        \
	do {                                \
		if (!(cond) && !f->failure) \
			f->failure = #cond; \
	} while (0)

static int unix_socket(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(a->sun_path, sizeof(a->sun_path), "%s", path);
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* Reads exactly; false: the end, or the deadline. */
static bool get(int fd, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		ssize_t n = poll(&pfd, 1, WAIT_MS) == 1 ? read(fd, p, len) : -1;

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

struct adoption {
	struct loop_msg msg;
	struct machine *machine;
	int fd;
};

static void adopt(struct loop_msg *msg)
{
	struct adoption *a = container_of(msg, struct adoption, msg);

	machine_vsock_adopt(a->machine, a->fd);
	free(a);
}

/* The other end is the machine's, once its control loop's thread has it. */
static int own_end(struct fixture *f)
{
	struct adoption *a = malloc(sizeof(*a));
	int ends[2];

	if (!a || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		abort();
	*a = (struct adoption){.msg.fn = adopt, .machine = f->d.machine, .fd = ends[1]};
	loop_post(f->d.loop, &a->msg);
	return ends[0];
}

static void given(void *ctx, int fd)
{
	struct fixture *f = container_of(ctx, struct fixture, d);

	EXPECT(write(f->given[1], &fd, sizeof(fd)) == sizeof(fd));
}

static int connected(struct fixture *f)
{
	struct sockaddr_un a;
	int fd = unix_socket(f->path, &a);

	EXPECT(!connect(fd, (struct sockaddr *)&a, sizeof(a)));
	return fd;
}

static int host_socket(struct fixture *f, unsigned port)
{
	const struct sockaddr_vm guest = {
	    .svm_family = AF_VSOCK, .svm_cid = machine_cid(f->d.machine), .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (!connect(fd, (const struct sockaddr *)&guest, sizeof(guest)))
		return fd;
	close(fd);
	return -1;
}

/* Asks for a port of the guest. */
static int call(struct fixture *f, unsigned port)
{
	int fd = f->own ? own_end(f) : connected(f);
	char line[32];
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	EXPECT(write(fd, line, (size_t)n) == n);
	return fd;
}

/* Connects to a port of the guest; -1: refused. */
static int dial(struct fixture *f, unsigned port)
{
	int fd = f->host ? host_socket(f, port) : call(f, port);
	char line[3], c = 0;

	if (f->host)
		return fd;
	if (!get(fd, line, 3) || memcmp(line, "OK ", 3) != 0) {
		close(fd);
		return -1;
	}
	while (c != '\n') {
		if (!get(fd, &c, 1)) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

struct writer {
	int fd;
	const uint8_t *data;
	size_t len;
};

static void *write_all(void *arg)
{
	struct writer *w = arg;
	size_t done = 0;

	while (done < w->len) {
		ssize_t n = send(w->fd, w->data + done, w->len - done, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	shutdown(w->fd, SHUT_WR);
	return NULL;
}

static void echo_over(struct fixture *f, size_t len, unsigned nconns)
{
	uint8_t *out = malloc(len), *in = malloc(len), c;
	struct writer w[8];
	pthread_t threads[8];

	for (size_t i = 0; i < len; i++)
		out[i] = (uint8_t)(i * 31 + (i >> 9));
	for (unsigned i = 0; i < nconns; i++) {
		w[i] = (struct writer){dial(f, 7), out, len};
		EXPECT(w[i].fd >= 0);
		pthread_create(&threads[i], NULL, write_all, &w[i]);
	}
	for (unsigned i = 0; i < nconns; i++) {
		memset(in, 0, len);
		EXPECT(get(w[i].fd, in, len));
		EXPECT(!memcmp(in, out, len));
		EXPECT(!get(w[i].fd, &c, 1)); /* half close, answered by the guest's own end */
		pthread_join(threads[i], NULL);
		close(w[i].fd);
	}
	free(out);
	free(in);
}

static void echo(struct fixture *f)
{
	echo_over(f, ECHO_BYTES, 1);
}

static void echo_of_many(struct fixture *f)
{
	echo_over(f, MIB, 8);
}

static void chargen(struct fixture *f)
{
	static uint8_t buf[MIB];
	int fd = dial(f, 19);
	size_t at = 0;

	EXPECT(fd >= 0);
	while (at < GEN_BYTES && !f->failure) {
		EXPECT(get(fd, buf, sizeof(buf)));
		for (size_t i = 0; i < sizeof(buf); i++)
			EXPECT(buf[i] == (uint8_t)(at + i));
		at += sizeof(buf);
	}
	close(fd);
}

static void refused_and_again(struct fixture *f)
{
	for (unsigned i = 0; i < 200; i++) {
		int fd;

		EXPECT(dial(f, 12345) < 0);
		fd = dial(f, 7);
		EXPECT(fd >= 0);
		close(fd);
	}
}

static void guest_connects(struct fixture *f)
{
	struct pollfd p = {.fd = f->own ? f->given[0] : f->ready, .events = POLLIN};
	char text[6] = "";
	int fd = -1;

	EXPECT(poll(&p, 1, WAIT_MS) == 1);
	if (f->own)
		EXPECT(get(f->given[0], &fd, sizeof(fd)));
	else
		fd = accept(f->ready, NULL, NULL);
	EXPECT(get(fd, text, 6));
	EXPECT(!memcmp(text, "ready\n", 6));
	close(fd);
}

/* The echo comes after the answer to the guest's own connection. */
static void nobody_listens(struct fixture *f)
{
	echo_over(f, 1, 1);
}

struct request {
	struct loop_msg msg;
	struct fixture *f;
	bool pause;
};

static void paused(void *ctx)
{
	struct fixture *f = ctx;

	EXPECT(write(f->paused[1], "p", 1) == 1);
}

static void request_fn(struct loop_msg *msg)
{
	struct request *r = container_of(msg, struct request, msg);

	if (r->pause)
		machine_pause(r->f->d.machine, paused, r->f);
	else
		machine_resume(r->f->d.machine);
	free(r);
}

static void request(struct fixture *f, bool pause)
{
	struct request *r = malloc(sizeof(*r));

	if (!r)
		abort();
	*r = (struct request){.msg.fn = request_fn, .f = f, .pause = pause};
	loop_post(f->d.loop, &r->msg);
}

/* What comes while the machine stands still is answered when it goes on. */
static void pausing(struct fixture *f)
{
	uint8_t out[4000], in[4000];
	const int fd = dial(f, 7);

	EXPECT(fd >= 0);
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 13 + 1);
	for (unsigned i = 0; i < 20 && !f->failure; i++) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		char c;

		EXPECT(write(fd, out, 1000) == 1000);
		request(f, true);
		EXPECT(get(f->paused[0], &c, 1));
		EXPECT(write(fd, out + 1000, 3000) == 3000);
		if (poll(&p, 1, 5) == 1)
			EXPECT(recv(fd, in, sizeof(in), MSG_PEEK) <= 1000);
		request(f, false);
		EXPECT(get(fd, in, sizeof(in)));
		EXPECT(!memcmp(in, out, sizeof(in)));
	}
	close(fd);
}

/* The host's program, then the guest's power button. */
static void *program(void *arg)
{
	struct fixture *f = arg;

	f->program(f);
	f->last = f->host ? host_socket(f, 1) : call(f, 1); /* it goes without an answer */
	return NULL;
}

/* Who hears of the guest's connection. */
enum hearer { NOBODY, LISTENER, OWN, HOST };

static void run(void (*host)(struct fixture *f), enum hearer hearer)
{
	const bool listens = hearer == LISTENER;
	static struct fixture fixture;
	struct fixture *f = &fixture;
	struct sockaddr_un a;
	char path[108];

	if (hearer == HOST && access(VHOST, R_OK | W_OK))
		skip();
	memset(f, 0, sizeof(*f));
	snprintf(f->folder, sizeof(f->folder), "/tmp/test-vsock.XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->path, sizeof(f->path), "%.*s/v", (int)sizeof(f->folder) - 1, f->folder);
	setenv("XDG_RUNTIME_DIR", f->folder, 1);
	direct_init(&f->d, "vsock");
	f->d.config.transport = MACHINE_MMIO;
	f->host = hearer == HOST;
	f->own = hearer == OWN || f->host;
	assert_int_equal(pipe(f->paused), 0);
	f->d.config.vsock = (struct vsock_config){.on = true,
						  .backend = f->host ? VSOCK_VHOST : VSOCK_BUILTIN,
						  .socket = f->own ? NULL : strdup(f->path)};
	if (f->own) {
		assert_int_equal(pipe(f->given), 0);
		f->d.vsock_accepted = given;
		f->d.vsock_port = 7777;
	}
	f->program = host;
	f->ready = -1;
	snprintf(path, sizeof(path), "%.63s_7777", f->path);
	if (listens) {
		f->ready = unix_socket(path, &a);
		assert_int_equal(bind(f->ready, (struct sockaddr *)&a, sizeof(a)), 0);
		assert_int_equal(listen(f->ready, 4), 0);
	}
	direct_make(&f->d);
	assert_int_equal(machine_vsock_by_host(f->d.machine), f->host);
	assert_int_equal(machine_vsock_port(f->d.machine), f->own ? 7777 : 0);
	assert_int_equal(pthread_create(&f->thread, NULL, program, f), 0);
	direct_run(&f->d);
	pthread_join(f->thread, NULL);
	if (f->last >= 0)
		close(f->last);
	if (f->failure)
		fail_msg("%s; console: %s", f->failure, f->d.console);
	direct_expect(&f->d, "done\n");
	direct_expect(&f->d, "cid ");
	if (hearer == NOBODY)
		direct_expect(&f->d, "no host\n");
	assert_int_equal(f->d.event, MACHINE_POWEROFF);
	direct_fini(&f->d);
	unlink(f->path);
	close(f->paused[0]);
	close(f->paused[1]);
	if (f->own) {
		close(f->given[0]);
		close(f->given[1]);
	}
	if (listens) {
		close(f->ready);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%.*s/lodge-cid", (int)sizeof(f->folder) - 1, f->folder);
	unlink(path);
	assert_int_equal(rmdir(f->folder), 0);
}

#define TEST(test, host, hearer)              \
	static void test_##test(void **state) \
	{                                     \
		(void)state;                  \
		run(host, hearer);            \
	}

TEST(nobody_listens, nobody_listens, NOBODY)
TEST(guest_connects, guest_connects, LISTENER)
TEST(guest_connects_to_the_process, guest_connects, OWN)
TEST(echo, echo, NOBODY)
TEST(echo_of_many, echo_of_many, LISTENER)
TEST(echo_of_many_own, echo_of_many, OWN)
TEST(chargen, chargen, NOBODY)
TEST(chargen_own, chargen, OWN)
TEST(refused_and_again, refused_and_again, NOBODY)
TEST(refused_and_again_own, refused_and_again, OWN)
TEST(pausing, pausing, LISTENER)
TEST(pausing_own, pausing, OWN)
TEST(guest_connects_vhost, guest_connects, HOST)
TEST(echo_vhost, echo, HOST)
TEST(chargen_vhost, chargen, HOST)
TEST(refused_and_again_vhost, refused_and_again, HOST)
TEST(pausing_vhost, pausing, HOST)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nobody_listens),
	    cmocka_unit_test(test_guest_connects),
	    cmocka_unit_test(test_guest_connects_to_the_process),
	    cmocka_unit_test(test_echo),
	    cmocka_unit_test(test_echo_of_many),
	    cmocka_unit_test(test_echo_of_many_own),
	    cmocka_unit_test(test_chargen),
	    cmocka_unit_test(test_chargen_own),
	    cmocka_unit_test(test_refused_and_again),
	    cmocka_unit_test(test_refused_and_again_own),
	    cmocka_unit_test(test_pausing),
	    cmocka_unit_test(test_pausing_own),
	    cmocka_unit_test(test_guest_connects_vhost),
	    cmocka_unit_test(test_echo_vhost),
	    cmocka_unit_test(test_chargen_vhost),
	    cmocka_unit_test(test_refused_and_again_vhost),
	    cmocka_unit_test(test_pausing_vhost),
	};
	const char *why = direct_unavailable();

	if (why) {
		printf("SKIP: test_vsock: %s\n", why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
