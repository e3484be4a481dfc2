/*
 * Machines that boot a payload (guest/payload/) through the same calls as the lodge executable, on
 * the /dev/kvm of this host, whatever it is made of.
 *
 * Threads: all on the test's own; the control loop runs within direct_run().
 */
#ifndef TESTS_DIRECT_DIRECT_H
#define TESTS_DIRECT_DIRECT_H

#include "base/loop.h"
#include "vmm/machine.h"

#include <stdbool.h>
#include <stddef.h>

#define DIRECT_DEADLINE_S 60
#define DIRECT_CONSOLE	  65536
#define KVM_PATH	  "/dev/kvm"

struct direct {
	struct machine_config config; /* filled by direct_init(), changed by the test */
	struct loop *loop;
	struct machine *machine;

	/* When the console shows this text, `then` is called with the machine, once. */
	const char *wait_for;
	void (*then)(struct machine *machine);

	/* of machine_callbacks, with this struct for ctx */
	void (*vsock_accepted)(void *ctx, int fd);
	uint32_t vsock_port;

	bool stop_first; /* machine_stop() comes before machine_start() */

	char console[DIRECT_CONSOLE];
	size_t console_len;
	bool ended, timed_out;
	enum machine_event event;
	char reason[256];
	struct loop_timer deadline;
};

/* Why no machine can be started here, as one line; NULL: it can. */
const char *direct_unavailable(void);

/* A machine of one CPU and the least memory, without disks, that boots build/.../<payload>.elf. */
void direct_init(struct direct *d, const char *payload);

/* Builds the machine, for tests that want it before direct_run(). Fails the test if it cannot. */
void direct_make(struct direct *d);

/* Builds, starts and runs the machine to its end; fails the test when that takes over
 * DIRECT_DEADLINE_S or when building fails. */
void direct_run(struct direct *d);
void direct_fini(struct direct *d);

/* Fails the test unless the console holds the text. */
void direct_expect(const struct direct *d, const char *text);

#endif
