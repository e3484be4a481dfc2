/*
 * From the table to the program that the kernel runs at each system call of a thread.
 *
 *   another architecture          -> kill: numbers would mean other calls
 *   binary search of the number   -> not in the table: SIGSYS
 *   the rules of that call        -> the first that holds: allow; none: SIGSYS
 *
 * Linux answers calls whose arguments are not looked at from a bitmap and does not run the program
 * for them (since 5.11); for the others it takes some fifteen instructions. What a program costs is
 * its start: checking and translating each instruction takes the kernel about a thousand.
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

#define RULES_MAX   512
#define CALLS_MAX   128
#define NUMBERS_MAX 512 /* of the system calls of all architectures */
#define NEAR_MAX    255 /* instructions that a conditional jump may skip */

/* Calls with consecutive numbers that are all allowed, or one call with its rules. */
struct call {
	uint16_t first, last;
};

/*
 * The program is written from its end, as jumps go forward only: where they lead is there already.
 * A place in it is its index in `code`.
 */
struct compiler {
	unsigned role;
	uint32_t pid;
	const struct sandbox_dirs *kept;

	const struct sandbox_rule *rules;
	uint16_t last_rule[NUMBERS_MAX]; /* the role's of each number, counted from 1; 0: none */
	uint16_t rule_before[RULES_MAX]; /* of the same number, likewise */
	struct call calls[CALLS_MAX];	 /* by number */
	unsigned ncalls;

	struct sock_filter *code;
	unsigned at;	      /* the first instruction so far */
	unsigned allow, trap; /* the nearest of these returns */
	bool full;
};

static unsigned put(struct compiler *c, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
	if (c->at)
		c->code[--c->at] = (struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
	else
		c->full = true;
	return c->at;
}

static unsigned put_load(struct compiler *c, size_t offset)
{
	return put(c, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

/* The low half of a 64-bit argument; both architectures are little-endian. */
static unsigned put_load_arg(struct compiler *c, unsigned arg)
{
	return put_load(c, offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t));
}

static unsigned put_return(struct compiler *c, uint32_t action)
{
	return put(c, BPF_RET | BPF_K, 0, 0, action);
}

/* `place`, or one that does the same and that a jump reaches, also from one instruction before. */
static unsigned within_reach(struct compiler *c, unsigned place)
{
	const struct sock_filter *to = &c->code[place];
	unsigned *near = place == c->allow ? &c->allow : place == c->trap ? &c->trap : NULL;

	if (place - c->at < NEAR_MAX)
		return place;
	if (!near)
		return put(c, BPF_JMP | BPF_JA, 0, 0, place - c->at);
	*near = put_return(c, to->k);
	return *near;
}

/* Compares the accumulator, BPF_JEQ, BPF_JGE or BPF_JGT, with `k`. */
static unsigned put_branch(struct compiler *c, uint16_t how, uint32_t k, unsigned yes, unsigned no)
{
	yes = within_reach(c, yes);
	no = within_reach(c, no);
	return put(c, BPF_JMP | BPF_K | how, (uint8_t)(yes - c->at), (uint8_t)(no - c->at), k);
}

/* Goes to `next` where the rule does not hold. */
static unsigned put_rule(struct compiler *c, const struct sandbox_rule *rule, unsigned next)
{
	unsigned type;

	switch ((enum sandbox_check)rule->check) {
	case SANDBOX_ANY:
		return c->allow;
	case SANDBOX_NOSYS:
		return put_return(c, SECCOMP_RET_ERRNO | ENOSYS);
	case SANDBOX_IS: /* who calls has the argument loaded */
		return put_branch(c, BPF_JEQ, rule->value, c->allow, next);
	case SANDBOX_LACKS:
		put_branch(c, BPF_JEQ, 0, c->allow, next);
		put(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, rule->value);
		break;
	case SANDBOX_STREAM:
		put_branch(c, BPF_JEQ, SOCK_STREAM, c->allow, next);
		put(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, ~(uint32_t)(SOCK_CLOEXEC | SOCK_NONBLOCK));
		type = put_load_arg(c, 1);
		put_branch(c, BPF_JEQ, rule->value, type, next);
		return put_load_arg(c, 0);
	case SANDBOX_OWN_PID:
		put_branch(c, BPF_JEQ, c->pid, c->allow, next);
		break;
	case SANDBOX_KEPT_DIR:
		if (!c->kept->n)
			return next;
		for (unsigned i = 0; i < c->kept->n; i++)
			next = put_branch(c, BPF_JEQ, (uint32_t)c->kept->fd[i], c->allow, next);
		break;
	}
	return put_load_arg(c, rule->arg);
}

static const struct sandbox_rule *rule_before(const struct compiler *c,
					      const struct sandbox_rule *rule)
{
	const unsigned before = c->rule_before[rule - c->rules];

	return before ? &c->rules[before - 1] : NULL;
}

static const struct sandbox_rule *last_rule(const struct compiler *c, unsigned nr)
{
	return &c->rules[c->last_rule[nr] - 1];
}

/* The rules of a call, from the last to the first. */
static unsigned put_rules(struct compiler *c, unsigned nr)
{
	const struct sandbox_rule *rule = last_rule(c, nr), *before;
	unsigned next = c->trap;

	for (; rule; rule = before) {
		before = rule_before(c, rule);
		next = put_rule(c, rule, next);
		/* one look at the argument for all rules that compare it */
		if (rule->check == SANDBOX_IS &&
		    (!before || before->check != SANDBOX_IS || before->arg != rule->arg))
			next = put_load_arg(c, rule->arg);
	}
	return next;
}

/* The accumulator is below calls[i + 1], and not below calls[i] unless that is the first. */
static unsigned put_call(struct compiler *c, unsigned i)
{
	const struct call *call = &c->calls[i];
	unsigned place = put_rules(c, call->first);

	if (call->first == call->last)
		return put_branch(c, BPF_JEQ, call->first, place, c->trap);
	place = put_branch(c, BPF_JGT, call->last, c->trap, place);
	return i ? place : put_branch(c, BPF_JGE, call->first, place, c->trap);
}

/* The same for n calls. */
static unsigned put_search(struct compiler *c, unsigned first, unsigned n)
{
	const unsigned half = n / 2;
	unsigned right, left;

	if (n == 1)
		return put_call(c, first);
	right = put_search(c, first + half, n - half);
	left = put_search(c, first, half);
	return put_branch(c, BPF_JGE, c->calls[first + half].first, right, left);
}

/* Is no rule asked behind this one? */
static bool decides(const struct sandbox_rule *rule)
{
	return rule->check == SANDBOX_ANY || rule->check == SANDBOX_NOSYS;
}

/* Is the call allowed whatever its arguments are? */
static bool is_plain(const struct compiler *c, unsigned nr)
{
	const struct sandbox_rule *rule = last_rule(c, nr);

	return rule->check == SANDBOX_ANY && !rule_before(c, rule);
}

/* False: too many. */
static bool add_call(struct compiler *c, uint16_t nr)
{
	struct call *last = &c->calls[c->ncalls ? c->ncalls - 1 : 0];

	if (c->ncalls && last->last == nr - 1 && is_plain(c, last->last) && is_plain(c, nr)) {
		last->last = nr;
		return true;
	}
	if (c->ncalls == CALLS_MAX)
		return false;
	c->calls[c->ncalls++] = (struct call){.first = nr, .last = nr};
	return true;
}

/* The role's rules, those of a call together. False: too many, or a number that is too large. */
static bool collect(struct compiler *c, size_t n)
{
	if (n > RULES_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		const struct sandbox_rule *rule = &c->rules[i];

		if (!(rule->roles & c->role))
			continue;
		if ((unsigned)rule->nr >= NUMBERS_MAX)
			return false;
		if (c->last_rule[rule->nr] && decides(last_rule(c, (unsigned)rule->nr)))
			continue;
		c->rule_before[i] = c->last_rule[rule->nr];
		c->last_rule[rule->nr] = (uint16_t)(i + 1);
	}
	for (uint16_t nr = 0; nr < NUMBERS_MAX; nr++) {
		if (c->last_rule[nr] && !add_call(c, nr))
			return false;
	}
	return true;
}

int sandbox_compile(const struct sandbox_rule *rules, size_t n, enum thread_role role, pid_t pid,
		    const struct sandbox_dirs *kept, struct sock_filter *out)
{
	struct compiler c = {.role = 1u << role,
			     .pid = (uint32_t)pid,
			     .kept = kept,
			     .rules = rules,
			     .code = out,
			     .at = SANDBOX_FILTER_MAX};
	unsigned number, kill, len;

	if (!collect(&c, n))
		return -E2BIG;
	c.trap = put_return(&c, SECCOMP_RET_TRAP);
	c.allow = put_return(&c, SECCOMP_RET_ALLOW);
	if (c.ncalls)
		put_search(&c, 0, c.ncalls);
	else
		put_return(&c, SECCOMP_RET_TRAP);
	number = put_load(&c, offsetof(struct seccomp_data, nr));
	kill = put_return(&c, SECCOMP_RET_KILL_PROCESS);
	put_branch(&c, BPF_JEQ, HOST_AUDIT_ARCH, number, kill);
	put_load(&c, offsetof(struct seccomp_data, arch));
	if (c.full)
		return -E2BIG;
	len = SANDBOX_FILTER_MAX - c.at;
	memmove(out, out + c.at, len * sizeof(*out));
	return (int)len;
}
