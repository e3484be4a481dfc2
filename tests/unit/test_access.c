/*
 * control/access: who may make which calls, and identities as text and on a thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/access/access.h"
#include "proto/lodge.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define STRANGER 61234 /* no user of any host */

/* ---- which call needs which right ---------------------------------------------------------------
 */

static bool permits(enum access_right right, const char *name, const ProtobufCMessage *request)
{
	struct ttrpc_method method = {.name = name};
	struct peer peer = {.right = right, .identity = {.uid = STRANGER}};
	struct err err = ERR_INIT;
	bool yes = access_permits(&peer, &method, request, &err);

	assert_int_equal(err.code, yes ? 0 : EACCES);
	assert_true(yes || strstr(err.msg, "user 61234"));
	return yes;
}

static void looking_changes_nothing(void **state)
{
	static const char *const look[] = {"GetVmInfo",	 "GetServerInfo",  "ListVms",
					   "WaitVm",	 "WatchEvents",	   "ReadConsole",
					   "GetMetrics", "GetMetricsText", "GetDiskImageInfo"};
	static const char *const change[] = {
	    "StartVm",	"StopVm",	"StopAllVms",	   "AttachConsole",    "PauseVm",
	    "ResumeVm", "ResizeVmDisk", "CreateDiskImage", "DestroyDiskImage", "ResizeDiskImage"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(look); i++) {
		assert_true(permits(ACCESS_LOOK, look[i], NULL));
		assert_false(permits(ACCESS_NONE, look[i], NULL));
	}
	for (size_t i = 0; i < ARRAY_LEN(change); i++) {
		assert_false(permits(ACCESS_LOOK, change[i], NULL));
		assert_true(permits(ACCESS_ALL, change[i], NULL));
	}
}

static void a_method_that_no_table_knows_is_a_change(void **state)
{
	(void)state;
	assert_false(permits(ACCESS_LOOK, "FormatAll", NULL));
	assert_true(permits(ACCESS_ALL, "FormatAll", NULL));
}

static void a_check_that_repairs_is_a_change(void **state)
{
	Lodge__V1__CheckDiskImageRequest request = LODGE__V1__CHECK_DISK_IMAGE_REQUEST__INIT;

	(void)state;
	assert_true(permits(ACCESS_LOOK, "CheckDiskImage", &request.base));
	request.repair = true;
	assert_false(permits(ACCESS_LOOK, "CheckDiskImage", &request.base));
	assert_true(permits(ACCESS_ALL, "CheckDiskImage", &request.base));
}

/* ---- rules --------------------------------------------------------------------------------------
 */

static void rules_take_numbers_and_names(void **state)
{
	struct access access = {.nrules = 0};
	struct err err = ERR_INIT;
	gid_t gid = 77;

	(void)state;
	assert_int_equal(access_allow(&access, ACCESS_ALL, false, "root", &err), 0);
	assert_int_equal(access_allow(&access, ACCESS_LOOK, true, "root", &err), 0);
	assert_int_equal(access_allow(&access, ACCESS_LOOK, false, "4294967294", &err), 0);
	assert_int_equal(access.nrules, 3);
	assert_int_equal(access.rules[0].id, 0);
	assert_true(access.rules[1].is_group);
	assert_int_equal(access.rules[2].id, UINT_MAX - 1);
	assert_int_equal(access_group("root", &gid, &err), 0);
	assert_int_equal(gid, 0);
	assert_int_equal(err.code, 0);
}

static void wrong_names_are_named(void **state)
{
	/* -1 is "nobody" to the kernel */
	static const char *const wrong[] = {"",		  "no such user", "-1", "4294967295",
					    "4294967296", "1 ",		  "0x1"};
	struct access access = {.nrules = 0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(access_allow(&access, ACCESS_ALL, false, wrong[i], &err), -EINVAL);
		assert_non_null(strstr(err.msg, wrong[i]));
		assert_non_null(strstr(err.msg, "/etc/passwd"));
	}
	assert_int_equal(access.nrules, 0);
}

static void rules_have_an_end(void **state)
{
	struct access access = {.nrules = 0};
	struct err err = ERR_INIT;

	(void)state;
	for (unsigned i = 0; i < ACCESS_RULES_MAX; i++)
		assert_int_equal(access_allow(&access, ACCESS_LOOK, true, "5", &err), 0);
	assert_int_equal(access_allow(&access, ACCESS_LOOK, true, "5", &err), -ENOSPC);
	assert_int_equal(access.nrules, ACCESS_RULES_MAX);
}

/* ---- peers --------------------------------------------------------------------------------------
 */

static void our_own_user_is_trusted(void **state)
{
	struct access access = {.nrules = 0};
	struct peer *peer;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	peer = access_admit(&access, fds[0]);
	assert_non_null(peer);
	assert_true(peer->is_trusted);
	assert_int_equal(peer->right, ACCESS_ALL);
	assert_ptr_equal(access.peers, peer);
	access_leave(peer);
	assert_null(access.peers);
	close(fds[0]);
	close(fds[1]);
}

static void no_socket_is_nobody(void **state)
{
	struct access access = {.nrules = 0};
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	log_init(fd, LOG_LEVEL_ERROR);
	assert_null(access_admit(&access, fd));
	log_init(STDERR_FILENO, LOG_LEVEL_WARN);
	close(fd);
}

/* A pair made by another user: what is connected has that user's credentials. */
static int socket_of(uid_t uid, gid_t gid, const gid_t *groups, size_t ngroups)
{
	int ends[2], status;
	pid_t pid;
	struct msghdr msg;
	char byte = 0;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	int fd;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	msg = (struct msghdr){.msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control)};
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		int pair[2];

		if (setgroups(ngroups, groups) || setgid(gid) || setuid(uid) ||
		    socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
			_exit(1);
		control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
						  .cmsg_type = SCM_RIGHTS,
						  .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(&control.header), &pair[0], sizeof(int));
		_exit(sendmsg(ends[1], &msg, 0) == 1 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(recvmsg(ends[0], &msg, MSG_CMSG_CLOEXEC), 1);
	memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	close(ends[0]);
	close(ends[1]);
	return fd;
}

static enum access_right right_of_stranger(struct access *access)
{
	const gid_t groups[] = {100, 200};
	int fd = socket_of(STRANGER, 50, groups, ARRAY_LEN(groups));
	struct peer *peer = access_admit(access, fd);
	enum access_right right;

	assert_non_null(peer);
	assert_false(peer->is_trusted);
	assert_int_equal(peer->identity.uid, STRANGER);
	assert_int_equal(peer->identity.gid, 50);
	assert_int_equal(peer->identity.ngroups, 2);
	right = peer->right;
	access_leave(peer);
	close(fd);
	return right;
}

static void the_best_rule_that_fits(void **state)
{
	struct access access = {.nrules = 0};
	static const struct {
		enum access_right right;
		bool is_group;
		const char *who;
		enum access_right then;
	} steps[] = {
	    {ACCESS_ALL, false, "61235", ACCESS_NONE}, {ACCESS_ALL, true, "61234", ACCESS_NONE},
	    {ACCESS_LOOK, true, "200", ACCESS_LOOK},   {ACCESS_ALL, true, "50", ACCESS_ALL},
	    {ACCESS_LOOK, false, "61234", ACCESS_ALL},
	};

	(void)state;
	if (geteuid()) {
		print_message("SKIP needs root, to be someone else\n");
		skip();
	}
	assert_int_equal(right_of_stranger(&access), ACCESS_NONE);
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		assert_int_equal(
		    access_allow(&access, steps[i].right, steps[i].is_group, steps[i].who, NULL),
		    0);
		assert_int_equal(right_of_stranger(&access), steps[i].then);
	}
}

static void who_may_nothing_has_few_connections(void **state)
{
	struct access access = {.nrules = 0};
	struct peer *peers[ACCESS_CONNS_DENIED_MAX];
	int fd, quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);

	(void)state;
	if (geteuid()) {
		close(quiet);
		print_message("SKIP needs root, to be someone else\n");
		skip();
	}
	log_init(quiet, LOG_LEVEL_ERROR);
	fd = socket_of(STRANGER, 50, NULL, 0);
	for (size_t i = 0; i < ARRAY_LEN(peers); i++) {
		peers[i] = access_admit(&access, fd);
		assert_non_null(peers[i]);
	}
	assert_null(access_admit(&access, fd));
	access_leave(peers[7]); /* from the middle of the list */
	peers[7] = access_admit(&access, fd);
	assert_non_null(peers[7]);
	for (size_t i = 0; i < ARRAY_LEN(peers); i++)
		access_leave(peers[i]);
	assert_null(access.peers);
	log_init(STDERR_FILENO, LOG_LEVEL_WARN);
	close(fd);
	close(quiet);
}

/* ---- identities ---------------------------------------------------------------------------------
 */

static void identity_as_text_and_back(void **state)
{
	static const char *const texts[] = {"0:0", "1000:100,4,4294967294", "4294967294:1,2"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct identity id;
		char *text;

		assert_int_equal(identity_parse(texts[i], &id, NULL), 0);
		text = identity_text(&id);
		assert_string_equal(text, texts[i]);
		free(text);
		identity_fini(&id);
	}
}

static void wrong_identities_are_refused(void **state)
{
	static const char *const wrong[] = {
	    "",
	    "1",
	    "1:",
	    ":1",
	    "1:2,",
	    "1:2,,3",
	    "1:2 ",
	    "-1:0",
	    "1:-1",
	    "1:2:3",
	    "a:b",
	    "4294967295:0",
	    "0:4294967295",
	    "0:0,4294967295",
	    "99999999999:0",
	    "0:99999999999999999999",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct identity id = {.uid = 77};
		struct err err = ERR_INIT;

		assert_int_equal(identity_parse(wrong[i], &id, &err), -EINVAL);
		assert_int_equal(id.uid, 77);
		assert_non_null(strstr(err.msg, "UID:GID"));
	}
}

static void as_many_groups_as_may_be(void **state)
{
	char *text = malloc((IDENTITY_GROUPS_MAX + 2) * 2 + 4);
	struct identity id;
	size_t at;

	(void)state;
	assert_non_null(text);
	at = (size_t)sprintf(text, "1:2");
	for (unsigned i = 0; i < IDENTITY_GROUPS_MAX; i++)
		at += (size_t)sprintf(text + at, ",%u", i % 10);
	assert_int_equal(identity_parse(text, &id, NULL), 0);
	assert_int_equal(id.ngroups, IDENTITY_GROUPS_MAX);
	assert_true(identity_has_group(&id, 9) && identity_has_group(&id, 2));
	assert_false(identity_has_group(&id, 10));
	identity_fini(&id);
	strcpy(text + at, ",1");
	assert_int_equal(identity_parse(text, &id, NULL), -EINVAL);
	free(text);
}

/* Of the thread that runs this: as whom it may open a file of root's, and one that all may read. */
static void *opens(void *arg)
{
	int fd = open(arg, O_RDONLY | O_CLOEXEC);
	int error = fd < 0 ? errno : 0;

	if (fd >= 0)
		close(fd);
	return (void *)(intptr_t)error;
}

static void files_are_opened_as_another(void **state)
{
	char path[] = "/tmp/lodge-access-XXXXXX";
	int fd = mkstemp(path);
	struct identity id = {.uid = STRANGER, .gid = STRANGER}, before;

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	if (geteuid()) {
		struct err err = ERR_INIT;

		assert_int_equal(identity_assume(&id, &before, &err), -EPERM);
		assert_non_null(strstr(err.msg, "run the server as root"));
		identity_resume(&before);
	} else {
		pthread_t thread;
		void *other;

		assert_int_equal(identity_assume(&id, &before, NULL), 0);
		assert_int_equal((intptr_t)opens(path), EACCES);
		identity_resume(&before);
		assert_int_equal((intptr_t)opens(path), 0);
		/* a thread of before, and one of after, have their own rights */
		assert_int_equal(pthread_create(&thread, NULL, opens, path), 0);
		assert_int_equal(pthread_join(thread, &other), 0);
		assert_int_equal((intptr_t)other, 0);
	}
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(looking_changes_nothing),
	    cmocka_unit_test(a_method_that_no_table_knows_is_a_change),
	    cmocka_unit_test(a_check_that_repairs_is_a_change),
	    cmocka_unit_test(rules_take_numbers_and_names),
	    cmocka_unit_test(wrong_names_are_named),
	    cmocka_unit_test(rules_have_an_end),
	    cmocka_unit_test(our_own_user_is_trusted),
	    cmocka_unit_test(no_socket_is_nobody),
	    cmocka_unit_test(the_best_rule_that_fits),
	    cmocka_unit_test(who_may_nothing_has_few_connections),
	    cmocka_unit_test(identity_as_text_and_back),
	    cmocka_unit_test(wrong_identities_are_refused),
	    cmocka_unit_test(as_many_groups_as_may_be),
	    cmocka_unit_test(files_are_opened_as_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
