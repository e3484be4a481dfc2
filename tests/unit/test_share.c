/*
 * Shares: what their server is told and says, and its sealed handles, of a real file system.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/options/priv.h"
#include "control/share/share.h"
#include "control/share/share_priv.h"

/* its name_to_handle_at() and open_by_handle_at() are this program's as well */
#include "control/share/preload/handles.c"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- options ------------------------------------------------------------------------------------
 */

static void words_of_a_share(void **state)
{
	struct machine_config m;
	struct err err = ERR_INIT;

	(void)state;
	machine_config_init(&m);
	assert_int_equal(options_add_share(&m, "path=/a,,b,ro=on,user=1000:100", &err), 0);
	assert_int_equal(options_add_share(&m, "path=/c,mount=/srv/c,user=7", &err), 0);
	assert_int_equal(options_check_shares(&m, &err), 0);
	assert_string_equal(m.shares[0].path, "/a,b");
	assert_string_equal(m.shares[0].target, "/mnt/shared");
	assert_true(m.shares[0].read_only);
	assert_int_equal(m.shares[0].uid, 1000);
	assert_int_equal(m.shares[0].gid, 100);
	assert_string_equal(m.shares[1].target, "/srv/c");
	assert_false(m.shares[1].read_only);
	assert_int_equal(m.shares[1].gid, 7);
	/* the interface that they need */
	assert_int_equal(m.nnets, 1);
	assert_int_equal(m.nets[0].kind, NET_POOL);
	assert_int_equal(m.nets[0].nshare_ports, 2);
	machine_config_fini(&m);
}

static void refused(const char *first, const char *second, const char *net, const char *part)
{
	struct machine_config m;
	struct err err = ERR_INIT;
	int res = 0;

	machine_config_init(&m);
	if (net)
		assert_int_equal(options_add_net(&m, net, &err), 0);
	res = options_add_share(&m, first, &err);
	if (!res && second)
		res = options_add_share(&m, second, &err);
	if (!res)
		res = options_check_shares(&m, &err);
	assert_int_equal(res, -EINVAL);
	if (!strstr(err.msg, part))
		fail_msg("'%s' does not say '%s'", err.msg, part);
	machine_config_fini(&m);
}

static void wrong_shares(void **state)
{
	(void)state;
	refused("ro=on", NULL, NULL, "path=DIR");
	refused("path=/a,mount=b", NULL, NULL, "'b'");
	refused("path=/a,user=0", NULL, NULL, "root");
	refused("path=/a,user=5:0", NULL, NULL, "root");
	refused("path=/a,user=alice", NULL, NULL, "numbers");
	refused("path=/a,user=4294967295", NULL, NULL, "numbers");
	refused("path=/a", "path=/b", NULL, "mount=DIR");
	refused("path=/a", "path=/b,mount=/mnt/shared", NULL, "mount point of /a already");
	refused("path=/a", NULL, "tap=tap0", "'pool'");
	refused("path=/a", NULL, "none", "'pool'");
}

/* ---- the server's configuration, and its log ----------------------------------------------------
 */

static void assert_says(const char *conf, const char *line)
{
	if (!strstr(conf, line))
		fail_msg("no '%s' in:\n%s", line, conf);
}

static void what_the_server_is_told(void **state)
{
	struct machine_share share = {.read_only = true, .uid = 1000, .gid = 100};
	struct machine_net net = {.addresses = {.gateway = 0x64735c05, .guest = 0x64735c06}};
	char *conf = ganesha_config(&share, &net, 2050);

	(void)state;
	assert_says(conf, "Bind_addr = 100.115.92.5;");
	assert_says(conf, "NFS_Port = 2050;");
	assert_says(conf, "Clients = 100.115.92.6;");
	assert_says(conf, "Access_Type = RO;");
	assert_says(conf, "Access_Type = NONE;");
	assert_says(conf, "Squash = All_Squash;");
	assert_says(conf, "Anonymous_Uid = 1000;");
	assert_says(conf, "Anonymous_Gid = 100;");
	free(conf);
	share.read_only = false;
	conf = ganesha_config(&share, &net, 2050);
	assert_says(conf, "Access_Type = RW;");
	free(conf);
}

static void what_the_server_says(void **state)
{
	static const struct {
		const char *line, *text;
		bool ready;
	} lines[] = {
	    {"NFS STARTUP :EVENT :             NFS SERVER INITIALIZED\n", NULL, true},
	    {"NFS STARTUP :EVENT :Initializing ID Mapper.", NULL, false},
	    {"DBUS :CRIT :dbus_bus_get failed", NULL, false},
	    {"", NULL, false},
	    {"DISP :FATAL :Cannot bind TCP", "Cannot bind TCP", false},
	    {"/usr: Operation not permitted\n", "/usr: Operation not permitted", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		char line[128];
		const char *text;
		bool ready;

		snprintf(line, sizeof(line), "%s", lines[i].line);
		assert_int_equal(ganesha_line(line, &text, &ready),
				 lines[i].ready || lines[i].text);
		assert_int_equal(ready, lines[i].ready);
		if (lines[i].text)
			assert_string_equal(text, lines[i].text);
	}
}

static void what_the_guest_mounts(void **state)
{
	struct machine_config m = {
	    .nnets = 2,
	    .nets[1] = {.addresses = {.gateway = 0xfffffffd, .guest = 0xfffffffe},
			.share_ports = {65535, 65535, 65535},
			.nshare_ports = 3},
	};
	char source[SHARE_SOURCE_MAX], options[SHARE_OPTIONS_MAX];

	(void)state;
	shares_mount_words(&m, 2, source, options);
	assert_string_equal(source, "255.255.255.253:/");
	assert_non_null(strstr(options, ",port=65535,addr=255.255.255.253,"));
	assert_int_equal(strcmp(options + strlen(options) - 10, ",actimeo=1"), 0);
}

/* ---- handles ------------------------------------------------------------------------------------
 */

union handle {
	struct file_handle head;
	unsigned char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static char folder[] = "/tmp/lodge-handles-XXXXXX";
static int dir = -1;

static int setup(void **state)
{
	(void)state;
	key[0] = 1;
	key[1] = 2;
	has_key = 1;
	assert_non_null(mkdtemp(folder));
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 || mkdirat(dir, "d", 0755);
}

static int teardown(void **state)
{
	(void)state;
	unlinkat(dir, "d", AT_REMOVEDIR);
	close(dir);
	return rmdir(folder);
}

/* Of the directory "d". False: the file system has none, or this user opens none. */
static bool take(union handle *h)
{
	int mount;

	h->head.handle_bytes = MAX_HANDLE_SZ;
	if (geteuid() || name_to_handle_at(dir, "d", &h->head, &mount, 0)) {
		print_message("SKIP: needs root, and a file system with handles in /tmp\n");
		return false;
	}
	return true;
}

static int open_it(union handle *h)
{
	int fd = open_by_handle_at(dir, &h->head, O_RDONLY), res = fd < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return res;
}

/* The test vector of the paper, appendix A. */
static void siphash(void **state)
{
	const uint64_t k[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
	unsigned char data[15];

	(void)state;
	for (unsigned char i = 0; i < sizeof(data); i++)
		data[i] = i;
	assert_true(handles_siphash(k, data, sizeof(data)) == UINT64_C(0xa129ca6149be45e5));
}

static void handles_come_back(void **state)
{
	union handle h;

	(void)state;
	if (!take(&h))
		skip();
	assert_int_equal(open_it(&h), 0);
	key[0] ^= 1; /* another share's */
	assert_int_equal(open_it(&h), -ESTALE);
	key[0] ^= 1;
	has_key = 0;
	assert_int_equal(open_it(&h), -ESTALE);
	has_key = 1;
	assert_int_equal(open_it(&h), 0);
}

static void forged_handles(void **state)
{
	union handle h, forged;

	(void)state;
	if (!take(&h))
		skip();
	for (unsigned bit = 0; bit < h.head.handle_bytes * 8; bit++) {
		forged = h;
		forged.head.f_handle[bit / 8] ^= (unsigned char)(1 << bit % 8);
		assert_int_equal(open_it(&forged), -ESTALE);
	}
	forged = h;
	forged.head.handle_type++;
	assert_int_equal(open_it(&forged), -ESTALE);
	for (unsigned n = 0; n < h.head.handle_bytes; n++) {
		forged = h;
		forged.head.handle_bytes = n;
		assert_int_equal(open_it(&forged), -ESTALE);
	}
	forged = h;
	forged.head.handle_bytes = UINT32_MAX;
	assert_int_equal(open_it(&forged), -ESTALE);
}

static void room_for_the_seal(void **state)
{
	union handle h, small = {.head.handle_bytes = 0};
	int mount;

	(void)state;
	if (!take(&h))
		skip();
	/* one byte too few, and the size that it wants to be */
	for (unsigned n = 0; n < h.head.handle_bytes; n++) {
		small.head.handle_bytes = n;
		assert_int_equal(name_to_handle_at(dir, "d", &small.head, &mount, 0), -1);
		assert_int_equal(errno, EOVERFLOW);
		assert_int_equal(small.head.handle_bytes, h.head.handle_bytes);
	}
	assert_int_equal(name_to_handle_at(dir, "d", &small.head, &mount, 0), 0);
	assert_int_equal(open_it(&small), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(words_of_a_share),	       cmocka_unit_test(wrong_shares),
	    cmocka_unit_test(what_the_server_is_told), cmocka_unit_test(what_the_server_says),
	    cmocka_unit_test(what_the_guest_mounts),   cmocka_unit_test(siphash),
	    cmocka_unit_test(handles_come_back),       cmocka_unit_test(forged_handles),
	    cmocka_unit_test(room_for_the_seal),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
