/* base/loop: pipes, sockets, terminals and regular files as streams, over both backends. */
#include "tests/unit/loop_fixture.h"

#include <pty.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

/* Streams */

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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
