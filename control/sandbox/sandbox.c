/* Locking this process in. See control/sandbox/sandbox.h. */
#include "control/sandbox/sandbox.h"

#include "base/checked.h"
#include "base/log.h"
#include "control/sandbox/priv.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The sanitizers look at /proc when they report, and at the end. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NEEDS_PROC true
#else
#define NEEDS_PROC false
#endif

int sandbox_parse(const char *value, bool *ret_on)
{
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		return -EINVAL;
	*ret_on = value[1] == 'n';
	return 0;
}

/* A new thread that cannot be locked in must not run, nor be missing. */
static void thread_begins(const struct thread_hook *hook, enum thread_role role)
{
	/* nothing of it changes but `entered`, which is atomic */
	struct sandbox *s =
	    container_of((struct thread_hook *)(uintptr_t)hook, struct sandbox, hook);
	struct err err = ERR_INIT;

	if (sandbox_enter(s, role, &err))
		sandbox_die("cannot be locked in", err.code);
}

int sandbox_init(struct sandbox *s, bool on, bool userns, struct err *err)
{
	*s = (struct sandbox){.hook.begin = thread_begins, .on = on, .kept_dir_fd = -1};
	if (!on)
		return 0;
	if (!sandbox_has_seccomp())
		return err_set(err, ENOSYS,
			       "this host's kernel has no seccomp, which locks the VM's process "
			       "in; use one that has, or say --sandbox off for guests that you "
			       "trust");
	s->root = sandbox_root_prepare(userns);
	if (sandbox_trap_install())
		return err_sys(err, errno, "cannot set the handler of SIGSYS");
	return 0;
}

void sandbox_keep_dir(struct sandbox *s, int dir_fd)
{
	s->kept_dir_fd = dir_fd;
}

const struct thread_hook *sandbox_threads(const struct sandbox *s)
{
	return s->on ? &s->hook : NULL;
}

bool sandbox_entered(const struct sandbox *s)
{
	return atomic_load_explicit(&s->entered, memory_order_acquire);
}

/* ---- what holds for the process -----------------------------------------------------------------
 */

static void take_files(struct sandbox *s)
{
	int res = 0;

	if (s->root == SANDBOX_ROOT_EMPTY || s->root == SANDBOX_ROOT_USERNS) {
		res = sandbox_root_empty();
		if (!res)
			return;
		s->root = sandbox_landlock_abi() ? SANDBOX_ROOT_LANDLOCK : SANDBOX_ROOT_NONE;
	}
	if (s->root == SANDBOX_ROOT_NONE)
		log_info("sandbox: seccomp alone keeps the host's files from this process: neither "
			 "an empty root directory (%s) nor Landlock can be had",
			 strerrordesc_np(-res));
}

static int lock_process(struct sandbox *s, struct err *err)
{
	struct rlimit files;

	if (!NEEDS_PROC)
		take_files(s);
	/* again: the console has its own for signals that end the process */
	if (sandbox_trap_install())
		return err_sys(err, errno, "cannot set the handler of SIGSYS");
	/* guest memory is not for other processes of this user, nor for core files */
	if (prctl(PR_SET_DUMPABLE, 0))
		return err_sys(err, errno, "cannot become undumpable");
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_max = files.rlim_cur;
		if (setrlimit(RLIMIT_NOFILE, &files))
			return err_sys(err, errno, "cannot limit open files");
	}
	return 0;
}

/* ---- what holds for a thread --------------------------------------------------------------------
 */

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	if (syscall(SYS_capget, &head, data))
		return -errno;
	/* The bounding set can be emptied only by who may; others gain nothing by it either. */
	if (data[0].effective & 1u << CAP_SETPCAP) {
		for (unsigned long cap = 0; !prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); cap++)
			;
		if (errno != EINVAL) /* the end of those that this kernel has */
			return -errno;
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) && errno != EINVAL)
		return -errno;
	memset(data, 0, sizeof(data));
	return syscall(SYS_capset, &head, data) ? -errno : 0;
}

static int install_filter(const struct sandbox *s, enum thread_role role)
{
	struct sock_filter code[SANDBOX_FILTER_MAX];
	struct sock_fprog prog = {.filter = code};
	const struct sandbox_rule *rules;
	sigset_t trap;
	size_t n;
	int len;

	rules = sandbox_rules(&n);
	len = sandbox_compile(rules, n, role, getpid(), s->kept_dir_fd, code);
	if (len < 0)
		return len;
	prog.len = (unsigned short)len;
	sandbox_trap_role(role);
	/* blocked, it would end the process without a word */
	sigemptyset(&trap);
	sigaddset(&trap, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &trap, NULL);
	/* Kernels before 5.16 slow a filtered thread down against speculative store bypass, and the
	 * guest with it, which looks after itself. */
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog)
		   ? -errno
		   : 0;
}

int sandbox_enter(struct sandbox *s, enum thread_role role, struct err *err)
{
	int res;

	if (!s->on)
		return 0;
	if (role == THREAD_CONTROL && !atomic_load(&s->entered)) {
		res = lock_process(s, err);
		if (res)
			return res;
		atomic_store_explicit(&s->entered, true, memory_order_release);
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_sys(err, errno, "cannot give up new privileges");
	if (s->root == SANDBOX_ROOT_LANDLOCK && !NEEDS_PROC) {
		res = sandbox_landlock(s->kept_dir_fd);
		if (res)
			return err_sys(err, -res, "Landlock");
	}
	res = drop_capabilities();
	if (res)
		return err_sys(err, -res, "cannot drop capabilities");
	res = install_filter(s, role);
	return res ? err_sys(err, -res, "cannot install the seccomp filter") : 0;
}
