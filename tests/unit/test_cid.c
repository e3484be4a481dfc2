/* Context ids: none twice at a time, none twice at all. */
#include "vmm/cid.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static int setup(void **state)
{
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/test-cid.XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static void put(const char *text)
{
	FILE *f = fopen(path, "w");

	fputs(text, f);
	fclose(f);
}

static struct cid take(uint32_t wanted)
{
	struct cid c = CID_INIT;
	struct err err = ERR_INIT;

	if (cid_take(path, wanted, NULL, NULL, &c, &err))
		fail_msg("%s", err.msg);
	return c;
}

static int refused(uint32_t wanted, const char *text)
{
	struct cid c = CID_INIT;
	struct err err = ERR_INIT;
	int r = cid_take(path, wanted, NULL, NULL, &c, &err);

	assert_true(r < 0);
	assert_int_equal(c.fd, -1);
	if (!strstr(err.msg, text))
		fail_msg("\"%s\" lacks \"%s\"", err.msg, text);
	return r;
}

static void test_from_three_up_and_never_again(void **state)
{
	(void)state;
	for (uint32_t i = 3; i < 40; i++) {
		struct cid c = take(0);

		assert_int_equal(c.cid, i);
		cid_drop(&c);
		assert_int_equal(c.fd, -1);
	}
}

static void test_one_by_number(void **state)
{
	struct cid a, b;

	(void)state;
	a = take(100);
	assert_int_equal(refused(100, "in use"), -EADDRINUSE);
	b = take(0);
	assert_int_equal(b.cid, 101); /* never one that was given */
	cid_drop(&b);
	cid_drop(&a);
	a = take(100); /* whoever asks by number may have it again */
	assert_int_equal(a.cid, 100);
	b = take(50); /* below the counter, but in use by nobody */
	cid_drop(&a);
	cid_drop(&b);
	a = take(0);
	assert_int_equal(a.cid, 102);
	cid_drop(&a);
}

static int others(void *ctx, uint32_t cid)
{
	const uint32_t *first_free = ctx;

	return cid < *first_free ? -EADDRINUSE : 0;
}

static void test_cids_of_others_are_passed_over(void **state)
{
	uint32_t first_free = 9;
	struct cid c = CID_INIT;

	(void)state;
	assert_int_equal(cid_take(path, 0, others, &first_free, &c, NULL), 0);
	assert_int_equal(c.cid, 9);
	cid_drop(&c);
	assert_int_equal(cid_take(path, 5, others, &first_free, &c, NULL), -EADDRINUSE);
	first_free = 100000;
	assert_int_equal(cid_take(path, 0, others, &first_free, &c, NULL), -EADDRINUSE);
}

static void test_numbers_and_files_that_are_wrong(void **state)
{
	static const char *const texts[] = {"x\n", "2\n",   "-3\n", "4294967296\n",
					    "3",   "3 4\n", "\n",   "99999999999999999999\n"};

	(void)state;
	assert_int_equal(refused(2, "from 3 to 4294967294"), -EINVAL);
	assert_int_equal(refused(0xffffffff, "from 3 to"), -EINVAL);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		put(texts[i]);
		assert_int_equal(refused(0, "remove it"), -EPROTO);
	}
	put("4294967294\n");
	struct cid last = take(0);

	assert_int_equal(last.cid, 4294967294);
	assert_int_equal(refused(0, "no vsock cid is left"), -ENOSPC);
	cid_drop(&last);
}

/* Many processes at once: each gets another, and a killed one's lock is gone. */
static void test_processes(void **state)
{
	enum { N = 24 };
	bool seen[3 + N] = {false};
	int pipes[2], hold[2];
	pid_t pids[N];

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(pipe(hold), 0);
	for (unsigned i = 0; i < N; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			struct cid c = take(0);
			char b;

			if (write(pipes[1], &c.cid, sizeof(c.cid)) != sizeof(c.cid))
				_exit(1);
			close(hold[1]);
			_exit(read(hold[0], &b, 1) < 0);
		}
	}
	for (unsigned i = 0; i < N; i++) {
		uint32_t cid;

		assert_int_equal(read(pipes[0], &cid, sizeof(cid)), sizeof(cid));
		assert_true(cid >= 3 && cid < 3 + N && !seen[cid]);
		seen[cid] = true;
	}
	assert_int_equal(refused(3, "in use"), -EADDRINUSE);
	close(hold[1]);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
	struct cid again = take(3);

	cid_drop(&again);
	close(pipes[0]);
	close(pipes[1]);
	close(hold[0]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_from_three_up_and_never_again),
	    T(test_one_by_number),
	    T(test_cids_of_others_are_passed_over),
	    T(test_numbers_and_files_that_are_wrong),
	    T(test_processes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
