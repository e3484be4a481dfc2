/*
 * control/console, control/tty, control/escape: the guest's console on pipes, sockets, files and a
 * terminal. The serial port is a fake that records; both backends of the loop are used.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/terminal/console.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h>

#define DEADLINE_S    20
#define OUT_BYTES_MAX (256 * 1024)
#define CTRL_A	      "\001"

/* ---- a serial port that records ---------------------------------------------------------------
 */

struct uart {
	const struct uart_sink *sink;
	/* output: out[sent..len) is still to go */
	uint8_t out[OUT_BYTES_MAX];
	size_t out_len, out_sent;
	bool out_dead;
	/* input */
	uint8_t in[OUT_BYTES_MAX];
	size_t in_len;
	size_t room; /* how much the guest takes before it reads again */
	unsigned breaks;
};

void uart_flush(struct uart *uart)
{
	while (uart->out_sent < uart->out_len && !uart->out_dead) {
		long n = uart->sink->write(uart->sink->ctx, uart->out + uart->out_sent,
					   uart->out_len - uart->out_sent);

		if (n == -EAGAIN)
			return;
		uart->out_dead = n < 0;
		if (n > 0)
			uart->out_sent += (size_t)n;
	}
}

void uart_sink_ready(struct uart *uart)
{
	uart_flush(uart);
}

size_t uart_room(struct uart *uart)
{
	return uart->room;
}

size_t uart_feed(struct uart *uart, const void *buf, size_t len)
{
	size_t n = MIN(len, MIN(uart->room, sizeof(uart->in) - uart->in_len));

	memcpy(uart->in + uart->in_len, buf, n);
	uart->in_len += n;
	uart->room -= n;
	return n;
}

void uart_break(struct uart *uart)
{
	uart->breaks++;
}

/* ---- bench ------------------------------------------------------------------------------------
 */

struct bench {
	struct loop *loop;
	struct console *console;
	struct uart uart;
	struct loop_timer tick;
	unsigned quits, powers;
	bool (*until)(struct bench *b);
	void (*each)(struct bench *b);
	uint64_t deadline_ns;
	bool timed_out;
};

static void bench_action(void *ctx, enum escape_action action)
{
	struct bench *b = ctx;

	if (action == ESCAPE_QUIT)
		b->quits++;
	else
		b->powers++;
}

static void bench_open(struct bench *b, enum loop_backend backend, int in_fd, int out_fd)
{
	struct loop_opts opts = {.backend = backend, .entries = 16};
	struct console_callbacks callbacks = {.action = bench_action, .ctx = b};

	memset(b, 0, sizeof(*b));
	b->uart.room = 16;
	assert_int_equal(loop_new(&opts, &b->loop, NULL), 0);
	assert_int_equal(console_new(b->loop, in_fd, out_fd, &callbacks, &b->console, NULL), 0);
	b->uart.sink = console_sink(b->console);
}

static void bench_close(struct bench *b)
{
	console_close(b->console);
	loop_free(b->loop);
	console_free(b->console);
}

static void bench_tick(struct loop_timer *t)
{
	struct bench *b = container_of(t, struct bench, tick);

	if (b->each)
		b->each(b);
	b->timed_out = loop_now_ns() > b->deadline_ns;
	if (b->until(b) || b->timed_out)
		loop_stop(b->loop);
	else
		loop_timer_arm(b->loop, t, loop_now_ns() + 200000);
}

/* Runs the loop until the condition holds, looking (and doing `each`) every 0.2 ms. */
static bool bench_run(struct bench *b, bool (*until)(struct bench *b),
		      void (*each)(struct bench *b))
{
	b->until = until;
	b->each = each;
	b->tick.fn = bench_tick;
	b->deadline_ns = loop_now_ns() + DEADLINE_S * UINT64_C(1000000000);
	loop_timer_arm(b->loop, &b->tick, loop_now_ns());
	return loop_run(b->loop) == 0 && !b->timed_out;
}

static void pattern(uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(i * 7 + i / 251);
}

static void set_output(struct bench *b, size_t len)
{
	pattern(b->uart.out, len);
	b->uart.out_len = len;
	uart_flush(&b->uart);
}

/* ---- output -----------------------------------------------------------------------------------
 */

static int reader_fd;
static uint8_t got[OUT_BYTES_MAX];
static size_t ngot;

static void read_some(struct bench *b)
{
	ssize_t n = recv(reader_fd, got + ngot, 1000, MSG_DONTWAIT);

	(void)b;
	if (n < 0 && errno == ENOTSOCK) {
		struct pollfd p = {.fd = reader_fd, .events = POLLIN};

		n = poll(&p, 1, 0) > 0 ? read(reader_fd, got + ngot, 1000) : 0;
	}
	if (n > 0)
		ngot += (size_t)n;
}

static bool got_all(struct bench *b)
{
	return ngot == b->uart.out_len;
}

/* A reader that is slower than the guest gets everything, in order. */
static void slow_reader(enum loop_backend backend, int rd, int wr)
{
	static struct bench b;
	int flags = fcntl(wr, F_GETFL);

	bench_open(&b, backend, -1, wr);
	console_connect(b.console, &b.uart);
	reader_fd = rd;
	ngot = 0;
	set_output(&b, OUT_BYTES_MAX);
	assert_true(b.uart.out_sent < b.uart.out_len); /* the sink pushed back, and did not wait */
	assert_true(bench_run(&b, got_all, read_some));
	assert_memory_equal(got, b.uart.out, OUT_BYTES_MAX);
	assert_int_equal(fcntl(wr, F_GETFL), flags); /* others share this descriptor */
	bench_close(&b);
	close(rd);
	close(wr);
}

static void output_to_slow_pipe(void **state)
{
	for (enum loop_backend backend = LOOP_URING; backend <= LOOP_EPOLL; backend++) {
		int fd[2];

		(void)state;
		assert_int_equal(pipe(fd), 0);
		slow_reader(backend, fd[0], fd[1]);
	}
}

static void output_to_slow_socket(void **state)
{
	for (enum loop_backend backend = LOOP_URING; backend <= LOOP_EPOLL; backend++) {
		int fd[2];

		(void)state;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		slow_reader(backend, fd[0], fd[1]);
	}
}

/* Where the pipe cannot be opened anew (here: no descriptor is left) writes go through the loop. */
static void output_to_slow_pipe_through_loop(void **state)
{
	struct rlimit limit, none;
	static struct bench b;
	int fd[2];

	(void)state;
	for (enum loop_backend backend = LOOP_URING; backend <= LOOP_EPOLL; backend++) {
		struct console_callbacks callbacks = {.action = bench_action, .ctx = &b};
		struct console *console;

		assert_int_equal(pipe(fd), 0);
		bench_open(&b, backend, -1, STDERR_FILENO);
		getrlimit(RLIMIT_NOFILE, &limit);
		none = limit;
		none.rlim_cur = 3;
		setrlimit(RLIMIT_NOFILE, &none);
		assert_int_equal(console_new(b.loop, -1, fd[1], &callbacks, &console, NULL), 0);
		setrlimit(RLIMIT_NOFILE, &limit);
		console_close(b.console);
		console_free(b.console);
		b.console = console;
		b.uart.sink = console_sink(console);
		console_connect(console, &b.uart);
		reader_fd = fd[0];
		ngot = 0;
		set_output(&b, OUT_BYTES_MAX);
		assert_true(bench_run(&b, got_all, read_some));
		assert_memory_equal(got, b.uart.out, OUT_BYTES_MAX);
		bench_close(&b);
		close(fd[0]);
		close(fd[1]);
	}
}

static void reader_that_left_ends_output_only(void **state)
{
	static struct bench b;
	int fd[2];

	(void)state;
	assert_int_equal(pipe(fd), 0);
	bench_open(&b, LOOP_AUTO, -1, fd[1]);
	close(fd[0]);
	console_connect(b.console, &b.uart);
	set_output(&b, 10);
	assert_true(b.uart.out_dead);
	bench_close(&b);
	close(fd[1]);
}

static void *read_to_end(void *arg)
{
	struct timespec pause = {.tv_nsec = 1000000};

	(void)arg;
	for (;;) {
		ssize_t n = read(reader_fd, got + ngot, 5000);

		if (n <= 0)
			return NULL;
		ngot += (size_t)n;
		nanosleep(&pause, NULL); /* a slow reader, not a wait for something */
	}
}

/* What is in the serial port when the machine ends still reaches a reader that is slow. */
static void drain_hands_over_the_rest(void **state)
{
	for (enum loop_backend backend = LOOP_URING; backend <= LOOP_EPOLL; backend++) {
		static struct bench b;
		pthread_t thread;
		int fd[2];

		(void)state;
		assert_int_equal(pipe(fd), 0);
		bench_open(&b, backend, -1, fd[1]);
		console_connect(b.console, &b.uart);
		set_output(&b, OUT_BYTES_MAX);
		reader_fd = fd[0];
		ngot = 0;
		pthread_create(&thread, NULL, read_to_end, NULL);
		console_drain(b.console, 5000);
		bench_close(&b);
		close(fd[1]);
		pthread_join(thread, NULL);
		assert_int_equal(ngot, OUT_BYTES_MAX);
		assert_memory_equal(got, b.uart.out, OUT_BYTES_MAX);
		close(fd[0]);
	}
}

static void drain_gives_up_on_a_stalled_reader(void **state)
{
	static struct bench b;
	uint64_t start_ns;
	int fd[2];

	(void)state;
	assert_int_equal(pipe(fd), 0);
	bench_open(&b, LOOP_AUTO, -1, fd[1]);
	console_connect(b.console, &b.uart);
	set_output(&b, OUT_BYTES_MAX);
	start_ns = loop_now_ns();
	console_drain(b.console, 20);
	assert_true(loop_now_ns() - start_ns < UINT64_C(5000000000));
	bench_close(&b);
	close(fd[0]);
	close(fd[1]);
}

/* ---- input from a pipe or a file --------------------------------------------------------------
 */

static size_t expected_in;

static bool fed_all(struct bench *b)
{
	return b->uart.in_len == expected_in;
}

static void guest_reads(struct bench *b)
{
	if (!b->uart.room) {
		b->uart.room = 100;
		b->uart.sink->drained(b->uart.sink->ctx);
	}
}

static void input_comes_as_the_guest_takes_it(void **state)
{
	static uint8_t bytes[40000];
	char path[] = "/tmp/test_console.XXXXXX";
	autofd int null = open("/dev/null", O_WRONLY);

	(void)state;
	pattern(bytes, sizeof(bytes)); /* has every value, Ctrl-A too: no escapes here */
	for (int kind = 0; kind < 4; kind++) {
		static struct bench b;
		int fd[2] = {-1, -1};

		if (kind < 2) {
			assert_int_equal(pipe(fd), 0);
			assert_int_equal(write(fd[1], bytes, sizeof(bytes)), sizeof(bytes));
			close(fd[1]);
		} else {
			fd[0] = mkstemp(path);
			unlink(path);
			memset(path + sizeof(path) - 7, 'X', 6);
			assert_int_equal(pwrite(fd[0], bytes, sizeof(bytes), 0), sizeof(bytes));
		}
		bench_open(&b, kind % 2 ? LOOP_EPOLL : LOOP_URING, fd[0], null);
		console_connect(b.console, &b.uart);
		expected_in = sizeof(bytes);
		assert_true(bench_run(&b, fed_all, guest_reads));
		assert_memory_equal(b.uart.in, bytes, sizeof(bytes));
		assert_int_equal(b.quits + b.powers + b.uart.breaks, 0);
		bench_close(&b);
		close(fd[0]);
	}
}

/* ---- escapes ----------------------------------------------------------------------------------
 */

static void escape_keys(void **state)
{
	static const struct {
		char key;
		enum escape_action action;
		const char *out;
	} after[] = {
	    {'x', ESCAPE_QUIT, ""},	   {'X', ESCAPE_QUIT, ""},
	    {'b', ESCAPE_BREAK, ""},	   {'p', ESCAPE_POWER, ""},
	    {'?', ESCAPE_HELP, ""},	   {'a', ESCAPE_NONE, CTRL_A},
	    {'\001', ESCAPE_NONE, CTRL_A}, {'z', ESCAPE_NONE, CTRL_A "z"},
	};
	struct escape escape = {0};
	unsigned char out[2];
	size_t n;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(after); i++) {
		assert_int_equal(escape_key(&escape, 'x', out, &n), ESCAPE_NONE);
		assert_int_equal(n, 1);
		assert_int_equal(out[0], 'x');
		assert_int_equal(escape_key(&escape, ESCAPE_KEY, out, &n), ESCAPE_NONE);
		assert_int_equal(n, 0);
		assert_int_equal(escape_key(&escape, (unsigned char)after[i].key, out, &n),
				 after[i].action);
		assert_int_equal(n, strlen(after[i].out));
		assert_memory_equal(out, after[i].out, n);
	}
}

/* ---- a terminal: a child has it as its own, the test types and looks ----------------------------
 */

static struct termios before;

/* Forks a child whose controlling terminal is a new pty; the child gets 0. */
static pid_t pty_fork(int *ret_master)
{
	int slave;
	pid_t pid;

	assert_int_equal(openpty(ret_master, &slave, NULL, NULL, NULL), 0);
	tcgetattr(*ret_master, &before); /* while nobody can have changed it */
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(*ret_master);
		assert_int_equal(login_tty(slave), 0);
		return 0;
	}
	close(slave);
	return pid;
}

/* Reads what the child prints until `word` comes; nothing within the deadline fails. */
static void expect(int master, const char *word)
{
	char text[8192];
	size_t len = 0;

	for (;;) {
		struct pollfd p = {.fd = master, .events = POLLIN};
		ssize_t n;

		assert_int_equal(poll(&p, 1, DEADLINE_S * 1000), 1);
		n = read(master, text + len, sizeof(text) - 1 - len);
		assert_true(n > 0);
		len += (size_t)n;
		text[len] = '\0';
		if (strstr(text, word))
			return;
	}
}

static bool is_raw(int master)
{
	struct termios t;

	tcgetattr(master, &t);
	return !(t.c_lflag & (ICANON | ECHO | ISIG));
}

static void assert_restored(int master)
{
	struct termios t;

	tcgetattr(master, &t);
	assert_int_equal(t.c_lflag, before.c_lflag);
	assert_int_equal(t.c_iflag, before.c_iflag);
	assert_int_equal(t.c_oflag, before.c_oflag);
}

static int wait_status(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static bool quit_typed(struct bench *b)
{
	return b->quits > 0;
}

static void type(int master, const char *keys)
{
	assert_int_equal(write(master, keys, strlen(keys)), strlen(keys));
}

static void terminal_is_raw_and_put_back(void **state)
{
	static struct bench b;
	int master;
	pid_t pid = pty_fork(&master);

	(void)state;
	if (!pid) {
		bench_open(&b, LOOP_AUTO, STDIN_FILENO, STDOUT_FILENO);
		b.uart.room = 100;
		console_connect(b.console, &b.uart);
		strcpy((char *)b.uart.out, "hello\n");
		b.uart.out_len = 6;
		uart_flush(&b.uart);
		assert_true(bench_run(&b, quit_typed, NULL));
		bench_close(&b);
		/* typed: ^C Ctrl-A a, break, power, quit */
		_exit(b.uart.in_len == 2 && !memcmp(b.uart.in, "\003\001", 2) &&
			      b.uart.breaks == 1 && b.powers == 1
			  ? 42
			  : 1);
	}
	expect(master, "hello\n");
	assert_true(is_raw(master));
	type(master, "\003" CTRL_A "a" CTRL_A "b" CTRL_A "p" CTRL_A "x");
	assert_int_equal(WEXITSTATUS(wait_status(pid)), 42);
	assert_restored(master);
	close(master);
}

#define PASTES 40

/* The child's last word: whatever was typed meanwhile comes to a guest that reads again. */
static bool all_typed_arrives(struct bench *b, size_t len)
{
	expected_in = len;
	if (!bench_run(b, fed_all, guest_reads))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (b->uart.in[i] != 'k')
			return false;
	}
	return true;
}

/* A guest that reads nothing cannot keep the user from leaving, and a long paste is kept for it. */
static void escape_works_when_the_guest_hangs(void **state)
{
	static struct bench b;
	char keys[1000];
	int master;
	pid_t pid = pty_fork(&master);

	(void)state;
	if (!pid) {
		bench_open(&b, LOOP_AUTO, STDIN_FILENO, STDOUT_FILENO);
		b.uart.room = 0;
		console_connect(b.console, &b.uart);
		strcpy((char *)b.uart.out, "ready");
		b.uart.out_len = 5;
		uart_flush(&b.uart);
		_exit(bench_run(&b, quit_typed, NULL) &&
			      all_typed_arrives(&b, PASTES * (sizeof(keys) - 1))
			  ? 42
			  : 1);
	}
	expect(master, "ready");
	memset(keys, 'k', sizeof(keys) - 1);
	keys[sizeof(keys) - 1] = '\0';
	for (int i = 0; i < PASTES; i++) {
		struct pollfd p = {.fd = master, .events = POLLOUT};

		assert_int_equal(poll(&p, 1, DEADLINE_S * 1000), 1);
		type(master, keys);
	}
	type(master, CTRL_A "x");
	assert_int_equal(WEXITSTATUS(wait_status(pid)), 42);
	close(master);
}

static void crash_puts_the_terminal_back(void **state)
{
	static const int signals[] = {SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		int master, status;
		char go;
		pid_t pid = pty_fork(&master);

		if (!pid) {
			struct rlimit none = {0, 0};

			setrlimit(RLIMIT_CORE, &none);
			signal(signals[i], SIG_DFL); /* not the test runner's handlers */
			tty_adopt(STDIN_FILENO);
			tty_raw();
			if (write(STDOUT_FILENO, "raw", 3) == 3 && read(STDIN_FILENO, &go, 1) == 1)
				raise(signals[i]);
			_exit(1);
		}
		expect(master, "raw");
		assert_true(is_raw(master));
		type(master, "!");
		status = wait_status(pid);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), signals[i]);
		assert_restored(master);
		close(master);
	}
}

static void background_leaves_the_terminal_alone(void **state)
{
	int master;
	pid_t pid = pty_fork(&master);

	(void)state;
	if (!pid) {
		pid_t child = fork();
		int status;

		if (!child) {
			sigset_t set;

			sigemptyset(&set);
			sigaddset(&set, SIGTTOU);
			sigprocmask(SIG_BLOCK, &set, NULL);
			setpgid(0, 0);
			tty_adopt(STDIN_FILENO);
			_exit(!tty_foreground() && tty_raw() == 0 ? 42 : 1);
		}
		waitpid(child, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	assert_int_equal(WEXITSTATUS(wait_status(pid)), 42);
	assert_restored(master);
	close(master);
}

/* ---- --console file: ----------------------------------------------------------------------------
 */

static bool none_taken(const void *ctx, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return false;
}

static bool all_taken(const void *ctx, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return true;
}

static void console_file(void **state)
{
	char dir[] = "/tmp/test_console.XXXXXX", path[64], fifo[64];
	struct err err = ERR_INIT;
	struct stat st;
	bool created;
	int fd = -1;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	assert_int_equal(console_open_file(path, none_taken, NULL, &fd, &created, &err), 0);
	assert_true(created);
	assert_int_equal(write(fd, "old", 3), 3);
	close(fd);

	/* an older file is not touched by opening it */
	assert_int_equal(console_open_file(path, none_taken, NULL, &fd, &created, &err), 0);
	assert_false(created);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 3);
	close(fd);

	assert_int_equal(console_open_file(path, all_taken, NULL, &fd, &created, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "also the kernel, the initrd or a disk"));

	err.code = 0;
	assert_int_equal(console_open_file(dir, none_taken, NULL, &fd, &created, &err), -EISDIR);
	assert_non_null(strstr(err.msg, dir));

	err.code = 0;
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(console_open_file(fifo, none_taken, NULL, &fd, &created, &err), -ENXIO);
	assert_non_null(strstr(err.msg, "start the reader first"));
	unlink(fifo);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(output_to_slow_pipe),
	    cmocka_unit_test(output_to_slow_socket),
	    cmocka_unit_test(output_to_slow_pipe_through_loop),
	    cmocka_unit_test(reader_that_left_ends_output_only),
	    cmocka_unit_test(drain_hands_over_the_rest),
	    cmocka_unit_test(drain_gives_up_on_a_stalled_reader),
	    cmocka_unit_test(input_comes_as_the_guest_takes_it),
	    cmocka_unit_test(escape_keys),
	    cmocka_unit_test(terminal_is_raw_and_put_back),
	    cmocka_unit_test(escape_works_when_the_guest_hangs),
	    cmocka_unit_test(crash_puts_the_terminal_back),
	    cmocka_unit_test(background_leaves_the_terminal_alone),
	    cmocka_unit_test(console_file),
	};

	signal(SIGPIPE, SIG_IGN); /* as main() does */
	return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
