/*
 * Looking in place of sleeping, for loops whose events follow each other within microseconds.
 *
 * A sleep costs its thread a wake-up and, where a guest rings a doorbell, the guest an exit. While
 * events come that fast, the loop looks for them itself for a short window before it sleeps. The
 * window adapts: it doubles up to SPIN_MAX_NS (a request to a fast disk) while sleeps end within
 * that time, and is halved by one that lasts longer; so an idle loop does not spin at all.
 *
 * Threads: the loop's owner.
 */
#include "base/checked.h"
#include "base/loop_priv.h"

#include <arch_host.h>
#include <sched.h>

#define SPIN_MIN_NS UINT64_C(4000)
#define SPIN_MAX_NS UINT64_C(64000)

/* With one processor, whoever is waited for cannot get on meanwhile. */
static bool other_processors(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) > 1;
}

void loop_spin(struct loop *loop, struct loop_spinner *s)
{
	s->next = loop->spinners;
	loop->spinners = s;
	loop->can_spin = loop->ops->ready && other_processors();
}

void loop_unspin(struct loop *loop, struct loop_spinner *s)
{
	struct loop_spinner **at = &loop->spinners;

	while (*at && *at != s)
		at = &(*at)->next;
	if (*at)
		*at = s->next;
}

bool loop_spin_look(struct loop *loop)
{
	struct loop_spinner *next;
	bool found = false;

	for (struct loop_spinner *s = loop->spinners; s; s = next) {
		next = s->next;
		found |= s->look(s);
	}
	return found;
}

static bool look(struct loop *loop)
{
	return loop_spin_look(loop) || loop->ops->ready(loop) ||
	       atomic_load_explicit(&loop->posted, memory_order_relaxed) ||
	       atomic_load_explicit(&loop->stop, memory_order_relaxed);
}

static bool settle(struct loop *loop)
{
	struct loop_spinner *next;
	bool found = false;

	for (struct loop_spinner *s = loop->spinners; s; s = next) {
		next = s->next;
		found |= s->settle(s);
	}
	return found;
}

int loop_spin_before_sleep(struct loop *loop, int64_t timeout_ns)
{
	uint64_t window = loop->spin_ns, end;
	int r;

	if (timeout_ns > 0)
		window = MIN(window, (uint64_t)timeout_ns);
	if (window) {
		end = loop_now_ns() + window;
		r = loop->ops->round(loop, 0); /* what is pending has to be on its way */
		if (r)
			return r;
		if (loop->done.head) {
			loop_spin_look(loop);
			return 1;
		}
		do {
			if (look(loop))
				return 1;
			host_relax();
		} while (loop_now_ns() < end);
	}
	return settle(loop) ? 1 : 0;
}

void loop_spin_learn(struct loop *loop, uint64_t waited_ns)
{
	if (!loop->can_spin || waited_ns <= loop->spin_ns)
		return;
	if (waited_ns > SPIN_MAX_NS)
		loop->spin_ns = loop->spin_ns / 2 < SPIN_MIN_NS ? 0 : loop->spin_ns / 2;
	else
		loop->spin_ns = MIN(MAX(2 * loop->spin_ns, SPIN_MIN_NS), SPIN_MAX_NS);
}
