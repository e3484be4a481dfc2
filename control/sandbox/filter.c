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
#include <string.h>
#include <sys/socket.h>

#define RULES_MAX 512
#define CALLS_MAX 128
#define NEAR_MAX  255 /* instructions that a conditional jump may skip */

struct compiler {
	unsigned role;
	uint32_t pid;
	const struct sandbox_dirs *kept;

	const struct sandbox_rule
	    *rules[RULES_MAX]; /* the role's, by number, else in their order */
	unsigned nrules;
	unsigned calls[CALLS_MAX + 1]; /* where those of a call begin, and the end */
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

static uint32_t call_nr(const struct compiler *c, unsigned call)
{
	return (uint32_t)c->rules[c->calls[call]]->nr;
}

/* One look at the argument for all rules that compare it. */
static void emit_values(struct compiler *c, const struct sandbox_rule *const *rules, unsigned n)
{
	/* the low half of a 64-bit argument; both architectures are little-endian */
	emit_load(c, offsetof(struct seccomp_data, args) + rules[0]->arg * sizeof(uint64_t));
	for (unsigned i = 0; i < n; i++) {
		const unsigned left = n - 1 - i;

		emit(c, BPF_JMP | BPF_JEQ | BPF_K, (uint8_t)left, left ? 0 : 1, rules[i]->value);
	}
	emit_return(c, SECCOMP_RET_ALLOW);
}

static void emit_rule(struct compiler *c, const struct sandbox_rule *rule)
{
	size_t arg = offsetof(struct seccomp_data, args) + rule->arg * sizeof(uint64_t);

	switch ((enum sandbox_check)rule->check) {
	case SANDBOX_ANY:
		emit_return(c, SECCOMP_RET_ALLOW);
		return;
	case SANDBOX_NOSYS:
		emit_return(c, SECCOMP_RET_ERRNO | ENOSYS);
		return;
	case SANDBOX_IS: /* emit_values() */
		return;
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

/* Does it decide, whatever the arguments are? */
static bool is_last(const struct sandbox_rule *rule)
{
	return rule->check == SANDBOX_ANY || rule->check == SANDBOX_NOSYS;
}

static bool is_value(const struct sandbox_rule *rule, uint8_t arg)
{
	return rule->check == SANDBOX_IS && rule->arg == arg;
}

/* Rules of one call, until one decides. */
static void emit_rules(struct compiler *c, const struct sandbox_rule *const *rules, unsigned n)
{
	unsigned i = 0;

	while (i < n) {
		unsigned same = 0;

		while (i + same < n && same < NEAR_MAX && is_value(rules[i + same], rules[i]->arg))
			same++;
		if (same) {
			emit_values(c, rules + i, same);
			i += same;
			continue;
		}
		emit_rule(c, rules[i]);
		if (is_last(rules[i++]))
			return;
	}
}

/*
 * The conditional jump at `at` goes to what comes next when its condition is `when`: by itself, or,
 * where that is too far for it, through one that has no condition.
 */
static void land(struct compiler *c, unsigned at, bool when)
{
	const unsigned far = c->len - at - 1;
	struct sock_filter *jump = &c->out[at];

	if (c->full)
		return;
	if (far <= NEAR_MAX) {
		*(when ? &jump->jt : &jump->jf) = (uint8_t)far;
		return;
	}
	emit_return(c, SECCOMP_RET_TRAP); /* room */
	if (c->full)
		return;
	memmove(jump + 2, jump + 1, far * sizeof(*jump));
	jump[1] = (struct sock_filter){.code = BPF_JMP | BPF_JA, .k = far};
	jump->jt = !when;
	jump->jf = when;
}

/* The accumulator is the number of calls[call], or of none. */
static void emit_call(struct compiler *c, unsigned call)
{
	const unsigned first = c->calls[call], at = c->len;

	emit(c, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, call_nr(c, call));
	emit_rules(c, c->rules + first, c->calls[call + 1] - first);
	land(c, at, false);
	emit_return(c, SECCOMP_RET_TRAP);
}

/* The accumulator is the number of one of calls[first..first + n), or of none. */
static void emit_search(struct compiler *c, unsigned first, unsigned n)
{
	const unsigned half = n / 2, at = c->len;

	if (n == 1) {
		emit_call(c, first);
		return;
	}
	emit(c, BPF_JMP | BPF_JGE | BPF_K, 0, 0, call_nr(c, first + half));
	emit_search(c, first, half);
	land(c, at, true);
	emit_search(c, first + half, n - half);
}

/* The role's rules, those of a call together. False: too many. */
static bool collect(struct compiler *c, const struct sandbox_rule *rules, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned at = c->nrules;

		if (!(rules[i].roles & c->role))
			continue;
		if (c->nrules == RULES_MAX)
			return false;
		for (; at && c->rules[at - 1]->nr > rules[i].nr; at--)
			c->rules[at] = c->rules[at - 1];
		c->rules[at] = &rules[i];
		c->nrules++;
	}
	for (unsigned i = 0; i < c->nrules; i++) {
		if (i && c->rules[i]->nr == c->rules[i - 1]->nr)
			continue;
		if (c->ncalls == CALLS_MAX)
			return false;
		c->calls[c->ncalls++] = i;
	}
	c->calls[c->ncalls] = c->nrules;
	return true;
}

int sandbox_compile(const struct sandbox_rule *rules, size_t n, enum thread_role role, pid_t pid,
		    const struct sandbox_dirs *kept, struct sock_filter *out)
{
	struct compiler c = {.role = 1u << role, .pid = (uint32_t)pid, .kept = kept, .out = out};

	if (!collect(&c, rules, n))
		return -E2BIG;
	emit_load(&c, offsetof(struct seccomp_data, arch));
	emit(&c, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, HOST_AUDIT_ARCH);
	emit_return(&c, SECCOMP_RET_KILL_PROCESS);
	emit_load(&c, offsetof(struct seccomp_data, nr));
	if (c.ncalls)
		emit_search(&c, 0, c.ncalls);
	else
		emit_return(&c, SECCOMP_RET_TRAP);
	return c.full ? -E2BIG : (int)c.len;
}
