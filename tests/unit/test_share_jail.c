/*
 * The jail of a share's server, with a shell in the server's place: what it finds, what it may not
 * do, and that it ends with whoever has it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "control/child/child.h"
#include "control/share/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_MS 10000
#define PYTHON	    "/usr/bin/python3 -Sc '"

static char folder[] = "/tmp/lodge-jail-XXXXXX";

static int setup(void **state)
{
	(void)state;
	return !mkdtemp(folder) || chmod(folder, 0755);
}

static int teardown(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command) != 0;
}

static struct child start(const char *script, bool read_only)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	autofd int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct jail jail = {.dir = dir, .read_only = read_only, .conf = "conf\n"};
	struct err err = ERR_INIT;
	struct child c;
	struct child_jail kept;

	assert_int_equal(jail_init(&jail, &err), 0);
	kept = jail_child(&jail);
	if (child_start(argv, "none", false, &kept, &c, &err))
		fail_msg("%s", err.msg);
	return c;
}

/* What the script says, until it says "end". */
static void say(const char *script, bool read_only, char text[2048])
{
	struct child c;

	if (geteuid()) {
		print_message("SKIP: needs root\n");
		skip();
	}
	c = start(script, read_only);
	*text = '\0';
	while (!strstr(text, "end\n")) {
		int res = child_listen(&c, text, 2048, PATIENCE_MS);

		if (res < 0 || (!res && !strstr(text, "end\n")))
			fail_msg("%d: %s", res, text);
	}
	child_close(&c);
}

static void assert_said(const char *script, const char *expected)
{
	char text[2048];

	say(script, false, text);
	assert_string_equal(text, expected);
}

static void the_directory_alone(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "echo yes >%s/file; mkdir -p %s/below", folder, folder);
	assert_int_equal(system(command), 0);
	assert_said("exec >&2; cat /share/file; cat /lodge/ganesha.conf; ls /home /root /etc; "
		    "echo new >/share/new; echo end",
		    "yes\nconf\n"
		    "ls: cannot access '/home': No such file or directory\n"
		    "ls: cannot access '/root': No such file or directory\n"
		    "/etc:\nhosts\nld.so.cache\nmtab\nnetconfig\nnsswitch.conf\nend\n");
	snprintf(command, sizeof(command), "grep -q new %s/new", folder);
	assert_int_equal(system(command), 0);
}

static void read_only(void **state)
{
	char text[2048];

	(void)state;
	say("(echo >/share/no) 2>/dev/null || echo refused >&2; "
	    "(echo >/lodge/no) 2>/dev/null || echo refused >&2; "
	    "(echo >/usr/no) 2>/dev/null || echo refused >&2; echo yes >/run/yes && echo end >&2",
	    true, text);
	assert_string_equal(text, "refused\nrefused\nrefused\nend\n");
}

static void what_is_mounted_below_is_not_shared(void **state)
{
	char below[64], command[128];

	(void)state;
	if (geteuid())
		skip();
	snprintf(below, sizeof(below), "%s/below", folder);
	snprintf(command, sizeof(command), "mkdir -p %s", below);
	assert_int_equal(system(command), 0);
	assert_int_equal(mount("none", below, "tmpfs", 0, NULL), 0);
	snprintf(command, sizeof(command), "touch %s/hidden", below);
	assert_int_equal(system(command), 0);
	assert_said("ls /share/below >&2; echo end >&2", "end\n");
	assert_int_equal(umount(below), 0);
}

static void no_processes_and_no_privileges(void **state)
{
	(void)state;
	/* 1 waits for it; all of the kernel's switches would be root's to turn */
	assert_said("cd /proc; ls -d [0-9]* >&2; ls -d sys 2>&1 | grep -c cannot >&2; echo end >&2",
		    "1\n2\n1\nend\n");
	assert_said(
	    "grep -E \"^(CapEff|CapBnd|NoNewPrivs|Seccomp):\" /proc/self/status >&2; echo end >&2",
	    "CapEff:\t00000000000000df\nCapBnd:\t00000000000000df\nNoNewPrivs:\t1\nSeccomp:\t2\n"
	    "end\n");
}

static void calls_that_are_refused(void **state)
{
	(void)state;
	assert_said(
	    "mount -t tmpfs none /run >/dev/null 2>&1 || echo refused >&2; "
	    "unshare -U true 2>/dev/null || echo refused >&2; "
	    "mknod /share/dev b 8 0 2>/dev/null || echo refused >&2; "
	    "hostname other 2>/dev/null || echo refused >&2; " PYTHON "import socket, sys\n"
	    "try: socket.create_connection((\"127.0.0.1\", 111))\n"
	    "except ConnectionRefusedError: print(\"refused\", file=sys.stderr)' ; echo end >&2",
	    "refused\nrefused\nrefused\nrefused\nrefused\nend\n");
}

/* That was there before: another process of the host's. */
static void handles_are_sealed(void **state)
{
	(void)state;
	assert_said(PYTHON
		    "import ctypes, os, sys\n"
		    "c = ctypes.CDLL(None, use_errno=True)\n"
		    "h = ctypes.create_string_buffer(136)\n"
		    "h[0:4] = (128).to_bytes(4, \"little\")\n"
		    "m = ctypes.c_int()\n"
		    "r = c.name_to_handle_at(-100, b\"/share\", h, ctypes.byref(m), 0)\n"
		    "d = os.open(\"/share\", os.O_RDONLY)\n"
		    "print(r, c.open_by_handle_at(d, h, 0) >= 0, file=sys.stderr)\n"
		    "h[8] = h[8][0] ^ 1\n"
		    "print(c.open_by_handle_at(d, h, 0), ctypes.get_errno(), file=sys.stderr)'; "
		    "echo end >&2",
		    "0 True\n-1 116\nend\n");
}

/* The process, as the host numbers it, whose command line has `mark`. -1: none. */
static pid_t find(const char *mark)
{
	char command[128], line[32] = "";
	FILE *f;

	snprintf(command, sizeof(command), "pgrep -n -f '^sleep [%c]%s$'", mark[0], mark + 1);
	f = popen(command, "re");
	assert_non_null(f);
	if (!fgets(line, sizeof(line), f))
		*line = '\0';
	pclose(f);
	return *line ? (pid_t)strtol(line, NULL, 10) : -1;
}

static bool vanishes(const char *mark)
{
	for (int i = 0; i < PATIENCE_MS / 50; i++) {
		if (find(mark) < 0)
			return true;
		poll(NULL, 0, 50);
	}
	return false;
}

static void hear(struct child *c, const char *word)
{
	char text[256] = "";

	while (!strstr(text, word)) {
		if (child_listen(c, text, sizeof(text), PATIENCE_MS) < 0)
			fail_msg("%s", text);
	}
}

/* A program that nothing but a signal ends, known by `mark`. */
static pid_t begin(const char *mark, struct child *ret_child)
{
	char script[64];
	pid_t pid;

	snprintf(script, sizeof(script), "trap '' TERM; echo ready >&2; exec sleep %s", mark);
	*ret_child = start(script, false);
	hear(ret_child, "ready\n");
	for (int i = 0; (pid = find(mark)) < 0 && i < PATIENCE_MS / 10; i++)
		poll(NULL, 0, 10);
	assert_true(pid > 0);
	return pid;
}

static void it_ends_with_us_and_is_started_again(void **state)
{
	struct child c;
	char ended[32];
	pid_t pid;

	(void)state;
	if (geteuid())
		skip();
	pid = begin("54321", &c);
	kill(pid, SIGKILL);
	for (int i = 0; i < 2; i++) {
		struct pollfd p = {.fd = c.keeper, .events = POLLIN};

		assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		assert_int_equal(child_news(&c, ended, sizeof(ended)),
				 i ? CHILD_BEGUN : CHILD_ENDED);
	}
	assert_string_equal(ended, "status 137");
	hear(&c, "ready\n");
	child_close(&c);
	assert_true(vanishes("54321"));
}

/* What a keeper leaves alone elsewhere ends here. */
static void it_ends_with_its_keeper(void **state)
{
	struct pollfd p = {.events = POLLIN};
	struct child c;
	char ended[32], command[64];
	pid_t pid;

	(void)state;
	if (geteuid())
		skip();
	pid = begin("65432", &c);
	/* its parent is process 1 there, whose parent is the keeper */
	snprintf(command, sizeof(command), "kill -9 $(ps -o ppid= $(ps -o ppid= %d))", (int)pid);
	assert_int_equal(system(command), 0);
	p.fd = c.keeper;
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(child_news(&c, ended, sizeof(ended)), CHILD_ALONE);
	assert_true(vanishes("65432"));
	child_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_directory_alone),
	    cmocka_unit_test(read_only),
	    cmocka_unit_test(what_is_mounted_below_is_not_shared),
	    cmocka_unit_test(no_processes_and_no_privileges),
	    cmocka_unit_test(calls_that_are_refused),
	    cmocka_unit_test(handles_are_sealed),
	    cmocka_unit_test(it_ends_with_us_and_is_started_again),
	    cmocka_unit_test(it_ends_with_its_keeper),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
