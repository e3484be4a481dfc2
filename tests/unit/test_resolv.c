/* The name servers of a resolv.conf. */
#include "control/network/resolv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned read_texts(const char *text, const char *resolved, uint32_t dns[NET_DNS_MAX])
{
	char paths[2][32] = {"/tmp/lodge-resolv-XXXXXX", "/tmp/lodge-resolv-XXXXXX"};
	const char *texts[2] = {text, resolved};
	unsigned n;

	for (int i = 0; i < 2; i++) {
		int fd = mkstemp(paths[i]);

		assert_true(fd >= 0);
		assert_int_equal(write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
		close(fd);
	}
	n = resolv_read_files(paths[0], paths[1], dns);
	unlink(paths[0]);
	unlink(paths[1]);
	return n;
}

static void test_servers(void **state)
{
	uint32_t dns[NET_DNS_MAX];

	(void)state;
	assert_int_equal(read_texts("# nameserver 9.9.9.9\nsearch example.org\n"
				    "nameserver 127.0.0.1\nnameserver 0.0.0.0\nnameserver ::1\n"
				    " nameserver\t10.0.0.1 \nnameserver 10.0.0.2 # no\n"
				    "nameservers 10.0.0.9\nnameserver 10.0.0\nnameserver\n"
				    "nameserver 10.0.0.3\nnameserver 10.0.0.4",
				    "nameserver 10.0.0.5\n", dns),
			 3);
	assert_int_equal(dns[0], 0x0a000001);
	assert_int_equal(dns[1], 0x0a000002);
	assert_int_equal(dns[2], 0x0a000003);
}

static void test_resolved(void **state)
{
	uint32_t dns[NET_DNS_MAX];

	(void)state;
	assert_int_equal(read_texts("nameserver 127.0.0.53\noptions edns0\n",
				    "nameserver 10.0.0.5\nnameserver fe80::1\n", dns),
			 1);
	assert_int_equal(dns[0], 0x0a000005);
	/* another local server's business is its own */
	assert_int_equal(read_texts("nameserver 127.0.0.1\n", "nameserver 10.0.0.5\n", dns), 0);
}

static void test_none(void **state)
{
	uint32_t dns[NET_DNS_MAX];

	(void)state;
	assert_int_equal(resolv_read_files("/nonexistent/a", "/nonexistent/b", dns), 0);
	assert_int_equal(read_texts("", "nameserver 10.0.0.5\n", dns), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_servers),
	    cmocka_unit_test(test_resolved),
	    cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
