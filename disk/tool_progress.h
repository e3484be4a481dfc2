/* How a tool that works for long tells how far it is, and is stopped. Threads: the tool's. */
#ifndef DISK_TOOL_PROGRESS_H
#define DISK_TOOL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct tool_progress {
	/* Called now and then; false: stop with -ECANCELED. */
	bool (*at)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};

/* Go on? `progress` may be NULL. */
static inline bool tool_progress_at(const struct tool_progress *progress, uint64_t done,
				    uint64_t total)
{
	return !progress || !progress->at || progress->at(progress->ctx, done, total);
}

#endif
