/* A port of the host for the machine's own process: what the device gives, and AF_VSOCK. */
#include "tests/unit/loop_barrier.h"
#include "tests/unit/loop_thread.h"
#include "vmm/vsock_port.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* after sys/socket.h, whose types it needs */
#include <linux/vm_sockets.h>

#define PORT 34567

struct fixture {
	struct loop *loop;
	struct vsock_port *port;
	unsigned came;
	int fd; /* the last */
	bool free_it;
};

static void accepted(void *ctx, int fd)
{
	struct fixture *f = ctx;

	f->came++;
	if (f->fd >= 0)
		close(f->fd);
	f->fd = fd;
	if (f->free_it) {
		vsock_port_free(f->port);
		f->port = NULL;
	}
	loop_stop(f->loop);
}

static int setup(void **state)
{
	static struct fixture f;

	f = (struct fixture){.fd = -1};
	assert_int_equal(loop_new(NULL, &f.loop, NULL), 0);
	assert_int_equal(vsock_port_new(f.loop, PORT, accepted, &f, &f.port, NULL), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vsock_port_free(f->port);
	loop_free(f->loop);
	if (f->fd >= 0)
		close(f->fd);
	return 0;
}

/* The other end of what is given: at its end of file the given one is closed. */
static int give(struct fixture *f, bool expected)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(vsock_port_give(f->port, ends[1]), expected);
	if (!expected)
		close(ends[1]);
	return ends[0];
}

static void test_what_is_given_arrives(void **state)
{
	struct fixture *f = *state;
	const int other = give(f, true);
	char c = 0;

	vsock_port_start(f->port);
	assert_int_equal(vsock_port_number(f->port), PORT);
	assert_int_equal(loop_run(f->loop), 0);
	assert_int_equal(f->came, 1);
	assert_int_equal(write(other, "x", 1), 1);
	assert_int_equal(read(f->fd, &c, 1), 1);
	assert_int_equal(c, 'x');
	close(other);
}

static void test_only_so_many_wait(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < VSOCK_PORT_WAITING; i++)
		close(give(f, true));
	close(give(f, false));
	assert_int_equal(loop_run(f->loop), 0);
	assert_int_equal(f->came, VSOCK_PORT_WAITING);
	close(give(f, true));
}

/* What nobody has taken is closed. */
static void test_freed_while_some_wait(void **state)
{
	struct fixture *f = *state;
	const int other = give(f, true);
	char c;

	vsock_port_free(f->port);
	f->port = NULL;
	loop_free(f->loop);
	assert_int_equal(loop_new(NULL, &f->loop, NULL), 0);
	assert_int_equal(f->came, 0);
	assert_int_equal(read(other, &c, 1), 0);
	close(other);
}

static void test_freed_by_the_first_of_them(void **state)
{
	struct fixture *f = *state;
	const int first = give(f, true), second = give(f, true);
	char c;

	f->free_it = true;
	assert_int_equal(loop_run(f->loop), 0);
	assert_int_equal(f->came, 1);
	assert_int_equal(read(second, &c, 1), 0);
	close(first);
	close(second);
}

#define MANY 500

static void *give_many(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < MANY; i++) {
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
			return NULL;
		close(ends[0]);
		while (!vsock_port_give(f->port, ends[1]))
			sched_yield();
	}
	return arg;
}

static void test_given_by_another_thread(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;
	void *ok;

	assert_int_equal(pthread_create(&thread, NULL, give_many, f), 0);
	while (f->came < MANY)
		assert_int_equal(loop_run(f->loop), 0);
	pthread_join(thread, &ok);
	assert_non_null(ok);
	assert_int_equal(f->came, MANY);
}

/* ---- AF_VSOCK, where this machine has it ---- */

static bool host_has_vsock(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (!vsock_port_listen(f->port, 1000, &err))
		return true;
	assert_non_null(strstr(err.msg, "vsock"));
	return false;
}

static void test_another_port_where_that_is_taken(void **state)
{
	struct fixture *f = *state;
	struct vsock_port *second;

	if (!host_has_vsock(f))
		skip();
	assert_int_equal(vsock_port_new(f->loop, PORT, accepted, f, &second, NULL), 0);
	assert_int_equal(vsock_port_listen(second, 1001, NULL), 0);
	assert_int_not_equal(vsock_port_number(second), vsock_port_number(f->port));
	vsock_port_start(second);
	vsock_port_free(second);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_what_is_given_arrives),   T(test_only_so_many_wait),
	    T(test_freed_while_some_wait),   T(test_freed_by_the_first_of_them),
	    T(test_given_by_another_thread), T(test_another_port_where_that_is_taken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
