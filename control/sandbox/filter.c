/*
 * From the table to the program that the kernel runs at each system call of a thread.
 *
 *   another architecture          -> kill: numbers would mean other calls
 *   binary search of the number   -> not in the table: SIGSYS
 *   the rules of that call        -> the first that holds: allow; none: SIGSYS
 *
 * Linux answers calls whose arguments are not looked at from a bitmap and does not run the program
 * for them (since 5.11); for the others it takes some fifteen instructions.
 *
 * Source: seccomp(2); Linux Documentation/userspace-api/seccomp_filter.rst.
 */
#include "base/checked.h"
#include "control/sandbox/priv.h"

#include <arch_host.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/socket.h>

#define CALLS_MAX 128

struct compiler {
	const struct sandbox_rule *rules;
	size_t nrules;
	unsigned role;
	uint32_t pid;
	const struct sandbox_dirs *kept;

	uint32_t calls[CALLS_MAX]; /* ascending */
	unsigned ncalls;

	struct sock_filter *out;
	unsigned len;
	bool full;
};

static void emit(struct compiler *c, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
	if (c->len == SANDBOX_FILTER_MAX) {
		c->full = true;
		return;
	}
	c->out[c->len++] = (struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
}

static void emit_load(struct compiler *c, size_t offset)
{
	emit(c, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

static void emit_return(struct compiler *c, uint32_t action)
{
	emit(c, BPF_RET | BPF_K, 0, 0, action);
}

/* The next instruction is run only when the accumulator is `value`. */
static void emit_if(struct compiler *c, uint32_t value)
{
	emit(c, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value);
}

static bool is_mine(const struct compiler *c, const struct sandbox_rule *rule)
{
	return rule->roles & c->role;
}

static void emit_rule(struct compiler *c, const struct sandbox_rule *rule)
{
	/* the low half of a 64-bit argument; both architectures are little-endian */
	size_t arg = offsetof(struct seccomp_data, args) + rule->arg * sizeof(uint64_t);

	switch ((enum sandbox_check)rule->check) {
	case SANDBOX_ANY:
		emit_return(c, SECCOMP_RET_ALLOW);
		return;
	case SANDBOX_NOSYS:
		emit_return(c, SECCOMP_RET_ERRNO | ENOSYS);
		return;
	case SANDBOX_IS:
		emit_load(c, arg);
		emit_if(c, rule->value);
		break;
	case SANDBOX_LACKS:
		emit_load(c, arg);
		emit(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, rule->value);
		emit_if(c, 0);
		break;
	case SANDBOX_STREAM:
		emit_load(c, offsetof(struct seccomp_data, args));
		emit(c, BPF_JMP | BPF_JEQ | BPF_K, 0, 4, rule->value);
		emit_load(c, offsetof(struct seccomp_data, args) + sizeof(uint64_t));
		emit(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, ~(uint32_t)(SOCK_CLOEXEC | SOCK_NONBLOCK));
		emit_if(c, SOCK_STREAM);
		break;
	case SANDBOX_OWN_PID:
		emit_load(c, arg);
		emit_if(c, c->pid);
		break;
	case SANDBOX_KEPT_DIR:
		emit_load(c, arg);
		for (unsigned i = 0; i < c->kept->n; i++) {
			emit_if(c, (uint32_t)c->kept->fd[i]);
			emit_return(c, SECCOMP_RET_ALLOW);
		}
		return;
	}
	emit_return(c, SECCOMP_RET_ALLOW);
}

/* The accumulator is the number of one of calls[0..n). */
static void emit_search(struct compiler *c, const uint32_t *calls, unsigned n)
{
	unsigned half = n / 2, jump;

	if (n > 1) {
		emit(c, BPF_JMP | BPF_JGE | BPF_K, 0, 1, calls[half]);
		jump = c->len;
		emit(c, BPF_JMP | BPF_JA, 0, 0, 0);
		emit_search(c, calls, half);
		if (!c->full)
			c->out[jump].k = c->len - jump - 1;
		emit_search(c, calls + half, n - half);
		return;
	}
	emit(c, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, calls[0]);
	emit_return(c, SECCOMP_RET_TRAP);
	for (size_t i = 0; i < c->nrules; i++) {
		if (is_mine(c, &c->rules[i]) && (uint32_t)c->rules[i].nr == calls[0])
			emit_rule(c, &c->rules[i]);
	}
	emit_return(c, SECCOMP_RET_TRAP);
}

/* Every call of the role once, in order. False: too many. */
static bool collect(struct compiler *c)
{
	for (size_t i = 0; i < c->nrules; i++) {
		uint32_t nr = (uint32_t)c->rules[i].nr;
		unsigned at = c->ncalls;

		if (!is_mine(c, &c->rules[i]))
			continue;
		while (at && c->calls[at - 1] > nr)
			at--;
		if (at && c->calls[at - 1] == nr)
			continue;
		if (c->ncalls == CALLS_MAX)
			return false;
		for (unsigned j = c->ncalls++; j > at; j--)
			c->calls[j] = c->calls[j - 1];
		c->calls[at] = nr;
	}
	return true;
}

int sandbox_compile(const struct sandbox_rule *rules, size_t n, enum thread_role role, pid_t pid,
		    const struct sandbox_dirs *kept, struct sock_filter *out)
{
	struct compiler c = {.rules = rules,
			     .nrules = n,
			     .role = 1u << role,
			     .pid = (uint32_t)pid,
			     .kept = kept,
			     .out = out};

	if (!collect(&c))
		return -E2BIG;
	emit_load(&c, offsetof(struct seccomp_data, arch));
	emit(&c, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, HOST_AUDIT_ARCH);
	emit_return(&c, SECCOMP_RET_KILL_PROCESS);
	emit_load(&c, offsetof(struct seccomp_data, nr));
	if (c.ncalls)
		emit_search(&c, c.calls, c.ncalls);
	else
		emit_return(&c, SECCOMP_RET_TRAP);
	return c.full ? -E2BIG : (int)c.len;
}
