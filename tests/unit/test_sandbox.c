/* The table of system calls, as the kernel will judge by it; and a thread that breaks it. */
#include "base/checked.h"
#include "control/command.h"
#include "control/sandbox/priv.h"

#include <arch_host.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/vhost.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PID	     4711
#define DIR_FD	     9
#define THREAD_FLAGS 0x3d0f00

static const struct sandbox_dirs kept = {.fd = {DIR_FD}, .n = 1}, no_dirs;

/* ---- the machine that runs filters (linux/filter.h), as far as ours use it ----------------------
 */

static uint32_t run(const struct sock_filter *code, int len, const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (int pc = 0; pc < len; pc++) {
		const struct sock_filter *f = &code[pc];
		bool taken;

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			assert_true(f->k % 4 == 0 && f->k + 4 <= sizeof(*data));
			memcpy(&a, (const uint8_t *)data + f->k, sizeof(a));
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= f->k;
			break;
		case BPF_JMP | BPF_JA:
			pc += (int)f->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
		case BPF_JMP | BPF_JGE | BPF_K:
		case BPF_JMP | BPF_JGT | BPF_K:
			taken = BPF_OP(f->code) == BPF_JEQ   ? a == f->k
				: BPF_OP(f->code) == BPF_JGE ? a >= f->k
							     : a > f->k;
			pc += taken ? f->jt : f->jf;
			break;
		case BPF_RET | BPF_K:
			return f->k;
		default:
			fail_msg("instruction %#x", f->code);
		}
	}
	fail_msg("the program has no end");
	return 0;
}

struct program {
	struct sock_filter code[SANDBOX_FILTER_MAX];
	int len;
};

static void compile(struct program *p, enum thread_role role)
{
	size_t n;
	const struct sandbox_rule *rules = sandbox_rules(&n);

	p->len = sandbox_compile(rules, n, role, PID, &kept, p->code);
	assert_true(p->len > 0);
}

static uint32_t ask(enum thread_role role, long nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	struct seccomp_data data = {.nr = (int)nr, .arch = HOST_AUDIT_ARCH, .args = {a0, a1, a2}};
	struct program p;

	compile(&p, role);
	return run(p.code, p.len, &data);
}

static bool may(enum thread_role role, long nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	uint32_t action = ask(role, nr, a0, a1, a2);

	assert_true(action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_TRAP ||
		    action == (SECCOMP_RET_ERRNO | ENOSYS));
	return action == SECCOMP_RET_ALLOW;
}

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_every_rule_has_a_reason_and_a_name(void **state)
{
	size_t n;
	const struct sandbox_rule *rules = sandbox_rules(&n);

	(void)state;
	for (size_t i = 0; i < n; i++) {
		assert_non_null(sandbox_syscall_name(rules[i].nr));
		assert_true(rules[i].roles && rules[i].roles < 1u << NTHREAD_ROLES);
		assert_true(strlen(rules[i].why) > 4);
		assert_true(rules[i].arg < 6);
	}
	assert_string_equal(sandbox_syscall_name(__NR_openat), "openat");
	assert_null(sandbox_syscall_name(-1));
	assert_null(sandbox_syscall_name(100000));
}

/* The program agrees with the table for every number that there is. */
static void test_programs_are_the_table(void **state)
{
	size_t n;
	const struct sandbox_rule *rules = sandbox_rules(&n);

	(void)state;
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		struct program p;

		compile(&p, role);
		for (int nr = 0; nr < 600; nr++) {
			struct seccomp_data data = {.nr = nr, .arch = HOST_AUDIT_ARCH};
			bool listed = false, any = false;
			uint32_t action = run(p.code, p.len, &data);

			for (size_t i = 0; i < n; i++) {
				if (rules[i].nr != nr || !(rules[i].roles & 1u << role))
					continue;
				listed = true;
				any = any || rules[i].check == SANDBOX_ANY;
			}
			if (any && nr != __NR_clone3)
				assert_int_equal(action, SECCOMP_RET_ALLOW);
			if (!listed)
				assert_int_equal(action, SECCOMP_RET_TRAP);
		}
	}
}

static void test_other_architectures_are_killed(void **state)
{
	struct seccomp_data data = {.nr = 1, .arch = AUDIT_ARCH_I386};
	struct program p;

	(void)state;
	compile(&p, THREAD_CONTROL);
	assert_int_equal(run(p.code, p.len, &data), SECCOMP_RET_KILL_PROCESS);
	/* x32 has numbers of its own on the same architecture */
	assert_int_equal(ask(THREAD_CONTROL, 0x40000000 | __NR_write, 0, 0, 0), SECCOMP_RET_TRAP);
}

static void test_nobody_reaches_out(void **state)
{
	static const long forbidden[] = {
		__NR_socket,
		__NR_connect,
		__NR_bind,
		__NR_setuid,
		__NR_chroot,
		__NR_mount,
		__NR_unshare,
		__NR_setns,
		__NR_bpf,
		__NR_openat2,
		__NR_kill,
		__NR_io_uring_setup,
		__NR_memfd_create,
		__NR_userfaultfd,
		__NR_process_vm_writev,
		__NR_keyctl,
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		__NR_openat,
		__NR_execve,
		__NR_ptrace,
		__NR_dup3,
#endif
	};

	(void)state;
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		for (size_t i = 0; i < ARRAY_LEN(forbidden); i++) {
			/* vsock: what these two may make sockets for */
			if (forbidden[i] == __NR_connect &&
			    (role == THREAD_SOCKETS || role == THREAD_CONTROL))
				continue;
			assert_false(may(role, forbidden[i], 0, 0, 0));
		}
	}
}

static void test_sockets_are_streams_of_vsock(void **state)
{
	static const int types[] = {SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW};
	static const int families[] = {AF_UNIX, AF_VSOCK, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET};

	(void)state;
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		const bool control = role == THREAD_CONTROL, sockets = role == THREAD_SOCKETS;
		const int flags = SOCK_CLOEXEC | SOCK_NONBLOCK;

		for (size_t i = 0; i < ARRAY_LEN(families); i++) {
			const int f = families[i];
			const bool alone = (sockets && f == AF_UNIX) || (control && f == AF_VSOCK);
			const bool pair = (sockets || control) && f == AF_UNIX;

			assert_int_equal(may(role, __NR_socket, f, SOCK_STREAM, 0), alone);
			assert_int_equal(may(role, __NR_socket, f, SOCK_STREAM | flags, 0), alone);
			assert_int_equal(may(role, __NR_socketpair, f, SOCK_STREAM, 0), pair);
			assert_int_equal(may(role, __NR_socketpair, f, SOCK_STREAM | flags, 0),
					 pair);
			for (size_t k = 0; k < ARRAY_LEN(types); k++) {
				assert_false(may(role, __NR_socket, f, types[k], 0));
				assert_false(may(role, __NR_socketpair, f, types[k] | flags, 0));
			}
		}
	}
}

static void test_ioctls_by_role(void **state)
{
	(void)state;
	assert_true(may(THREAD_VCPU, __NR_ioctl, 5, KVM_RUN, 0));
	assert_false(may(THREAD_CONTROL, __NR_ioctl, 5, KVM_RUN, 0));
	assert_false(may(THREAD_IO, __NR_ioctl, 5, KVM_RUN, 0));
	assert_false(may(THREAD_WORKER, __NR_ioctl, 5, KVM_RUN, 0));
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		assert_false(may(role, __NR_ioctl, 5, KVM_CREATE_VM, 0));
		assert_false(may(role, __NR_ioctl, 5, KVM_CREATE_VCPU, 0));
		assert_false(may(role, __NR_ioctl, 5, KVM_SET_USER_MEMORY_REGION, 0));
		assert_false(may(role, __NR_ioctl, 0, TIOCSTI, 0));
	}
}

/* Who serves a queue, and where packets go. */
static void test_ioctls_of_the_network(void **state)
{
	static const struct {
		uint32_t request;
		unsigned roles;
	} table[] = {
	    {VHOST_SET_MEM_TABLE, 1u << THREAD_VCPU},
	    {VHOST_SET_VRING_CALL, 1u << THREAD_VCPU},
	    {VHOST_SET_VRING_BASE, ~(1u << THREAD_WORKER)},
	    {VHOST_GET_VRING_BASE, 1u << THREAD_IO | 1u << THREAD_SOCKETS},
	    {VHOST_NET_SET_BACKEND, ~(1u << THREAD_WORKER | 1u << THREAD_VCPU)},
	    {TUNSETOFFLOAD, 1u << THREAD_IO | 1u << THREAD_SOCKETS},
	    {TUNSETQUEUE, 1u << THREAD_IO | 1u << THREAD_SOCKETS},
	    {TUNSETTXFILTER, 1u << THREAD_IO | 1u << THREAD_SOCKETS},
	    {VHOST_SET_OWNER, 0},
	    {VHOST_SET_LOG_BASE, 0},
	    {TUNSETIFF, 0},
	    {TUNSETPERSIST, 0},
	    {TUNSETOWNER, 0},
	};

	(void)state;
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		for (size_t i = 0; i < ARRAY_LEN(table); i++)
			assert_int_equal(may(role, __NR_ioctl, 5, table[i].request, 0),
					 table[i].roles >> role & 1);
	}
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static void test_arguments_are_looked_at(void **state)
{
	(void)state;
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		assert_true(may(role, __NR_mmap, 0, 4096, PROT_READ | PROT_WRITE));
		assert_false(may(role, __NR_mmap, 0, 4096, PROT_READ | PROT_EXEC));
		assert_true(may(role, __NR_mprotect, 0, 4096, PROT_READ));
		assert_false(may(role, __NR_mprotect, 0, 4096, PROT_WRITE | PROT_EXEC));
		assert_true(may(role, __NR_tgkill, PID, 1, 1));
		assert_false(may(role, __NR_tgkill, PID + 1, 1, 1));
		/* the high half of a 64-bit register changes nothing */
		assert_false(may(role, __NR_mprotect, 0, 4096, UINT64_C(1) << 32 | PROT_EXEC));
	}
	assert_true(may(THREAD_CONTROL, __NR_unlinkat, DIR_FD, 0, 0));
	assert_false(may(THREAD_CONTROL, __NR_unlinkat, DIR_FD + 1, 0, 0));
	assert_false(may(THREAD_CONTROL, __NR_unlinkat, (uint32_t)-100, 0, 0));
	assert_false(may(THREAD_IO, __NR_unlinkat, DIR_FD, 0, 0));
	assert_true(may(THREAD_IO, __NR_clone, THREAD_FLAGS, 0, 0));
	assert_false(may(THREAD_IO, __NR_clone, SIGCHLD, 0, 0));
	assert_false(may(THREAD_IO, __NR_clone, THREAD_FLAGS | CLONE_NEWUSER, 0, 0));
	assert_false(may(THREAD_VCPU, __NR_clone, THREAD_FLAGS, 0, 0));
	assert_false(may(THREAD_CONTROL, __NR_prctl, PR_SET_DUMPABLE, 1, 0));
}
#endif

static void test_clone3_is_unknown(void **state)
{
	(void)state;
	assert_int_equal(ask(THREAD_IO, __NR_clone3, 0, 0, 0), SECCOMP_RET_ERRNO | ENOSYS);
}

static void test_no_folder_nothing_to_remove(void **state)
{
	struct seccomp_data data = {
	    .nr = __NR_unlinkat, .arch = HOST_AUDIT_ARCH, .args = {UINT32_MAX}};
	size_t n;
	const struct sandbox_rule *rules = sandbox_rules(&n);
	struct program p;

	(void)state;
	p.len = sandbox_compile(rules, n, THREAD_CONTROL, PID, &no_dirs, p.code);
	assert_true(p.len > 0);
	assert_int_equal(run(p.code, p.len, &data), SECCOMP_RET_TRAP);
}

static void test_too_many_rules(void **state)
{
	enum { MANY = 600 };
	struct sandbox_rule rules[MANY];
	struct program p;

	(void)state;
	/* more calls than there is room for, unless they are one range */
	for (int i = 0; i < 200; i++)
		rules[i] = (struct sandbox_rule){.nr = i * 2, .roles = 1};
	assert_int_equal(sandbox_compile(rules, 200, 0, PID, &no_dirs, p.code), -E2BIG);
	for (int i = 0; i < 200; i++)
		rules[i].nr = i;
	assert_in_range(sandbox_compile(rules, 200, 0, PID, &no_dirs, p.code), 1, 12);
	/* a number that no call has */
	rules[100].nr = 5000;
	assert_int_equal(sandbox_compile(rules, 200, 0, PID, &no_dirs, p.code), -E2BIG);
	/* more conditions than the program holds, and more rules */
	for (int i = 0; i < MANY; i++)
		rules[i] = (struct sandbox_rule){.nr = i % 100, .roles = 1, .check = SANDBOX_LACKS};
	assert_int_equal(sandbox_compile(rules, 400, 0, PID, &no_dirs, p.code), -E2BIG);
	assert_int_equal(sandbox_compile(rules, MANY, 0, PID, &no_dirs, p.code), -E2BIG);
	assert_true(sandbox_compile(rules, 0, 0, PID, &no_dirs, p.code) > 0);
}

/* Calls with consecutive numbers are one comparison; what is beside them, or asks for more, is not.
 */
static void test_ranges(void **state)
{
	static const struct sandbox_rule rules[] = {
	    {.nr = 3, .roles = 1}, /* the first in the program has nothing below it */
	    {.nr = 4, .roles = 1},
	    {.nr = 5, .roles = 1, .check = SANDBOX_IS, .value = 1},
	    {.nr = 6, .roles = 1},
	    {.nr = 7, .roles = 2},
	    {.nr = 9, .roles = 1},
	    {.nr = 10, .roles = 1},
	    {.nr = 11, .roles = 1, .check = SANDBOX_NOSYS},
	    /* decided already */
	    {.nr = 10, .roles = 1, .check = SANDBOX_NOSYS},
	    {.nr = 11, .roles = 1},
	};
	struct program p;

	(void)state;
	p.len = sandbox_compile(rules, sizeof(rules) / sizeof(rules[0]), 0, PID, &no_dirs, p.code);
	assert_true(p.len > 0);
	for (int nr = 0; nr < 20; nr++) {
		for (uint64_t arg = 0; arg < 2; arg++) {
			struct seccomp_data data = {
			    .nr = nr, .arch = HOST_AUDIT_ARCH, .args = {arg}};
			const bool good = nr == 3 || nr == 4 || (nr == 5 && arg) || nr == 6 ||
					  nr == 9 || nr == 10;

			assert_int_equal(run(p.code, p.len, &data),
					 good	    ? SECCOMP_RET_ALLOW
					 : nr == 11 ? (SECCOMP_RET_ERRNO | ENOSYS)
						    : SECCOMP_RET_TRAP);
		}
	}
}

/* Parts that are longer than what a conditional jump skips. */
static void test_far_jumps(void **state)
{
	enum { MANY = 120, FIRST = 10, CALLS = 50, END = FIRST + CALLS };
	struct sandbox_rule rules[MANY + CALLS];
	struct program p;

	(void)state;
	/* call 5: one of many masks; the others: one mask each */
	for (int i = 0; i < MANY; i++)
		rules[i] = (struct sandbox_rule){.nr = 5,
						 .roles = 1,
						 .check = SANDBOX_LACKS,
						 .arg = (uint8_t)(i % 3),
						 .value = i == MANY - 1 ? 1 : UINT32_MAX};
	for (int i = 0; i < CALLS; i++)
		rules[MANY + i] = (struct sandbox_rule){.nr = FIRST + i,
							.roles = 1,
							.check = SANDBOX_LACKS,
							.arg = 1,
							.value = 1u << i % 32};
	p.len = sandbox_compile(rules, MANY + CALLS, 0, PID, &no_dirs, p.code);
	assert_in_range(p.len, 2 * 255, SANDBOX_FILTER_MAX);
	for (int nr = 0; nr < END + 5; nr++) {
		const bool listed = nr == 5 || (nr >= FIRST && nr < END);

		for (unsigned bit = 0; bit < 32; bit++) {
			const uint64_t arg = UINT64_C(1) << bit;
			struct seccomp_data data = {
			    .nr = nr, .arch = HOST_AUDIT_ARCH, .args = {arg, arg, arg}};
			const bool good = nr == 5 ? bit != 0 : bit != (unsigned)(nr - FIRST) % 32;

			assert_int_equal(run(p.code, p.len, &data),
					 listed && good ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP);
		}
	}
}

static void test_on_and_off(void **state)
{
	struct sandbox s;
	struct err err = ERR_INIT;
	bool on = false;

	(void)state;
	assert_int_equal(sandbox_parse("on", &on), 0);
	assert_true(on);
	assert_int_equal(sandbox_parse("off", &on), 0);
	assert_false(on);
	assert_int_equal(sandbox_parse("maybe", &on), -EINVAL);
	assert_int_equal(sandbox_init(&s, false, true, &err), 0);
	assert_null(sandbox_threads(&s));
	assert_int_equal(sandbox_enter(&s, THREAD_CONTROL, &err), 0);
	assert_false(sandbox_entered(&s));
}

/* A child that enters with a role and makes a socket: what it said, and its status. */
static int violate(enum thread_role role, char *said, size_t size)
{
	int ends[2], status;
	ssize_t n, total = 0;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct sandbox s;

		dup2(ends[1], STDERR_FILENO);
		if (sandbox_init(&s, true, true, NULL) || sandbox_enter(&s, role, NULL))
			_exit(100);
		(void)socket(AF_INET, SOCK_STREAM, 0);
		_exit(101);
	}
	close(ends[1]);
	while ((n = read(ends[0], said + total, size - 1 - (size_t)total)) > 0)
		total += n;
	said[total] = '\0';
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_a_violation_is_named(void **state)
{
	char said[512], expected[64];

	(void)state;
	for (unsigned role = 0; role < NTHREAD_ROLES; role++) {
		assert_int_equal(violate(role, said, sizeof(said)), LODGE_HOST_FAILED);
		snprintf(expected, sizeof(expected), "(%s) called socket (%d)",
			 sandbox_role_name(role), __NR_socket);
		if (!strstr(said, "lodge: seccomp: thread ") || !strstr(said, expected) ||
		    strchr(said, '\n') != said + strlen(said) - 1)
			fail_msg("said: %s", said);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_rule_has_a_reason_and_a_name),
		cmocka_unit_test(test_programs_are_the_table),
		cmocka_unit_test(test_other_architectures_are_killed),
		cmocka_unit_test(test_nobody_reaches_out),
		cmocka_unit_test(test_sockets_are_streams_of_vsock),
		cmocka_unit_test(test_ioctls_by_role),
		cmocka_unit_test(test_ioctls_of_the_network),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		cmocka_unit_test(test_arguments_are_looked_at),
#endif
		cmocka_unit_test(test_clone3_is_unknown),
		cmocka_unit_test(test_no_folder_nothing_to_remove),
		cmocka_unit_test(test_too_many_rules),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_far_jumps),
		cmocka_unit_test(test_on_and_off),
		cmocka_unit_test(test_a_violation_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
