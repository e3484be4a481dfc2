/*
 * Locking this process in before it runs a guest.
 *
 *   sandbox_new --(everything is opened)--> sandbox_enter: of each thread, the control thread last
 *
 * What a thread that has entered can still do: use what is open, and the system calls that its role
 * needs (control/sandbox/table.c). It has no capability, cannot gain any (no_new_privs), and the
 * root directory of the process is empty and read-only; where the host allows that neither to
 * privileges nor in a user namespace, Landlock refuses all access to files. The process cannot be
 * traced nor read by others of its user, and leaves no core file.
 *
 * A call outside of the table ends the process with one line that names it (control/sandbox/trap.c)
 * and the exit status LODGE_HOST_FAILED.
 *
 * Source: seccomp(2), capabilities(7), user_namespaces(7), fsopen(2), landlock(7).
 *
 * Threads: sandbox_new() while there is one only; sandbox_enter() on each thread for itself.
 */
#ifndef CONTROL_SANDBOX_SANDBOX_H
#define CONTROL_SANDBOX_SANDBOX_H

#include "base/err.h"
#include "base/thread.h"

#include <stdatomic.h>
#include <stdbool.h>

/* How files are kept from the process, besides seccomp. */
enum sandbox_root {
	SANDBOX_ROOT_EMPTY,    /* an empty root directory, made with the privileges it has */
	SANDBOX_ROOT_USERNS,   /* the same in a user namespace of its own */
	SANDBOX_ROOT_LANDLOCK, /* Landlock */
	SANDBOX_ROOT_NONE,     /* nothing: the host has none of these */
};

/* Directories where files may be removed. */
#define SANDBOX_DIRS_MAX 3
struct sandbox_dirs {
	int fd[SANDBOX_DIRS_MAX];
	unsigned n;
};

struct sandbox {
	struct thread_hook hook;
	bool on;
	enum sandbox_root root;
	struct sandbox_dirs kept;
	atomic_bool entered; /* by the first of THREAD_CONTROL */
};

/* "on" or "off". -EINVAL. */
int sandbox_parse(const char *value, bool *ret_on);

/*
 * Enters a user namespace where that is needed, `userns` allows it, and the host does. There all
 * users but this process's own look the same. `sandbox` outlives all threads. With `on` false all
 * that follows does nothing. -ENOSYS: the host has no seccomp.
 */
int sandbox_init(struct sandbox *sandbox, bool on, bool userns, struct err *err);

/* Before the first thread enters, SANDBOX_DIRS_MAX times at most. `dir_fd` stays open. */
void sandbox_keep_dir(struct sandbox *sandbox, int dir_fd);

/* For threads of other roles: they enter as their first act. NULL: it is off. */
struct thread_hook *sandbox_threads(struct sandbox *sandbox);

/* This thread enters. The first of THREAD_CONTROL takes the files from the whole process. */
int sandbox_enter(struct sandbox *sandbox, enum thread_role role, struct err *err);

/* Files cannot be opened any more. Any thread. */
bool sandbox_entered(const struct sandbox *sandbox);

/* ---- what this host and user have, for `lodge doctor` (control/sandbox/probe.c) ---- */

bool sandbox_has_seccomp(void);
enum sandbox_root sandbox_probe_root(void);
/* 0: none */
int sandbox_landlock_abi(void);

#endif
