#include "tests/direct/direct.h"
#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *direct_unavailable(void)
{
	static char why[128];
	int fd = open(KVM_PATH, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		snprintf(why, sizeof(why), "cannot open %s: %s", KVM_PATH, strerror(errno));
		return why;
	}
	close(fd);
	return NULL;
}

/* Payloads lie beside the test in the build folder. */
static char *payload_path(const char *name)
{
	char exe[4096], *path;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	assert_true(n > 0);
	exe[n] = '\0';
	for (int up = 0; up < 3; up++)
		*strrchr(exe, '/') = '\0';
	assert_true(asprintf(&path, "%s/payload/%s.elf", exe, name) > 0);
	return path;
}

static long console_write(void *ctx, const void *buf, size_t len)
{
	struct direct *d = ctx;
	size_t n = MIN(len, sizeof(d->console) - 1 - d->console_len);

	memcpy(d->console + d->console_len, buf, n);
	d->console_len += n;
	d->console[d->console_len] = '\0';
	if (d->wait_for && strstr(d->console, d->wait_for)) {
		d->wait_for = NULL;
		d->then(d->machine);
	}
	return (long)len;
}

static void ended(void *ctx, enum machine_event event, const char *reason)
{
	struct direct *d = ctx;

	assert_false(d->ended);
	d->ended = true;
	d->event = event;
	snprintf(d->reason, sizeof(d->reason), "%s", reason);
	loop_stop(d->loop);
}

static void too_late(struct loop_timer *t)
{
	struct direct *d = container_of(t, struct direct, deadline);

	d->timed_out = true;
	machine_stop(d->machine);
}

void direct_init(struct direct *d, const char *payload)
{
	memset(d, 0, sizeof(*d));
	machine_config_init(&d->config);
	d->config.kernel = payload_path(payload);
	d->config.memory_bytes = MACHINE_MEMORY_MIN;
	d->deadline.fn = too_late;
	assert_int_equal(loop_new(NULL, &d->loop, NULL), 0);
}

void direct_make(struct direct *d)
{
	const struct uart_sink sink = {.write = console_write, .ctx = d};
	const struct machine_callbacks callbacks = {.ended = ended,
						    .vsock_accepted = d->vsock_accepted,
						    .vsock_port = d->vsock_port,
						    .ctx = d};
	struct err err = ERR_INIT;

	if (machine_new(&d->config, d->loop, &sink, &callbacks, &d->machine, &err))
		fail_msg("machine_new: %s", err.msg);
}

void direct_run(struct direct *d)
{
	if (!d->machine)
		direct_make(d);
	if (d->stop_first)
		machine_stop(d->machine);
	machine_start(d->machine);
	loop_timer_arm(d->loop, &d->deadline,
		       loop_now_ns() + UINT64_C(1000000000) * DIRECT_DEADLINE_S);
	assert_int_equal(loop_run(d->loop), 0);
	loop_timer_disarm(d->loop, &d->deadline);
	assert_true(d->ended);
	if (d->timed_out)
		fail_msg("no end after %d s; console: %s", DIRECT_DEADLINE_S, d->console);
}

void direct_fini(struct direct *d)
{
	machine_free(d->machine);
	machine_config_fini(&d->config);
	loop_free(d->loop);
}

void direct_expect(const struct direct *d, const char *text)
{
	/* A payload may print any byte. */
	if (!memmem(d->console, d->console_len, text, strlen(text)))
		fail_msg("the console lacks \"%s\": %s (%s)", text, d->console, d->reason);
}
