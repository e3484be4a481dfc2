/*
 * base/loop: every behaviour over both backends. A watchdog ends a test that hangs; nothing here
 * sleeps to wait for another thread.
 */
#include "base/checked.h"
#include "base/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define WATCHDOG_S 60
#define NS_PER_MS  UINT64_C(1000000)

struct fixture {
	struct loop *loop; /* NULL: this kernel refuses the backend */
	enum loop_backend backend;
};

static int setup(void **state, enum loop_backend backend, unsigned entries)
{
	static struct fixture f;
	struct loop_opts opts = {.backend = backend, .entries = entries};
	struct err err = ERR_INIT;

	f = (struct fixture){.backend = backend};
	if (loop_new(&opts, &f.loop, &err) && backend != LOOP_URING) {
		print_error("%s\n", err.msg);
		return -1;
	}
	*state = &f;
	alarm(WATCHDOG_S);
	return 0;
}

static int setup_uring(void **state)
{
	return setup(state, LOOP_URING, 8);
}

static int setup_epoll(void **state)
{
	return setup(state, LOOP_EPOLL, 8);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_free(f->loop);
	alarm(0);
	return 0;
}

static struct loop *loop_of(void **state)
{
	struct fixture *f = *state;

	if (!f->loop) {
		print_message("SKIP: this kernel refuses io_uring\n");
		skip();
	}
	return f->loop;
}

/* An operation that records its result and stops the loop when `left` reaches zero. */
struct rec {
	struct loop_op op;
	struct loop *loop;
	int res;
	int calls;
	int *left;
};

static void rec_done(struct loop_op *op, int res)
{
	struct rec *r = container_of(op, struct rec, op);

	r->res = res;
	r->calls++;
	if (r->left && --*r->left == 0)
		loop_stop(r->loop);
}

static struct rec rec_new(struct loop *loop, int *left)
{
	return (struct rec){.op.done = rec_done, .loop = loop, .left = left};
}

static int temp_file(void)
{
	char path[256];
	const char *dir = getenv("TMPDIR");
	int fd;

	snprintf(path, sizeof(path), "%s/lodge-test-XXXXXX", dir ? dir : "/var/tmp");
	fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static void run_one(struct loop *loop, struct rec *r)
{
	int left = 1;

	r->left = &left;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(r->calls, 1);
	r->calls = 0;
}

/* Positioned I/O */

static void file_io_round_trip(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	char out[] = "hello, disk", in[32] = "";
	struct iovec wv[2] = {{out, 5}, {out + 5, sizeof(out) - 5}}, rv = {in, sizeof(in)};
	int fd = temp_file();

	loop_writev(loop, &r.op, fd, wv, 2, 4096);
	assert_int_equal(r.calls, 0);
	run_one(loop, &r);
	assert_int_equal(r.res, sizeof(out));

	loop_fdatasync(loop, &r.op, fd);
	run_one(loop, &r);
	assert_int_equal(r.res, 0);

	loop_readv(loop, &r.op, fd, &rv, 1, 4096);
	run_one(loop, &r);
	assert_int_equal(r.res, sizeof(out)); /* short: the file ends there */
	assert_string_equal(in, out);

	loop_fallocate(loop, &r.op, fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 4096, 4096);
	run_one(loop, &r);
	assert_int_equal(r.res, 0);
	loop_readv(loop, &r.op, fd, &rv, 1, 4096);
	run_one(loop, &r);
	assert_int_equal(in[0], 0);
	close(fd);
}

static void errors_are_passed_up(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	char b[8];
	struct iovec v = {b, sizeof(b)};
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	loop_writev(loop, &r.op, fd, &v, 1, 0);
	run_one(loop, &r);
	assert_int_equal(r.res, -EBADF);
	close(fd);

	loop_read(loop, &r.op, fd, b, sizeof(b));
	run_one(loop, &r);
	assert_int_equal(r.res, -EBADF);
}

/* The rings of these tests have 8 entries. */
static void more_than_the_ring_holds(void **state)
{
	enum { N = 2000 };
	struct loop *loop = loop_of(state);
	struct rec *r = calloc(N, sizeof(*r));
	uint32_t *values = calloc(N, sizeof(*values)), check[N];
	struct iovec *v = calloc(N, sizeof(*v));
	int left = N, fd = temp_file();

	for (unsigned i = 0; i < N; i++) {
		values[i] = i * 7919;
		v[i] = (struct iovec){&values[i], sizeof(values[i])};
		r[i] = rec_new(loop, &left);
		loop_writev(loop, &r[i].op, fd, &v[i], 1, i * sizeof(values[i]));
	}
	assert_int_equal(loop_run(loop), 0);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(r[i].calls, 1);
		assert_int_equal(r[i].res, sizeof(values[i]));
	}
	assert_int_equal(pread(fd, check, sizeof(check), 0), sizeof(check));
	assert_memory_equal(check, values, sizeof(check));
	close(fd);
	free(r);
	free(values);
	free(v);
}

/* Streams */

struct writer {
	int fd;
	const char *text;
};

static void *write_text(void *arg)
{
	struct writer *w = arg;

	assert_int_equal(write(w->fd, w->text, strlen(w->text)), strlen(w->text));
	return NULL;
}

static void read_waits_for_data(struct loop *loop, int flags)
{
	struct rec r = rec_new(loop, NULL);
	struct writer w = {.text = "late"};
	char b[16] = "";
	pthread_t t;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC | flags), 0);
	w.fd = p[1];
	loop_read(loop, &r.op, p[0], b, sizeof(b));
	assert_int_equal(pthread_create(&t, NULL, write_text, &w), 0);
	run_one(loop, &r);
	pthread_join(t, NULL);
	assert_int_equal(r.res, 4);
	assert_string_equal(b, "late");

	close(p[1]);
	loop_read(loop, &r.op, p[0], b, sizeof(b));
	run_one(loop, &r);
	assert_int_equal(r.res, 0);
	close(p[0]);
}

static void blocking_pipe(void **state)
{
	read_waits_for_data(loop_of(state), 0);
}

static void nonblocking_pipe(void **state)
{
	read_waits_for_data(loop_of(state), O_NONBLOCK);
}

/* Drains a pipe until its end. */
static void *drain(void *arg)
{
	int fd = *(int *)arg;
	size_t *total = calloc(1, sizeof(*total));
	char b[4096];
	ssize_t n;

	while ((n = read(fd, b, sizeof(b))) > 0)
		*total += (size_t)n;
	return total;
}

struct writing {
	struct loop_op op;
	struct loop *loop;
	const char *data;
	size_t len, done;
	int fd;
};

static void writing_done(struct loop_op *op, int res)
{
	struct writing *w = container_of(op, struct writing, op);

	assert_true(res > 0);
	w->done += (size_t)res;
	if (w->done == w->len)
		loop_stop(w->loop);
	else
		loop_write(w->loop, op, w->fd, w->data + w->done, w->len - w->done);
}

static void write_through_a_full(struct loop *loop, int p[2])
{
	enum { LEN = 1 << 20 };
	struct writing w = {.op.done = writing_done, .loop = loop, .len = LEN, .fd = p[1]};
	char *data = calloc(1, LEN);
	size_t *total;
	pthread_t t;

	w.data = data;
	loop_write(loop, &w.op, p[1], data, LEN);
	assert_int_equal(pthread_create(&t, NULL, drain, &p[0]), 0);
	assert_int_equal(loop_run(loop), 0);
	close(p[1]);
	pthread_join(t, (void **)&total);
	assert_int_equal(*total, LEN);
	close(p[0]);
	free(total);
	free(data);
}

static void write_more_than_a_pipe_holds(void **state)
{
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	write_through_a_full(loop_of(state), p);
}

static void write_more_than_a_socket_holds(void **state)
{
	int p[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p), 0);
	write_through_a_full(loop_of(state), p);
}

static void write_without_reader_is_epipe(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	close(p[0]);
	loop_write(loop, &r.op, p[1], "x", 1);
	run_one(loop, &r);
	assert_int_equal(r.res, -EPIPE);
	close(p[1]);
}

static void read_and_write_on_one_socket(void **state)
{
	struct loop *loop = loop_of(state);
	int s[2], left = 3;
	struct rec rd = rec_new(loop, &left), wr = rec_new(loop, &left),
		   peer = rec_new(loop, &left);
	char b[8] = "", pb[8] = "", *fill = calloc(1, 1 << 20);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
	while (write(s[0], fill, 1 << 20) > 0)
		;
	/* neither can go on yet: nothing to read, no room to write */
	loop_read(loop, &rd.op, s[0], b, sizeof(b));
	loop_write(loop, &wr.op, s[0], "out", 3);
	loop_write(loop, &peer.op, s[1], "in", 2);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(wr.calls, 0);

	while (read(s[1], fill, 1 << 20) > 0)
		;
	assert_int_equal(left, 3 - rd.calls - peer.calls);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(rd.res, 2);
	assert_string_equal(b, "in");
	assert_int_equal(wr.res, 3);
	assert_int_equal(read(s[1], pb, sizeof(pb)), 3);
	assert_string_equal(pb, "out");
	close(s[0]);
	close(s[1]);
	free(fill);
}

static void two_reads_on_one_pipe(void **state)
{
	struct loop *loop = loop_of(state);
	int p[2], left = 1;
	struct rec a = rec_new(loop, &left), b = rec_new(loop, &left);
	char ab[1], bb[1];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	loop_read(loop, &a.op, p[0], ab, 1);
	loop_read(loop, &b.op, p[0], bb, 1);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(write(p[1], "1", 1), 1);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(a.calls + b.calls, 1);
	left = 1;
	assert_int_equal(write(p[1], "2", 1), 1);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	assert_int_equal(ab[0] + bb[0], '1' + '2');
	close(p[0]);
	close(p[1]);
}

/* More descriptors than epoll hands out events at once, and than its table has lists. */
static void many_descriptors(void **state)
{
	enum { N = 200 };
	struct loop *loop = loop_of(state);
	struct rec *r = calloc(N, sizeof(*r));
	int p[N][2], left = N;
	char b[N];

	for (int i = 0; i < N; i++) {
		assert_int_equal(pipe2(p[i], O_CLOEXEC | (i % 2 ? O_NONBLOCK : 0)), 0);
		r[i] = rec_new(loop, &left);
		loop_read(loop, &r[i].op, p[i][0], &b[i], 1);
	}
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(left, N);
	for (int i = N - 1; i >= 0; i--) {
		char c = (char)i;

		assert_int_equal(write(p[i][1], &c, 1), 1);
	}
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(r[i].calls, 1);
		assert_int_equal(b[i], (char)i);
		close(p[i][0]);
		close(p[i][1]);
	}
	free(r);
}

static void accept_and_pass_a_descriptor(void **state)
{
	struct loop *loop = loop_of(state);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct rec ac = rec_new(loop, NULL), tx = rec_new(loop, NULL), rx = rec_new(loop, NULL);
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} out = {0}, in = {0};
	char b[4] = "";
	struct iovec ov = {(char[]){"fd"}, 2}, iv = {b, sizeof(b)};
	struct msghdr om = {.msg_iov = &ov,
			    .msg_iovlen = 1,
			    .msg_control = out.buf,
			    .msg_controllen = sizeof(out.buf)};
	struct msghdr im = {.msg_iov = &iv,
			    .msg_iovlen = 1,
			    .msg_control = in.buf,
			    .msg_controllen = sizeof(in.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&om);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), client, passed, conn;
	socklen_t len = sizeof(sa.sun_family) + 1 +
			(socklen_t)sprintf(sa.sun_path + 1, "lodge-test-%d", getpid());

	assert_int_equal(bind(listener, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	loop_accept(loop, &ac.op, listener);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0); /* nobody there yet */
	assert_int_equal(ac.calls, 0);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&sa, len), 0);
	run_one(loop, &ac);
	conn = ac.res;
	assert_true(conn >= 0);
	assert_int_equal(fcntl(conn, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &listener, sizeof(int));
	loop_recvmsg(loop, &rx.op, conn, &im);
	loop_sendmsg(loop, &tx.op, client, &om);
	run_one(loop, &rx);
	assert_int_equal(rx.res, 2);
	assert_string_equal(b, "fd");
	memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&im)), sizeof(int));
	assert_int_equal(fcntl(passed, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(passed);
	close(conn);
	close(client);
	close(listener);
}

static void poll_reports_events(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	loop_poll(loop, &r.op, p[1], POLLOUT);
	run_one(loop, &r);
	assert_int_equal(r.res, POLLOUT);

	loop_poll(loop, &r.op, p[0], POLLIN);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(r.calls, 0);
	close(p[1]);
	run_one(loop, &r);
	assert_true(r.res & POLLHUP);
	close(p[0]);
}

static void regular_file_as_stream(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	char data[3000], b[2000];
	int fd = temp_file();

	memset(data, 'd', sizeof(data));
	for (size_t done = 0; done < sizeof(data); done += (size_t)r.res) {
		loop_write(loop, &r.op, fd, data + done, sizeof(data) - done);
		run_one(loop, &r);
		assert_true(r.res > 0);
	}
	lseek(fd, 0, SEEK_SET);
	loop_read(loop, &r.op, fd, b, sizeof(b));
	run_one(loop, &r);
	assert_int_equal(r.res, 2000);
	loop_read(loop, &r.op, fd, b, sizeof(b));
	run_one(loop, &r);
	assert_int_equal(r.res, 1000);
	assert_int_equal(b[999], 'd');
	loop_read(loop, &r.op, fd, b, sizeof(b));
	run_one(loop, &r);
	assert_int_equal(r.res, 0);
	close(fd);
}

static void terminal(struct loop *loop, int flags)
{
	struct rec rd = rec_new(loop, NULL), wr = rec_new(loop, NULL);
	struct writer w = {.text = "typed\n"};
	char b[32] = "", echo[32] = "";
	pthread_t t;
	int master, slave;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	fcntl(slave, F_SETFL, fcntl(slave, F_GETFL) | flags);
	w.fd = master;
	loop_read(loop, &rd.op, slave, b, sizeof(b));
	assert_int_equal(pthread_create(&t, NULL, write_text, &w), 0);
	run_one(loop, &rd);
	pthread_join(t, NULL);
	assert_string_equal(b, "typed\n");
	assert_int_equal(read(master, echo, sizeof(echo)), 7);

	loop_write(loop, &wr.op, slave, "shown", 5);
	run_one(loop, &wr);
	assert_int_equal(wr.res, 5);
	assert_int_equal(read(master, echo, sizeof(echo)), 5);
	assert_memory_equal(echo, "shown", 5);

	/* a read that nothing answers can be given up */
	loop_read(loop, &rd.op, slave, b, sizeof(b));
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	loop_cancel(loop, &rd.op);
	run_one(loop, &rd);
	assert_int_equal(rd.res, -ECANCELED);
	close(slave);
	close(master);
}

static void blocking_terminal(void **state)
{
	terminal(loop_of(state), 0);
}

static void nonblocking_terminal(void **state)
{
	terminal(loop_of(state), O_NONBLOCK);
}

/* A copy of a descriptor that was closed in a callback must not keep the loop busy. */
struct closing {
	struct loop_op op;
	int fd;
};

static void close_done(struct loop_op *op, int res)
{
	struct closing *c = container_of(op, struct closing, op);

	assert_int_equal(res, 1);
	close(c->fd);
}

static void stop_timer(struct loop_timer *t);

struct stopper {
	struct loop_timer timer;
	struct loop *loop;
};

static void stop_timer(struct loop_timer *t)
{
	loop_stop(container_of(t, struct stopper, timer)->loop);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000 * NS_PER_MS + (uint64_t)ts.tv_nsec;
}

static void closed_in_callback_leaves_nothing(void **state)
{
	struct loop *loop = loop_of(state);
	struct closing c = {.op.done = close_done};
	struct stopper s = {.timer.fn = stop_timer, .loop = loop};
	int p[2], copy;
	char b;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	copy = dup(p[0]);
	c.fd = p[0];
	loop_read(loop, &c.op, p[0], &b, 1);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(write(p[1], "xy", 2), 2);
	loop_timer_arm(loop, &s.timer, loop_now_ns() + 200 * NS_PER_MS);
	uint64_t before = cpu_ns();

	assert_int_equal(loop_run(loop), 0);
	assert_true(cpu_ns() - before < 100 * NS_PER_MS);
	close(copy);
	close(p[1]);
}

/* Cancellation */

static void cancel_before_and_after_submission(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	char b;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	loop_cancel(loop, &r.op); /* idle: nothing */

	loop_read(loop, &r.op, p[0], &b, 1);
	loop_cancel(loop, &r.op);
	loop_cancel(loop, &r.op);
	assert_int_equal(r.calls, 0);
	run_one(loop, &r);
	assert_int_equal(r.res, -ECANCELED);

	for (int nonblock = 0; nonblock < 2; nonblock++) {
		fcntl(p[0], F_SETFL, nonblock ? O_NONBLOCK : 0);
		loop_read(loop, &r.op, p[0], &b, 1);
		loop_stop(loop);
		assert_int_equal(loop_run(loop), 0);
		loop_cancel(loop, &r.op);
		loop_cancel(loop, &r.op);
		assert_int_equal(r.calls, 0);
		run_one(loop, &r);
		assert_int_equal(r.res, -ECANCELED);
	}

	/* the data is still there for the next one */
	assert_int_equal(write(p[1], "k", 1), 1);
	loop_read(loop, &r.op, p[0], &b, 1);
	run_one(loop, &r);
	assert_int_equal(r.res, 1);
	assert_int_equal(b, 'k');
	close(p[0]);
	close(p[1]);
}

/* Reads that race with their cancellation, over and over: one completion each, no byte lost. */
struct racing {
	struct loop_op op;
	struct loop_msg msg;
	struct loop *loop;
	int fd;
	char b;
	unsigned bytes, cancelled, rounds;
	bool in_flight;
};

enum { RACING_BYTES = 2000 };

static void racing_done(struct loop_op *op, int res)
{
	struct racing *r = container_of(op, struct racing, op);

	assert_true(r->in_flight);
	r->in_flight = false;
	if (res == 1)
		r->bytes++;
	else if (res == -ECANCELED)
		r->cancelled++;
	else
		fail();
	if (r->bytes == RACING_BYTES) {
		loop_stop(r->loop);
		return;
	}
	r->in_flight = true;
	loop_read(r->loop, &r->op, r->fd, &r->b, 1);
}

static void racing_cancel(struct loop_msg *m)
{
	struct racing *r = container_of(m, struct racing, msg);

	if (r->bytes == RACING_BYTES)
		return;
	if (r->rounds++ % 3 == 0) /* in the rounds between, the read may succeed */
		loop_cancel(r->loop, &r->op);
	loop_post(r->loop, m);
}

static void *feed(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < RACING_BYTES; i++)
		assert_int_equal(write(fd, "z", 1), 1);
	return NULL;
}

static void cancel_races_with_completion(void **state)
{
	struct loop *loop = loop_of(state);
	struct racing r = {.op.done = racing_done, .msg.fn = racing_cancel, .loop = loop};
	pthread_t t;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	r.fd = p[0];
	r.in_flight = true;
	loop_read(loop, &r.op, p[0], &r.b, 1);
	loop_post(loop, &r.msg);
	assert_int_equal(pthread_create(&t, NULL, feed, &p[1]), 0);
	assert_int_equal(loop_run(loop), 0);
	pthread_join(t, NULL);
	assert_false(r.in_flight);
	assert_int_equal(r.bytes, RACING_BYTES);
	close(p[0]);
	close(p[1]);
}

static void cancel_of_disk_io_completes_once(void **state)
{
	enum { N = 64 };
	struct loop *loop = loop_of(state);
	struct rec r[N];
	char b[512];
	struct iovec v = {b, sizeof(b)};
	int left = N, fd = temp_file();

	memset(b, 1, sizeof(b));
	for (int i = 0; i < N; i++) {
		r[i] = rec_new(loop, &left);
		loop_writev(loop, &r[i].op, fd, &v, 1, (uint64_t)i * sizeof(b));
		if (i % 3 == 0)
			loop_cancel(loop, &r[i].op);
	}
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(r[i].calls, 1);
		assert_int_equal(r[i].res, i % 3 ? (int)sizeof(b) : -ECANCELED);
	}
	close(fd);
}

/* Watches */

struct watching {
	struct loop_watch w;
	struct loop *loop;
	uint64_t sum, until;
	int stopped;
	bool unwatch;
};

static void watching_fn(struct loop_watch *w, uint64_t count)
{
	struct watching *t = container_of(w, struct watching, w);

	t->sum += count;
	if (t->sum < t->until)
		return;
	if (t->unwatch)
		loop_unwatch(w);
	else
		loop_stop(t->loop);
	assert_int_equal(t->stopped, 0); /* never from inside loop_unwatch() */
}

static void watching_stopped(struct loop_watch *w)
{
	struct watching *t = container_of(w, struct watching, w);

	t->stopped++;
	loop_stop(t->loop);
}

static struct watching watching_new(struct loop *loop, uint64_t until)
{
	return (struct watching){
	    .w = {.fn = watching_fn, .stopped = watching_stopped}, .loop = loop, .until = until};
}

enum { KICKS = 20000 };

static void *kick(void *arg)
{
	for (int i = 0; i < KICKS; i++)
		eventfd_write(*(int *)arg, 1);
	return NULL;
}

static void watch_counts_every_kick(struct loop *loop, int flags)
{
	struct watching t = watching_new(loop, KICKS);
	int fd = eventfd(0, EFD_CLOEXEC | flags);
	pthread_t thread;

	loop_watch(loop, &t.w, fd);
	assert_int_equal(pthread_create(&thread, NULL, kick, &fd), 0);
	assert_int_equal(loop_run(loop), 0);
	pthread_join(thread, NULL);
	assert_int_equal(t.sum, KICKS);

	loop_unwatch(&t.w);
	assert_int_equal(t.stopped, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
	close(fd);
}

static void watch_blocking_eventfd(void **state)
{
	watch_counts_every_kick(loop_of(state), 0);
}

static void watch_nonblocking_eventfd(void **state)
{
	watch_counts_every_kick(loop_of(state), EFD_NONBLOCK);
}

static void unwatch_from_its_callback(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1);
	int fd = eventfd(1, EFD_CLOEXEC);
	uint64_t count;

	t.unwatch = true;
	loop_watch(loop, &t.w, fd);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
	assert_int_equal(t.sum, 1);
	/* the descriptor is the caller's again */
	eventfd_write(fd, 5);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.sum, 1);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(count, 5);
	close(fd);
}

static void unwatch_before_running(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1);
	int fd = eventfd(1, EFD_CLOEXEC);

	loop_watch(loop, &t.w, fd);
	loop_unwatch(&t.w);
	loop_unwatch(&t.w);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
	assert_int_equal(t.sum, 0);
	close(fd);
}

/* A number that is used again for another descriptor is another descriptor. */
static void watch_again_after_close(void **state)
{
	struct loop *loop = loop_of(state);

	for (int i = 0; i < 50; i++) {
		struct watching t = watching_new(loop, 1);
		int fd = eventfd(0, EFD_CLOEXEC), copy = dup(fd);

		t.unwatch = i % 2;
		loop_watch(loop, &t.w, fd);
		eventfd_write(copy, 1);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(t.sum, 1);
		if (!t.unwatch) {
			loop_unwatch(&t.w);
			assert_int_equal(loop_run(loop), 0);
		}
		assert_int_equal(t.stopped, 1);
		close(fd);
		eventfd_write(copy, 1); /* nobody watches any more */
		loop_stop(loop);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(t.sum, 1);
		close(copy);
	}
}

static void watch_of_a_bad_descriptor_can_be_ended(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1);

	loop_watch(loop, &t.w, 9999);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	loop_unwatch(&t.w);
	assert_int_equal(t.stopped, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
}

/* Timers */

struct ticking {
	struct loop_timer timer;
	struct loop *loop;
	int id, *order, *n;
	uint64_t fired_ns;
	int again;
};

static void ticking_fn(struct loop_timer *tm)
{
	struct ticking *t = container_of(tm, struct ticking, timer);

	t->fired_ns = loop_now_ns();
	if (t->order)
		t->order[(*t->n)++] = t->id;
	if (t->again-- > 0)
		loop_timer_arm(t->loop, tm, t->fired_ns + NS_PER_MS);
	else if (t->id == 99)
		loop_stop(t->loop);
}

static void timers_fire_in_order_and_not_early(void **state)
{
	struct loop *loop = loop_of(state);
	static const int delay_ms[] = {30, 10, 20, 0, 10, 5};
	int order[8], n = 0;
	struct ticking t[7];
	uint64_t start = loop_now_ns(), at[7];

	for (int i = 0; i < 6; i++) {
		t[i] = (struct ticking){
		    .timer.fn = ticking_fn, .loop = loop, .id = i, .order = order, .n = &n};
		at[i] = start + (uint64_t)delay_ms[i] * NS_PER_MS;
		loop_timer_arm(loop, &t[i].timer, at[i]);
	}
	t[6] = (struct ticking){.timer.fn = ticking_fn, .loop = loop, .id = 99};
	loop_timer_arm(loop, &t[6].timer, start + 40 * NS_PER_MS);
	loop_timer_disarm(loop, &t[5].timer);
	loop_timer_disarm(loop, &t[5].timer);
	at[2] = start + 35 * NS_PER_MS;
	loop_timer_arm(loop, &t[2].timer, at[2]); /* moved */

	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(n, 5);
	assert_memory_equal(order, ((int[]){3, 1, 4, 0, 2}), 5 * sizeof(int));
	for (int i = 0; i < 5; i++)
		assert_true(t[i].fired_ns >= at[i]);
}

static void timer_arms_itself_again(void **state)
{
	struct loop *loop = loop_of(state);
	int order[16], n = 0;
	struct ticking t = {
	    .timer.fn = ticking_fn, .loop = loop, .id = 99, .order = order, .n = &n, .again = 9};

	loop_timer_arm(loop, &t.timer, 0); /* long due */
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(n, 10);
}

static void always_due_timer_lets_io_through(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	struct ticking t = {.timer.fn = ticking_fn, .loop = loop, .again = INT32_MAX};
	struct writer w = {.text = "t"};
	pthread_t th;
	int p[2];
	char b;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	w.fd = p[1];
	loop_timer_arm(loop, &t.timer, 0);
	loop_read(loop, &r.op, p[0], &b, 1);
	assert_int_equal(pthread_create(&th, NULL, write_text, &w), 0);
	run_one(loop, &r);
	pthread_join(th, NULL);
	loop_timer_disarm(loop, &t.timer);
	close(p[0]);
	close(p[1]);
}

/* Messages */

enum { POSTERS = 4, POSTS = 5000 };

struct posting {
	struct loop *loop;
	struct post {
		struct loop_msg msg;
		struct posting *p;
		int n;
	} posts[POSTS];
	int next;
	int *left;
};

static void post_fn(struct loop_msg *m)
{
	struct post *post = container_of(m, struct post, msg);

	assert_int_equal(post->n, post->p->next); /* in the order of its thread */
	post->p->next++;
	if (!--*post->p->left)
		loop_stop(post->p->loop);
}

static void *post_all(void *arg)
{
	struct posting *p = arg;

	for (int i = 0; i < POSTS; i++) {
		p->posts[i] = (struct post){.msg.fn = post_fn, .p = p, .n = i};
		loop_post(p->loop, &p->posts[i].msg);
	}
	return NULL;
}

static void posts_of_many_threads_arrive_in_order(void **state)
{
	struct loop *loop = loop_of(state);
	struct posting *p = calloc(POSTERS, sizeof(*p));
	int left = POSTERS * POSTS;
	pthread_t t[POSTERS];

	for (int i = 0; i < POSTERS; i++) {
		p[i].loop = loop;
		p[i].left = &left;
		assert_int_equal(pthread_create(&t[i], NULL, post_all, &p[i]), 0);
	}
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(p[i].next, POSTS);
	}
	free(p);
}

/* Each side waits for the other's message: a wake-up that is lost shows as a hang. */
struct pingpong {
	struct loop_msg msg;
	struct loop *loop, *other;
	struct pingpong *peer;
	int left;
};

static void pingpong_fn(struct loop_msg *m)
{
	struct pingpong *p = container_of(m, struct pingpong, msg);

	if (p->left-- > 0)
		loop_post(p->other, &p->peer->msg);
	else
		loop_stop(p->other);
	if (p->left < 0)
		loop_stop(p->loop);
}

static void *run_thread(void *arg)
{
	assert_int_equal(loop_run(arg), 0);
	return NULL;
}

static void two_loops_wake_each_other(void **state)
{
	struct fixture *f = *state;
	struct loop *a = loop_of(state), *b;
	struct loop_opts opts = {.backend = f->backend};
	struct err err = ERR_INIT;
	pthread_t t;

	assert_int_equal(loop_new(&opts, &b, &err), 0);
	struct pingpong pa = {.msg.fn = pingpong_fn, .loop = a, .other = b, .left = 20000};
	struct pingpong pb = {.msg.fn = pingpong_fn, .loop = b, .other = a, .left = 20000};

	pa.peer = &pb;
	pb.peer = &pa;
	loop_post(a, &pa.msg);
	assert_int_equal(pthread_create(&t, NULL, run_thread, b), 0);
	assert_int_equal(loop_run(a), 0);
	pthread_join(t, NULL);
	assert_int_equal(pa.left, -1);
	loop_free(b); /* by another thread than the one that ran it */
}

struct batch {
	struct loop_msg deferred;
	struct loop_op op[4];
	struct loop *loop;
	int done, signals, done_at_signal, again;
};

static void batch_signal(struct loop_msg *m)
{
	struct batch *b = container_of(m, struct batch, deferred);

	b->signals++;
	b->done_at_signal = b->done;
	if (b->again-- > 0)
		loop_defer(b->loop, m);
	else
		loop_stop(b->loop);
}

static struct batch *the_batch;

static void batch_done(struct loop_op *op, int res)
{
	(void)op;
	assert_int_equal(res, -ECANCELED);
	the_batch->done++;
	loop_defer(the_batch->loop, &the_batch->deferred);
	loop_defer(the_batch->loop, &the_batch->deferred);
}

static void defer_runs_once_for_a_batch(void **state)
{
	struct loop *loop = loop_of(state);
	struct batch b = {.deferred.fn = batch_signal, .loop = loop};
	char c;
	int p[2];

	the_batch = &b;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	for (int i = 0; i < 4; i++) {
		b.op[i].done = batch_done;
		loop_read(loop, &b.op[i], p[0], &c, 1);
		loop_cancel(loop, &b.op[i]);
	}
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(b.signals, 1);
	assert_int_equal(b.done_at_signal, 4);

	b.again = 3; /* deferring from a deferred call: again, and without sleeping */
	loop_defer(loop, &b.deferred);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(b.signals, 5);
	close(p[0]);
	close(p[1]);
}

/* Stopping, running again, freeing */

struct note {
	struct loop_msg msg;
	int calls;
};

static void note_fn(struct loop_msg *m)
{
	container_of(m, struct note, msg)->calls++;
}

static void stop_before_run_is_not_lost(void **state)
{
	struct loop *loop = loop_of(state);
	struct note n = {.msg.fn = note_fn};

	loop_post(loop, &n.msg);
	loop_stop(loop);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(n.calls, 1); /* posted before the stop: it ran */
}

static void *post_and_stop(void *arg)
{
	struct posting *p = arg;

	p->posts[0] = (struct post){.msg.fn = post_fn, .p = p};
	loop_post(p->loop, &p->posts[0].msg);
	loop_stop(p->loop);
	return NULL;
}

static void stop_of_a_sleeping_loop(void **state)
{
	struct loop *loop = loop_of(state);
	struct posting *p = calloc(1, sizeof(*p));

	p->loop = loop;
	for (int i = 0; i < 200; i++) {
		int left = 2;
		pthread_t t;

		p->next = 0;
		p->left = &left;
		assert_int_equal(pthread_create(&t, NULL, post_and_stop, p), 0);
		assert_int_equal(loop_run(loop), 0);
		pthread_join(t, NULL);
		assert_int_equal(left, 1);
	}
	free(p);
}

static void run_again_continues(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching w = watching_new(loop, 1);
	struct rec r = rec_new(loop, NULL), po = rec_new(loop, NULL);
	int fd = eventfd(0, EFD_CLOEXEC), p[2], q[2];
	char b;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(pipe2(q, O_CLOEXEC | O_NONBLOCK), 0);
	loop_read(loop, &r.op, p[0], &b, 1);
	loop_poll(loop, &po.op, q[0], POLLIN);
	loop_watch(loop, &w.w, fd);
	for (int i = 0; i < 3; i++) {
		loop_stop(loop);
		assert_int_equal(loop_run(loop), 0);
	}
	assert_int_equal(r.calls, 0);
	assert_int_equal(write(p[1], "r", 1), 1);
	run_one(loop, &r);
	assert_int_equal(r.res, 1);
	assert_int_equal(b, 'r');
	assert_int_equal(write(q[1], "r", 1), 1);
	run_one(loop, &po);
	assert_int_equal(po.res, POLLIN);
	eventfd_write(fd, 1);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(w.sum, 1);
	loop_unwatch(&w.w);
	assert_int_equal(loop_run(loop), 0);
	close(fd);
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(q[i]);
	}
}

/* The usual end of an I/O thread: it is stopped and joined, and another thread frees its loop. */
static void free_with_operations_in_flight(void **state)
{
	enum { N = 20 };
	struct fixture *f = *state;
	struct loop *loop = loop_of(state);
	struct rec rd[N], wr[N], never = rec_new(loop, NULL);
	struct watching watched = watching_new(loop, 1000), ended = watching_new(loop, 1000);
	struct note posted = {.msg.fn = note_fn}, deferred = {.msg.fn = note_fn};
	struct stopper s = {.timer.fn = stop_timer, .loop = loop};
	int fd = temp_file(), e1 = eventfd(0, EFD_CLOEXEC), e2 = eventfd(0, EFD_CLOEXEC), p[2];
	static char buf[4096];
	struct iovec v = {buf, sizeof(buf)};
	pthread_t t;
	char b[N];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	for (int i = 0; i < N; i++) {
		rd[i] = rec_new(loop, NULL);
		wr[i] = rec_new(loop, NULL);
		loop_read(loop, &rd[i].op, p[0], &b[i], 1);
		loop_writev(loop, &wr[i].op, fd, &v, 1, (uint64_t)i * sizeof(buf));
	}
	loop_watch(loop, &watched.w, e1);
	loop_watch(loop, &ended.w, e2);
	loop_timer_arm(loop, &s.timer, loop_now_ns() + 3600 * 1000 * NS_PER_MS);
	loop_stop(loop);
	assert_int_equal(pthread_create(&t, NULL, run_thread, loop), 0);
	pthread_join(t, NULL);

	loop_unwatch(&ended.w);
	loop_read(loop, &never.op, p[0], b, 1);
	loop_post(loop, &posted.msg);
	loop_defer(loop, &deferred.msg);
	f->loop = NULL;
	loop_free(loop);

	for (int i = 0; i < N; i++) {
		assert_int_equal(rd[i].calls, 1);
		assert_int_equal(rd[i].res, -ECANCELED);
		assert_int_equal(wr[i].calls, 1);
		assert_true(wr[i].res == sizeof(buf) || wr[i].res == -ECANCELED);
	}
	assert_int_equal(never.res, -ECANCELED);
	assert_int_equal(posted.calls, 1);
	assert_int_equal(deferred.calls, 1);
	assert_int_equal(ended.stopped, 1);
	assert_int_equal(watched.stopped, 0);
	close(fd);
	close(e1);
	close(e2);
	close(p[0]);
	close(p[1]);
}

static void free_without_running(void **state)
{
	struct fixture *f = *state;
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	char b;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	loop_read(loop, &r.op, p[0], &b, 1);
	f->loop = NULL;
	loop_free(loop);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.res, -ECANCELED);
	loop_free(NULL);
	close(p[0]);
	close(p[1]);
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int sig)
{
	(void)sig;
	signals_seen++;
}

static void *signal_and_write(void *arg)
{
	struct {
		pthread_t target;
		int fd;
	} *a = arg;

	for (int i = 0; i < 20; i++)
		pthread_kill(a->target, SIGUSR1);
	assert_int_equal(write(a->fd, "s", 1), 1);
	return NULL;
}

static void signals_do_not_end_the_loop(void **state)
{
	struct loop *loop = loop_of(state);
	struct sigaction sa = {.sa_handler = count_signal}, old;
	struct rec r = rec_new(loop, NULL);
	struct {
		pthread_t target;
		int fd;
	} a;
	pthread_t t;
	int p[2];
	char b;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	sigaction(SIGUSR1, &sa, &old);
	a.target = pthread_self();
	a.fd = p[1];
	loop_read(loop, &r.op, p[0], &b, 1);
	assert_int_equal(pthread_create(&t, NULL, signal_and_write, &a), 0);
	run_one(loop, &r);
	pthread_join(t, NULL);
	assert_int_equal(r.res, 1);
	assert_true(signals_seen > 0);
	sigaction(SIGUSR1, &old, NULL);
	close(p[0]);
	close(p[1]);
}

/* Choosing the backend */

static void backend_names(void **state)
{
	enum loop_backend b = LOOP_EPOLL;

	(void)state;
	assert_int_equal(loop_backend_parse("auto", &b), 0);
	assert_int_equal(b, LOOP_AUTO);
	assert_int_equal(loop_backend_parse("io_uring", &b), 0);
	assert_int_equal(b, LOOP_URING);
	assert_int_equal(loop_backend_parse("epoll", &b), 0);
	assert_int_equal(b, LOOP_EPOLL);
	assert_int_equal(loop_backend_parse("kqueue", &b), -EINVAL);
	assert_int_equal(b, LOOP_EPOLL);
}

static void bad_options_are_refused(void **state)
{
	struct loop_opts odd = {.entries = 100}, crowd = {.backend = LOOP_EPOLL, .workers = 1000};
	struct err err = ERR_INIT;
	struct loop *loop = NULL;

	(void)state;
	assert_int_equal(loop_new(&odd, &loop, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "power of two"));
	err.code = 0;
	assert_int_equal(loop_new(&crowd, &loop, &err), -EINVAL);
	assert_null(loop);
}

/* As a container's filter does. */
static void refuse_io_uring(void)
{
	struct sock_filter f[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(f), .filter = f};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &prog))
		_exit(77);
}

static int choose_where_refused(void)
{
	struct loop_opts force = {.backend = LOOP_URING};
	struct err err = ERR_INIT;
	struct loop *loop = NULL;

	refuse_io_uring();
	if (loop_new(&force, &loop, &err) != -EPERM || !strstr(err.msg, "epoll"))
		return 1;
	if (loop_new(NULL, &loop, NULL) || loop_backend(loop) != LOOP_EPOLL)
		return 2;
	loop_free(loop);
	return 0;
}

static void auto_falls_back_to_epoll(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (!pid)
		_exit(choose_where_refused());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("SKIP: no seccomp here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define BOTH(fn)                                              \
	{#fn "/io_uring", fn, setup_uring, teardown, NULL},   \
	{                                                     \
#fn "/epoll", fn, setup_epoll, teardown, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(file_io_round_trip),
	    BOTH(errors_are_passed_up),
	    BOTH(more_than_the_ring_holds),
	    BOTH(blocking_pipe),
	    BOTH(nonblocking_pipe),
	    BOTH(write_more_than_a_pipe_holds),
	    BOTH(write_more_than_a_socket_holds),
	    BOTH(write_without_reader_is_epipe),
	    BOTH(read_and_write_on_one_socket),
	    BOTH(two_reads_on_one_pipe),
	    BOTH(many_descriptors),
	    BOTH(accept_and_pass_a_descriptor),
	    BOTH(poll_reports_events),
	    BOTH(regular_file_as_stream),
	    BOTH(blocking_terminal),
	    BOTH(nonblocking_terminal),
	    BOTH(closed_in_callback_leaves_nothing),
	    BOTH(cancel_before_and_after_submission),
	    BOTH(cancel_races_with_completion),
	    BOTH(cancel_of_disk_io_completes_once),
	    BOTH(watch_blocking_eventfd),
	    BOTH(watch_nonblocking_eventfd),
	    BOTH(unwatch_from_its_callback),
	    BOTH(unwatch_before_running),
	    BOTH(watch_again_after_close),
	    BOTH(watch_of_a_bad_descriptor_can_be_ended),
	    BOTH(timers_fire_in_order_and_not_early),
	    BOTH(timer_arms_itself_again),
	    BOTH(always_due_timer_lets_io_through),
	    BOTH(posts_of_many_threads_arrive_in_order),
	    BOTH(two_loops_wake_each_other),
	    BOTH(defer_runs_once_for_a_batch),
	    BOTH(stop_before_run_is_not_lost),
	    BOTH(stop_of_a_sleeping_loop),
	    BOTH(run_again_continues),
	    BOTH(free_with_operations_in_flight),
	    BOTH(free_without_running),
	    BOTH(signals_do_not_end_the_loop),
	    cmocka_unit_test(backend_names),
	    cmocka_unit_test(bad_options_are_refused),
	    cmocka_unit_test(auto_falls_back_to_epoll),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
