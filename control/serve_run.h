/* `lodge serve` as its command sees it. Threads: the loop's. */
#ifndef CONTROL_SERVE_RUN_H
#define CONTROL_SERVE_RUN_H

#include "base/loop.h"

#include <stdbool.h>

struct serve;

struct serve_setup {
	struct loop *loop;
	int listen_fd;		  /* the caller's */
	const char *runtime_dir;  /* absolute; these strings outlive the server */
	const char *storage_root; /* NULL: none */
	const char *log_level;
	bool leave_vms;	     /* at the end */
	const char *sandbox; /* of the VMs: "on" or "off" */
};

/* Takes the loop over, also on failure. Finds the VMs of a former server again; clients are
 * accepted when these have answered. */
int serve_new(const struct serve_setup *setup, struct serve **ret_serve, struct err *err);

/* Stops all VMs, or leaves them; then the loop stops. Again: without asking the guests. */
void serve_end(struct serve *serve);

/* After loop_run(). Frees the loop as well. */
void serve_free(struct serve *serve);

#endif
