/*
 * `lodge serve`: the calls, for many VMs, each in a process of its own (control/serve/vm.h).
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_SERVE_SERVE_H
#define CONTROL_SERVE_SERVE_H

#include "control/access/access.h"

struct serve;

/* What a StartVm gets that does not say it; 0: what `lodge vmm` takes then. */
struct serve_defaults {
	unsigned cpus;
	uint64_t memory_bytes;
	bool mmio;
	char *share_user; /* of shares that name none, where root asks; NULL: nobody */
	char *net;	  /* in the words of --net; NULL: none */
};

struct serve_setup {
	struct loop *loop;
	int listen_fd; /* the caller's */
	struct access *access;
	const char *runtime_dir;  /* absolute; these strings outlive the server */
	const char *storage_root; /* NULL: none */
	const char *component_root;
	const char *log_level;
	bool sandbox; /* of the VMs */
	struct serve_defaults defaults;
	bool leave_vms; /* at the end */
	/* Clients are accepted from now on. May be NULL. */
	void (*ready)(void *ctx);
	void *ctx;
};

/* Takes the loop over, also on failure. Finds the VMs of a former server again; clients are
 * accepted when these have answered. */
int serve_new(const struct serve_setup *setup, struct serve **ret_serve, struct err *err);

/* Stops all VMs, or leaves them; then the loop stops. Again: without asking the guests. */
void serve_end(struct serve *serve);

/* After loop_run(). Frees the loop as well. */
void serve_free(struct serve *serve);

#endif
