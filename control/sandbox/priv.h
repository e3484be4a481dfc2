/* Parts of the sandbox, for control/sandbox/ and its tests only. */
#ifndef CONTROL_SANDBOX_PRIV_H
#define CONTROL_SANDBOX_PRIV_H

#include "control/sandbox/sandbox.h"

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What is looked at besides the number of the call. Only the low 32 bits of an argument are: the
 * kernel takes no more of those that the table names. */
enum sandbox_check {
	SANDBOX_ANY,
	SANDBOX_IS,	  /* the argument is `value` */
	SANDBOX_LACKS,	  /* the argument has none of the bits of `value` */
	SANDBOX_OWN_PID,  /* the argument is this process */
	SANDBOX_KEPT_DIR, /* the argument is a directory where files may be removed */
	SANDBOX_STREAM,	  /* arguments 0 and 1: a stream socket of the family `value` */
	SANDBOX_NOSYS,	  /* fails with ENOSYS: the caller knows another way */
};

/* Several rules of one call: any of them may hold. */
struct sandbox_rule {
	int nr;
	uint8_t roles; /* bits by enum thread_role */
	uint8_t check;
	uint8_t arg; /* which argument, from 0 */
	uint32_t value;
	const char *why;
};

/* table.c */
const struct sandbox_rule *sandbox_rules(size_t *ret_n);

/* filter.c */
#define SANDBOX_FILTER_MAX 1024

/*
 * Makes a role's program of the rules: `out` has room for SANDBOX_FILTER_MAX instructions.
 * Returns their number, or -E2BIG.
 */
int sandbox_compile(const struct sandbox_rule *rules, size_t n, enum thread_role role, pid_t pid,
		    const struct sandbox_dirs *kept, struct sock_filter *out);

/* root.c: what sandbox_init() and sandbox_enter() do about files. */
enum sandbox_root sandbox_root_prepare(bool userns);
/* 0 or -errno */
int sandbox_root_empty(void);
int sandbox_landlock(const struct sandbox_dirs *kept);

/* trap.c */
int sandbox_trap_install(void);
/* This thread's role, for the message. */
void sandbox_trap_role(enum thread_role role);
const char *sandbox_role_name(enum thread_role role);
/* The name of a system call; NULL: unknown. */
const char *sandbox_syscall_name(int nr);
/* Ends the process: what `doing` says failed with `errnum` on a thread that must not go on. */
_Noreturn void sandbox_die(const char *doing, int errnum);

#endif
