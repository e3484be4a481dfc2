/*
 * `lodge console`: a VM's serial console on this terminal, over AttachConsole; with --log what was
 * kept of its output, over ReadConsole.
 *
 * On a terminal the keys of `lodge run` (control/terminal/escape.h), but that Ctrl-A x leaves the
 * VM running. A signal that ends the command ends it here: the terminal is restored on every way
 * out.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/remote/remote.h"
#include "control/terminal/escape.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define TYPED_MAX 4096
/* What may be on its way to the guest (lodge.proto, ConsoleInput). */
#define WINDOW (64 * 1024)
/* WaitVm says how a VM ended a moment after its console has. */
#define END_WAIT_MS 2000

struct console_options {
	struct remote_options remote;
	bool log;
	bool follow;
};

static int set_log(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct console_options *)target)->log = true;
	return 0;
}

static int set_follow(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct console_options *)target)->log = true;
	((struct console_options *)target)->follow = true;
	return 0;
}

static const struct option_setting console_settings[] = {
    {"log", NULL, set_log, "print the output that is kept (the last 1 MiB), and end"},
    {"follow", NULL, set_follow, "likewise, then what comes, until the VM ends; type nothing"},
    REMOTE_SETTING_SOCKET,
    {"timeout", "SECONDS", remote_set_timeout, "end after this time (never)"},
};

/* ---- output -------------------------------------------------------------------------------------
 */

/* As it is: a guest may send anything. False: nobody takes it any more. */
static bool write_all(const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(STDOUT_FILENO, data, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};

			poll(&p, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			return false;
		} else if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return true;
}

static int take_output(void *ctx, const ProtobufCMessage *msg)
{
	const Lodge__V1__ConsoleOutput *out = (const Lodge__V1__ConsoleOutput *)msg;

	(void)ctx;
	if (out->dropped_bytes)
		tty_say("lodge console: %llu bytes were lost: they came faster than they were read",
			(unsigned long long)out->dropped_bytes);
	return !write_all(out->data.data, out->data.len);
}

/* ---- --log --------------------------------------------------------------------------------------
 */

static int console_log(struct remote *r, const char *name)
{
	const struct console_options *o = (const struct console_options *)r->options;
	Lodge__V1__ReadConsoleRequest request = LODGE__V1__READ_CONSOLE_REQUEST__INIT;
	struct lodge_error error;
	int res;

	request.name = remote_borrow(name);
	request.no_follow = !o->follow;
	res = lodge_begin(r->client, "ReadConsole", &request.base, r->options->timeout_ms, &error);
	if (!res)
		res = lodge_each(r->client, take_output, r, &error);
	if (!res || (o->follow && r->options->timeout_ms && res == LODGE_STATUS_DEADLINE_EXCEEDED))
		return LODGE_OK;
	return remote_failed(r, &error);
}

/* ---- attached -----------------------------------------------------------------------------------
 */

struct attached {
	struct remote *r;
	const char *name;
	struct lodge_client *ends;  /* WaitVm, for how the VM ends; NULL: not told */
	struct lodge_client *power; /* the last StopVm by Ctrl-A p */
	struct lodge_error error;
	struct escape escape;
	bool is_terminal; /* standard input */
	bool has_input;
	uint64_t sent_bytes, taken_bytes; /* of what was typed, by us and by the guest */
	bool said_full;
	bool left;   /* by Ctrl-A x, or a signal, or nobody takes the output */
	bool failed; /* `error` says how */
	bool ended;  /* the VM has */
};

static size_t room(const struct attached *a)
{
	uint64_t under_way = a->sent_bytes - MIN(a->taken_bytes, a->sent_bytes);

	return WINDOW - (size_t)MIN(under_way, (uint64_t)WINDOW);
}

static void send_input(struct attached *a, const uint8_t *data, size_t len, bool is_break)
{
	Lodge__V1__ConsoleInput input = LODGE__V1__CONSOLE_INPUT__INIT;
	uint8_t copy[2 * TYPED_MAX];

	if (len > room(a)) { /* on a terminal only, whose keys must work all the same */
		if (!a->said_full)
			tty_say("lodge console: the guest takes no input; what is typed is lost");
		a->said_full = true;
		return;
	}
	a->said_full = false;
	a->sent_bytes += len;
	if (len)
		memcpy(copy, data, len);
	input.data = (ProtobufCBinaryData){.len = len, .data = copy};
	input.line_break = is_break;
	if (!a->failed && lodge_send(a->r->client, &input.base, &a->error))
		a->failed = true;
}

/* Ctrl-A p: as `lodge stop`, without waiting for it. */
static void press_power(struct attached *a)
{
	VmTools__Concierge__StopVmRequest request = VM_TOOLS__CONCIERGE__STOP_VM_REQUEST__INIT;
	struct lodge_error error;

	request.name = remote_borrow(a->name);
	lodge_close(a->power);
	a->power = NULL;
	if (lodge_connect(a->r->options->socket, &a->power, &error) ||
	    lodge_begin(a->power, "StopVm", &request.base, 0, &error))
		tty_say("lodge console: %s", error.text);
}

static void act(struct attached *a, enum escape_action action)
{
	switch (action) {
	case ESCAPE_NONE:
		break;
	case ESCAPE_QUIT:
		a->left = true;
		break;
	case ESCAPE_BREAK:
		send_input(a, NULL, 0, true);
		break;
	case ESCAPE_POWER:
		press_power(a);
		break;
	case ESCAPE_HELP:
		tty_say("Ctrl-A x leaves the console, p shuts the VM down, b sends a break, "
			"a sends Ctrl-A");
		break;
	}
}

/* What was typed, with the keys that are ours taken out. */
static void take_typed(struct attached *a, const uint8_t *typed, size_t n)
{
	uint8_t out[2 * TYPED_MAX];
	size_t nout = 0;

	for (size_t i = 0; i < n && !a->left; i++) {
		size_t more;
		enum escape_action action = escape_key(&a->escape, typed[i], out + nout, &more);

		nout += more;
		if (action == ESCAPE_NONE)
			continue;
		if (nout)
			send_input(a, out, nout, false);
		nout = 0;
		act(a, action);
	}
	if (nout)
		send_input(a, out, nout, false);
}

static void read_typed(struct attached *a)
{
	uint8_t typed[TYPED_MAX];
	ssize_t n = read(STDIN_FILENO, typed, sizeof(typed));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		/* a terminal that is gone ends the command; a file that ends, the typing */
		a->has_input = false;
		a->left = a->is_terminal;
		if (!a->left && lodge_send_end(a->r->client, &a->error))
			a->failed = true;
	} else if (a->is_terminal) {
		take_typed(a, typed, (size_t)n);
	} else {
		send_input(a, typed, (size_t)n, false);
	}
}

static void read_output(struct attached *a)
{
	while (!a->left && !a->failed) {
		ProtobufCMessage *msg;

		switch (lodge_next(a->r->client, 0, &msg, &a->error)) {
		case LODGE_NEXT_MESSAGE:
			a->taken_bytes = ((const Lodge__V1__ConsoleOutput *)msg)->input_taken_bytes;
			a->left = take_output(a->r, msg) != 0;
			lodge_free(msg);
			break;
		case LODGE_NEXT_NONE:
			return;
		case LODGE_NEXT_END:
			a->ended = true;
			return;
		case LODGE_NEXT_FAILED:
			a->failed = true;
			return;
		}
	}
}

static void attached_loop(struct attached *a, int signal_fd)
{
	struct pollfd p[3] = {
	    {.fd = lodge_fd(a->r->client), .events = POLLIN},
	    {.fd = signal_fd, .events = POLLIN},
	    {.fd = STDIN_FILENO, .events = POLLIN},
	};

	while (!a->left && !a->failed && !a->ended) {
		int wait_ms = a->r->options->timeout_ms ? 1000 : -1; /* lodge_next() looks at it */

		bool wants_input = a->is_terminal || room(a) >= TYPED_MAX;

		p[2].fd = a->has_input && wants_input ? STDIN_FILENO : -1;
		if (poll(p, ARRAY_LEN(p), wait_ms) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			a->left = true;
		if (!a->left && p[2].revents)
			read_typed(a);
		read_output(a);
	}
}

/* Why the VM has ended, for the last line. */
static void say_end(struct attached *a)
{
	const char *how = "its console has ended";
	ProtobufCMessage *msg = NULL;
	struct lodge_error error;

	if (a->ends && lodge_next(a->ends, END_WAIT_MS, &msg, &error) == LODGE_NEXT_MESSAGE)
		how = ((const Lodge__V1__WaitVmResponse *)msg)->reason;
	tty_say("lodge console: VM %s: %s", a->name, how);
	lodge_free(msg);
}

static int attached_run(struct attached *a)
{
	autofd int signal_fd = -1;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return remote_fail(a->r, LODGE_FAILED, "signals: %s", strerror(errno));
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signal_fd < 0)
		return remote_fail(a->r, LODGE_FAILED, "signals: %s", strerror(errno));
	a->is_terminal = !tty_adopt(STDIN_FILENO);
	a->has_input = true;
	if (a->is_terminal) {
		if (tty_foreground())
			tty_say("lodge console: VM %s; Ctrl-A x leaves, Ctrl-A ? helps", a->name);
		if (tty_raw())
			tty_say("lodge console: the terminal takes no raw mode");
	}
	attached_loop(a, signal_fd);
	tty_forget();
	if (a->is_terminal && a->left)
		tty_say("lodge console: left; VM %s goes on", a->name);
	if (a->failed && a->r->options->timeout_ms &&
	    a->error.status == LODGE_STATUS_DEADLINE_EXCEEDED)
		return LODGE_OK;
	if (a->failed)
		return remote_failed(a->r, &a->error);
	if (a->ended)
		say_end(a);
	return LODGE_OK;
}

static int console_attach(struct remote *r, const char *name)
{
	Lodge__V1__ReadConsoleRequest open = LODGE__V1__READ_CONSOLE_REQUEST__INIT;
	Lodge__V1__ConsoleInput first = LODGE__V1__CONSOLE_INPUT__INIT;
	Lodge__V1__WaitVmRequest wait = LODGE__V1__WAIT_VM_REQUEST__INIT;
	struct attached a = {.r = r, .name = name};
	int status;

	open.name = wait.name = remote_borrow(name);
	first.open = &open;
	if (lodge_begin(r->client, "AttachConsole", NULL, r->options->timeout_ms, &a.error) ||
	    lodge_send(r->client, &first.base, &a.error))
		return remote_failed(r, &a.error);
	if (!lodge_connect(r->options->socket, &a.ends, NULL) &&
	    lodge_begin(a.ends, "WaitVm", &wait.base, 0, NULL)) {
		lodge_close(a.ends);
		a.ends = NULL;
	}
	status = attached_run(&a);
	lodge_close(a.power);
	lodge_close(a.ends);
	return status;
}

/* ---- the command --------------------------------------------------------------------------------
 */

static int console_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	(void)noperands;
	if (((const struct console_options *)r->options)->log)
		return console_log(r, operands[0]);
	return console_attach(r, operands[0]);
}

static const struct remote_command console_command = {
    .name = "console",
    .usage = "NAME",
    .about = "Shows a VM's serial console, the last output first, and sends it what is typed.\n"
	     "Several may watch and type at the same time.\n",
    .more = "On a terminal: Ctrl-A x leaves the console and the VM running, Ctrl-A p shuts the\n"
	    "VM down as `lodge stop` does, Ctrl-A b sends a break (SysRq), Ctrl-A a sends Ctrl-A,\n"
	    "Ctrl-A ? lists these.\n",
    .settings = console_settings,
    .nsettings = ARRAY_LEN(console_settings),
    .operands_min = 1,
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = console_run,
};

int cmd_console(int argc, char **argv)
{
	struct console_options options = {.log = false};

	return remote_run(&console_command, &options.remote, argc, argv);
}

void cmd_console_help(void)
{
	remote_help(&console_command);
}
