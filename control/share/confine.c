/*
 * What a share's server gives up before it is executed: privileges, system calls, memory without
 * end. See control/share/jail.h.
 */
#include "base/checked.h"
#include "control/share/jail_priv.h"
#include "control/share/preload/handles.h"

#include <arch_host.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What root may do with files. The server acts as the share's user where it makes files or opens
 * them by name; attributes it sets as root, by handle, after it has looked whether the user may. */
#define CAPABILITIES                                                                               \
	(1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | \
	 1u << CAP_FSETID | 1u << CAP_SETGID | 1u << CAP_SETUID)

/* Of a thread; it has up to some hundred. */
#define STACK_BYTES   (1u << 20)
#define ADDRESS_BYTES (UINT64_C(4) << 30)
#define FILES	      16384

#define NAMESPACES                                                                                 \
	(CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | \
	 CLONE_NEWCGROUP)

/* What would be of use to who has taken the server over, and is of none to the server. */
static const struct {
	int nr, error;
} refused[] = {
    {SYS_connect, ECONNREFUSED},
    {SYS_clone3, ENOSYS}, /* its flags are in memory: clone(2) is there */
    {SYS_unshare, EPERM},
    {SYS_setns, EPERM},
    {SYS_chroot, EPERM},
    {SYS_pivot_root, EPERM},
    {SYS_mount, EPERM},
    {SYS_umount2, EPERM},
    {SYS_open_tree, EPERM},
    {SYS_move_mount, EPERM},
    {SYS_fsopen, EPERM},
    {SYS_fspick, EPERM},
    {SYS_mount_setattr, EPERM},
    {SYS_ptrace, EPERM},
    {SYS_process_vm_readv, EPERM},
    {SYS_process_vm_writev, EPERM},
    {SYS_bpf, EPERM},
    {SYS_perf_event_open, EPERM},
    {SYS_userfaultfd, EPERM},
    {SYS_io_uring_setup, EPERM},
    {SYS_keyctl, EPERM},
    {SYS_add_key, EPERM},
    {SYS_request_key, EPERM},
    {SYS_personality, EPERM},
};

#define FILTER_MAX (2 * ARRAY_LEN(refused) + 16)

static int refuse_calls(void)
{
	struct sock_filter code[FILTER_MAX];
	struct sock_fprog program = {.filter = code};
	unsigned n = 0;

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
	code[n++] = (struct sock_filter)LOAD(arch);
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, HOST_AUDIT_ARCH, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	code[n++] = (struct sock_filter)LOAD(nr);
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 (uint32_t)refused[i].nr, 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(
		    BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)refused[i].error);
	}
	/* open_by_handle_at(2): through the preloaded library, or not at all */
	code[n++] =
	    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_open_by_handle_at, 0, 4);
	code[n++] = (struct sock_filter)LOAD(args[5]);
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, HANDLES_MARK, 0, 1);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	/* clone(2): threads, and no namespaces; the low half of the first argument */
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3);
	code[n++] = (struct sock_filter)LOAD(args);
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
#undef LOAD
	program.len = (unsigned short)n;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ? -errno : 0;
}

/* Root's after execve(2): what the bounding set has. */
static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
	    {.effective = CAPABILITIES, .permitted = CAPABILITIES}};

	for (unsigned c = 0; prctl(PR_CAPBSET_READ, c) >= 0; c++) {
		if ((c >= 32 || !(CAPABILITIES >> c & 1)) && prctl(PR_CAPBSET_DROP, c))
			return -errno;
	}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return syscall(SYS_capset, &head, data) ? -errno : 0;
}

static int limit(int resource, uint64_t most)
{
	const struct rlimit limit = {.rlim_cur = most, .rlim_max = most};

	return setrlimit(resource, &limit) ? -errno : 0;
}

int jail_confine(const char **ret_what)
{
	int res;

	*ret_what = "limits";
	res = limit(RLIMIT_CORE, 0);
	if (!res)
		res = limit(RLIMIT_STACK, STACK_BYTES);
	if (!res)
		res = limit(RLIMIT_AS, ADDRESS_BYTES);
	if (!res)
		res = limit(RLIMIT_NOFILE, FILES);
	if (res)
		return res;
	*ret_what = "giving up privileges";
	if (syscall(SYS_setgroups, 0, NULL))
		return -errno;
	res = drop_capabilities();
	if (!res && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		res = -errno;
	if (res)
		return res;
	*ret_what = "seccomp";
	return refuse_calls();
}
