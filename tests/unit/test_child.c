/* Programs with a keeper: started again, and gone with us. */
#include "base/cleanup.h"
#include "control/child/child.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 10000

/* Says its process and its keeper's, then answers what it hears. */
static const char *const echo[] = {"sh", "-c", "echo $$ $PPID >&2; exec cat <&3 >&3", NULL};
/* The same, and nothing ends it. */
static const char *const deaf[] = {
    "sh", "-c", "trap '' TERM; echo $$ $PPID >&2; while :; do sleep 1; done", NULL};

static struct child start(const char *const argv[])
{
	struct err err = ERR_INIT;
	struct child c;

	if (child_start(argv, "none", false, NULL, &c, &err))
		fail_msg("%s", err.msg);
	return c;
}

static void wait_for(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
}

static void hear_pids(const struct child *c, pid_t *ret_pid, pid_t *ret_keeper)
{
	char text[256] = "";

	wait_for(c->words);
	assert_true(child_hear(c, text, sizeof(text)));
	assert_int_equal(sscanf(text, "%d %d", ret_pid, ret_keeper), 2);
}

static void assert_echo(const struct child *c)
{
	char answer[3] = "";

	assert_int_equal(write(c->fd, "hi", 2), 2);
	wait_for(c->fd);
	assert_int_equal(read(c->fd, answer, 2), 2);
	assert_string_equal(answer, "hi");
}

static enum child_news news(struct child *c, char ended[32])
{
	wait_for(c->keeper);
	return child_news(c, ended, 32);
}

/* Nobody's child of ours: a zombie is init's to take. */
static bool ends(pid_t pid)
{
	for (int i = 0; i < PATIENCE_MS / 10; i++) {
		if (kill(pid, 0) && errno == ESRCH)
			return true;
		poll(NULL, 0, 10);
	}
	return false;
}

static void test_again(void **state)
{
	struct child c = start(echo);
	pid_t first, second, keeper, same;
	char ended[32] = "";

	(void)state;
	assert_echo(&c);
	hear_pids(&c, &first, &keeper);
	assert_int_equal(child_news(&c, ended, sizeof(ended)), CHILD_NOTHING);
	kill(first, SIGKILL);
	assert_int_equal(news(&c, ended), CHILD_ENDED);
	assert_string_equal(ended, "signal 9");
	assert_int_equal(news(&c, ended), CHILD_BEGUN);
	hear_pids(&c, &second, &same);
	assert_int_not_equal(first, second);
	assert_int_equal(keeper, same);
	assert_echo(&c);
	child_close(&c);
	assert_true(ends(second));
	assert_true(ends(keeper));
}

/* Sooner each time would be a program that does nothing else. */
static void test_not_too_often(void **state)
{
	static const char *const argv[] = {"sh", "-c", "exit 3", NULL};
	struct child c = start(argv);
	struct timespec began, now;
	char ended[32] = "";

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(news(&c, ended), CHILD_ENDED);
		assert_string_equal(ended, "status 3");
		assert_int_equal(news(&c, ended), CHILD_BEGUN);
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	/* 0.1, 0.2, 0.4, 0.8 */
	assert_true(now.tv_sec - began.tv_sec + (now.tv_nsec - began.tv_nsec) / 1e9 > 1.4);
	child_close(&c);
}

static void test_keeper_killed(void **state)
{
	struct child c = start(echo);
	pid_t pid, keeper;
	char ended[32];

	(void)state;
	hear_pids(&c, &pid, &keeper);
	kill(keeper, SIGKILL);
	assert_int_equal(news(&c, ended), CHILD_ALONE);
	assert_int_equal(c.keeper, -1);
	assert_echo(&c);
	child_close(&c);
	assert_true(ends(pid));
}

/* In whatever way we end, and whatever the program does. */
static void check_killed(const char *const argv[])
{
	pid_t pids[2], owner;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	owner = fork();
	if (!owner) {
		struct child c = start(argv);

		hear_pids(&c, &pids[0], &pids[1]);
		(void)!write(fds[1], pids, sizeof(pids));
		pause();
		_exit(0);
	}
	assert_int_equal(read(fds[0], pids, sizeof(pids)), sizeof(pids));
	close(fds[0]);
	close(fds[1]);
	kill(owner, SIGKILL);
	waitpid(owner, NULL, 0);
	assert_true(ends(pids[0]));
	assert_true(ends(pids[1]));
}

static void test_killed(void **state)
{
	(void)state;
	check_killed(echo);
	check_killed(deaf);
}

static void test_ended(void **state)
{
	struct child c = start(deaf);
	pid_t pid, keeper;

	(void)state;
	hear_pids(&c, &pid, &keeper);
	child_end(&c);
	assert_true(ends(pid));
	assert_true(ends(keeper));
	child_close(&c);
}

/* What it has of ours: 0 to 3, and of the environment PATH. */
static void test_inherits_nothing(void **state)
{
	static const char *const argv[] = {
	    "sh", "-c", "exec >&3; ls -x /proc/$$/fd; echo ${SECRET-none}; cat <&3", NULL};
	char text[512] = "";
	struct child c;

	(void)state;
	setenv("SECRET", "yes", 1);
	c = start(argv);
	for (size_t n = 0; !strstr(text, "none") && n < sizeof(text) - 1;) {
		ssize_t got;

		wait_for(c.fd);
		got = read(c.fd, text + n, sizeof(text) - 1 - n);
		assert_true(got > 0);
		n += (size_t)got;
	}
	assert_string_equal(text, "0  1  2  3\nnone\n");
	child_close(&c);
}

static void test_no_such_program(void **state)
{
	static const char *const argv[] = {"no-such-program", NULL};
	struct err err = ERR_INIT;
	struct child c;

	(void)state;
	assert_int_equal(child_start(argv, "such", false, NULL, &c, &err), -ENOENT);
	assert_string_equal(err.msg, "no-such-program is not installed (apt install such)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_again),	    cmocka_unit_test(test_not_too_often),
	    cmocka_unit_test(test_keeper_killed),   cmocka_unit_test(test_killed),
	    cmocka_unit_test(test_ended),	    cmocka_unit_test(test_inherits_nothing),
	    cmocka_unit_test(test_no_such_program),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
