/* control/agent: the ways to the agent, against a socket that answers as the test says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/agent/connect.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WATCHDOG_S 60
#define LONG_NS	   UINT64_C(30000000000)
#define SHORT_NS   UINT64_C(50000000)

static char dir[] = "/tmp/test_agent_connect.XXXXXX";
static char path[sizeof(dir) + 8];

/* The built-in device, for one connection. */
struct device {
	int listen_fd;
	const char *answer; /* NULL: none; "": closes */
	char got[64];	    /* the line that came */
	int fd;
	pthread_t thread;
};

struct outcome {
	struct loop *loop;
	int fd, calls;
	struct err err;
};

static void *serve(void *arg)
{
	struct device *d = arg;
	size_t n = 0;

	d->fd = accept(d->listen_fd, NULL, NULL);
	while (n < sizeof(d->got) - 1 && read(d->fd, d->got + n, 1) == 1 && d->got[n] != '\n')
		n++;
	/* in two pieces, as a stream may */
	for (size_t i = 0; d->answer && d->answer[i]; i++)
		if (write(d->fd, d->answer + i, 1) != 1)
			break;
	if (d->answer && !d->answer[0])
		shutdown(d->fd, SHUT_RDWR);
	return NULL;
}

static void device_open(struct device *d, const char *answer)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	*d = (struct device){.answer = answer, .fd = -1};
	strcpy(a.sun_path, path);
	unlink(path);
	d->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(d->listen_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(d->listen_fd, 4), 0);
	assert_int_equal(pthread_create(&d->thread, NULL, serve, d), 0);
}

static void device_close(struct device *d)
{
	pthread_join(d->thread, NULL);
	close(d->fd);
	close(d->listen_fd);
}

static void on_done(void *ctx, int fd, const struct err *err)
{
	struct outcome *o = ctx;

	o->calls++;
	o->fd = fd;
	o->err = *err;
	loop_stop(o->loop);
}

static struct outcome try(enum agent_way way, uint64_t timeout_ns)
{
	struct agent_address address = {.way = way, .path = path, .port = AGENT_PORT};
	struct outcome o = {.fd = -1};
	struct agent_connect *c;

	assert_int_equal(loop_new(NULL, &o.loop, NULL), 0);
	assert_int_equal(agent_connect(o.loop, &address, timeout_ns, on_done, &o, &c, NULL), 0);
	assert_int_equal(o.calls, 0);
	assert_int_equal(loop_run(o.loop), 0);
	loop_free(o.loop);
	assert_int_equal(o.calls, 1);
	return o;
}

static void the_built_in_device_is_asked_for_the_port(void **state)
{
	struct device d;
	struct outcome o;
	char c = 0;

	(void)state;
	device_open(&d, "OK 1073741824\n");
	o = try(AGENT_BY_BUILTIN, LONG_NS);
	device_close(&d);
	assert_true(o.fd >= 0);
	assert_string_equal(d.got, "CONNECT 8888\n");
	assert_int_equal(read(o.fd, &c, 1), 0); /* the stream, which has ended */
	close(o.fd);
}

static void a_plain_socket_is_taken_as_it_is(void **state)
{
	struct device d;
	struct outcome o;

	(void)state;
	device_open(&d, "");
	o = try(AGENT_BY_UNIX, LONG_NS);
	assert_true(o.fd >= 0);
	assert_int_equal(write(o.fd, "x\n", 2), 2);
	device_close(&d);
	assert_string_equal(d.got, "x\n");
	close(o.fd);
}

static void other_answers_are_refusals(void **state)
{
	static const struct {
		const char *answer;
		int error;
	} cases[] = {
	    {"", ECONNREFUSED}, {"NO\n", EPROTO},
	    {"OK\n", EPROTO},	{"OK 5\nand more", EPROTO},
	    {"\n", EPROTO},	{"OK 11111111111111111111111111111111111111111111", EPROTO},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct device d;
		struct outcome o;

		device_open(&d, cases[i].answer);
		o = try(AGENT_BY_BUILTIN, LONG_NS);
		device_close(&d);
		if (o.fd >= 0) /* what came with the line may come after it */
			close(o.fd);
		else
			assert_int_equal(o.fd, -cases[i].error);
		assert_true(o.fd < 0 || strchr(cases[i].answer, 'm'));
		assert_true(o.fd >= 0 || o.err.msg[0]);
	}
}

static void a_guest_that_does_not_answer_is_given_up(void **state)
{
	struct device d;
	struct outcome o;

	(void)state;
	device_open(&d, NULL);
	o = try(AGENT_BY_BUILTIN, SHORT_NS);
	device_close(&d);
	assert_int_equal(o.fd, -ETIMEDOUT);
	assert_non_null(strstr(o.err.msg, "does not answer"));
}

static void stop(struct loop_msg *m)
{
	(void)m;
}

static void cancelled_it_does_not_call(void **state)
{
	struct agent_address address = {.way = AGENT_BY_BUILTIN, .path = path, .port = 1};
	struct outcome o = {.fd = -1};
	struct loop_msg msg = {.fn = stop};
	struct agent_connect *c;
	struct device d;

	(void)state;
	device_open(&d, NULL);
	assert_int_equal(loop_new(NULL, &o.loop, NULL), 0);
	assert_int_equal(agent_connect(o.loop, &address, LONG_NS, on_done, &o, &c, NULL), 0);
	agent_connect_cancel(c);
	for (int i = 0; i < 4; i++) {
		loop_post(o.loop, &msg);
		loop_stop(o.loop);
		assert_int_equal(loop_run(o.loop), 0);
	}
	loop_free(o.loop);
	device_close(&d);
	assert_int_equal(o.calls, 0);
}

static void bad_addresses_are_told_at_once(void **state)
{
	char longer[300];
	struct agent_address address = {.way = AGENT_BY_UNIX, .path = "/nonexistent/socket"};
	struct outcome o = {.fd = -1};
	struct agent_connect *c;
	struct err err = ERR_INIT;

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(loop_new(NULL, &o.loop, NULL), 0);
	assert_int_equal(agent_connect(o.loop, &address, LONG_NS, on_done, &o, &c, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "has the VM ended?"));
	address.path = longer;
	assert_int_equal(agent_connect(o.loop, &address, LONG_NS, on_done, &o, &c, NULL),
			 -ENAMETOOLONG);
	address.path = NULL;
	assert_int_equal(agent_connect(o.loop, &address, LONG_NS, on_done, &o, &c, NULL), -EINVAL);
	loop_free(o.loop);
	assert_int_equal(o.calls, 0);
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	signal(SIGPIPE, SIG_IGN);
	alarm(WATCHDOG_S);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_built_in_device_is_asked_for_the_port),
	    cmocka_unit_test(a_plain_socket_is_taken_as_it_is),
	    cmocka_unit_test(other_answers_are_refusals),
	    cmocka_unit_test(a_guest_that_does_not_answer_is_given_up),
	    cmocka_unit_test(cancelled_it_does_not_call),
	    cmocka_unit_test(bad_addresses_are_told_at_once),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
