/*
 * base/loop: disk I/O, cancellation, running and ending, the choice of a backend. Streams are in
 * test_loop_stream.c, watches, timers and messages in test_loop_event.c.
 */
#include "base/loop_ring.h"
#include "tests/unit/loop_fixture.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

struct note {
	struct loop_msg msg;
	int calls;
};

static void note_fn(struct loop_msg *m)
{
	container_of(m, struct note, msg)->calls++;
}

/* Stopping, running again, freeing */

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

static void run_again_continues(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching w = watching_new(loop, 1);
	struct rec r = rec_new(loop, NULL), po = rec_new(loop, NULL);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), p[2], q[2];
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
	assert_int_equal(w.calls, 1);
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
	int fd = temp_file(), e1 = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	    e2 = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), p[2];
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

/* What the loop never does the ring cannot be made to do, whoever writes to its memory. */
static void ring_refuses_other_operations(void **state)
{
	struct err err = ERR_INIT;
	struct io_uring_cqe *cqe;
	struct io_uring ring;

	(void)state;
	if (loop_ring_new(&ring, 8, LOOP_USE_ALL, &err)) {
		print_message("SKIP: this kernel refuses io_uring\n");
		skip();
	}
	assert_int_equal(loop_ring_enable(&ring), 0);
	io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	assert_int_equal(io_uring_submit_and_wait(&ring, 1), 1);
	assert_int_equal(io_uring_peek_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, -EACCES);
	io_uring_cqe_seen(&ring, cqe);
	assert_true(io_uring_register_files(&ring, (int[]){0}, 1) < 0);
	io_uring_queue_exit(&ring);
}

/* A loop for files has no sockets, and one for streams writes to no disk. */
static void rings_are_for_their_use(void **state)
{
	static const struct {
		enum loop_use use;
		int send, writev; /* of a descriptor that is not open */
	} cases[] = {
	    {LOOP_USE_ALL, -EBADF, -EBADF},
	    {LOOP_USE_FILES, -EACCES, -EBADF},
	    {LOOP_USE_STREAMS, -EBADF, -EACCES},
	};
	struct iovec iov = {.iov_base = "x", .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = ERR_INIT;
		struct io_uring_cqe *cqe;
		struct io_uring ring;

		if (loop_ring_new(&ring, 8, cases[i].use, &err)) {
			print_message("SKIP: this kernel refuses io_uring\n");
			skip();
		}
		assert_int_equal(loop_ring_enable(&ring), 0);
		for (int n = 0; n < 2; n++) {
			if (n)
				io_uring_prep_writev(io_uring_get_sqe(&ring), 1000, &iov, 1, 0);
			else
				io_uring_prep_sendmsg(io_uring_get_sqe(&ring), 1000, &msg, 0);
			assert_int_equal(io_uring_submit_and_wait(&ring, 1), 1);
			assert_int_equal(io_uring_peek_cqe(&ring, &cqe), 0);
			assert_int_equal(cqe->res, n ? cases[i].writev : cases[i].send);
			io_uring_cqe_seen(&ring, cqe);
		}
		io_uring_queue_exit(&ring);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(file_io_round_trip),
	    BOTH(errors_are_passed_up),
	    BOTH(more_than_the_ring_holds),
	    BOTH(cancel_before_and_after_submission),
	    BOTH(cancel_races_with_completion),
	    BOTH(cancel_of_disk_io_completes_once),
	    BOTH(stop_before_run_is_not_lost),
	    BOTH(run_again_continues),
	    BOTH(free_with_operations_in_flight),
	    BOTH(free_without_running),
	    BOTH(signals_do_not_end_the_loop),
	    cmocka_unit_test(backend_names),
	    cmocka_unit_test(bad_options_are_refused),
	    cmocka_unit_test(auto_falls_back_to_epoll),
	    cmocka_unit_test(ring_refuses_other_operations),
	    cmocka_unit_test(rings_are_for_their_use),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
