/*
 * `lodge run`: one machine in this process, its console on the terminal, its end as exit status.
 *
 *   parse -> open console -> machine_new -> machine_start -> loop -> ended -> drain -> exit status
 *                               |                              |
 *                               |                              +- mounts; calls of --exec:
 * run/guest.h
 *                               +- all is open: this process locks itself in
 *
 * Until the machine is made, signals do what they do to any process. Then they arrive through a
 * signalfd on the control loop: the first that asks for an end presses the power button; the
 * second, or the timeout, stops the machine.
 *
 * Threads: all of this on the main thread; every other blocks all signals.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/command.h"
#include "control/kept_file.h"
#include "control/network/networks.h"
#include "control/options/options.h"
#include "control/outcome.h"
#include "control/run/exec.h"
#include "control/run/guest.h"
#include "control/sandbox/sandbox.h"
#include "control/share/share.h"
#include "control/terminal/console.h"
#include "control/terminal/tty.h"
#include "vmm/machine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_LOOP_ENTRIES   32
#define RUN_DRAIN_STALL_MS 2000 /* a reader that takes nothing for so long has lost the rest */

struct run {
	struct run_options options;
	struct sandbox sandbox;
	struct loop *loop;
	struct machine *machine;
	struct console *console; /* NULL: --console none */
	int console_fd;		 /* --console file */
	int dtb_fd;		 /* --dump-dtb */
	bool dtb_written;
	bool console_created;
	struct kept_file console_file; /* --console file */
	struct kept_file vsock_file;   /* --vsock socket */
	struct kept_file dtb_file;     /* --dump-dtb, made by us */
	struct networks networks;
	struct shares *shares; /* NULL: none */
	uint64_t started_ns;
	struct run_guest guest;
	int calls_fd;	   /* --exec: where its process calls; -1: none */
	bool quiet;	   /* it has had what it wanted */
	struct err failed; /* the guest's part of the start has */

	int signal_fd;
	bool signal_waiting;
	struct loop_op signal_op;
	struct loop_timer stop_timer;
	int signal;   /* the first that asked for an end; 0: none */
	bool escaped; /* the user ended it from the console */

	bool ended;
	enum machine_event event;
	char reason[ERR_MSG_MAX];
};

/* ---- ways to the end --------------------------------------------------------------------------
 */

static void run_ended(void *ctx, enum machine_event event, const char *reason)
{
	struct run *run = ctx;

	run->ended = true;
	run->event = event;
	snprintf(run->reason, sizeof(run->reason), "%s", reason);
	loop_stop(run->loop);
}

static void run_stop_timeout(struct loop_timer *t)
{
	struct run *run = container_of(t, struct run, stop_timer);

	if (!run->ended)
		machine_stop(run->machine);
}

static void run_press_button(void *ctx)
{
	struct run *run = ctx;

	if (!run->ended)
		machine_power_button(run->machine);
}

/* Asks the guest to shut down; returns what has been done for that. */
static const char *run_ask_guest(struct run *run)
{
	run->stop_timer.fn = run_stop_timeout;
	loop_timer_arm(run->loop, &run->stop_timer,
		       loop_now_ns() + run->options.stop_timeout_s * UINT64_C(1000000000));
	if (run_guest_shutdown(&run->guest, run_press_button))
		return "the guest's agent was asked to shut down";
	machine_power_button(run->machine);
	return "power button pressed";
}

/* A signal asks for the end. */
static void run_end_signal(struct run *run, int sig)
{
	const char *what;

	if (run->ended)
		return;
	if (run->signal || sig == SIGQUIT || !run->options.stop_timeout_s) {
		if (!run->signal)
			run->signal = sig;
		machine_stop(run->machine);
		return;
	}
	run->signal = sig;
	what = run_ask_guest(run);
	tty_say("lodge: SIG%s: %s; the machine is stopped in %u s, or at once by another signal",
		sigabbrev_np(sig), what, run->options.stop_timeout_s);
}

/* ---- the guest's agent --------------------------------------------------------------------------
 */

static void run_guest_failed(void *ctx, const struct err *err)
{
	struct run *run = ctx;

	run->failed = *err;
	if (!run->ended)
		machine_stop(run->machine);
}

static void run_shares_changed(void *ctx)
{
	run_guest_shares_changed(&((struct run *)ctx)->guest);
}

/* The command of --exec has ended. */
static void run_guest_over(void *ctx)
{
	struct run *run = ctx;

	if (run->ended || run->signal)
		return;
	run->quiet = true;
	if (run->guest.server && run->options.stop_timeout_s)
		run_ask_guest(run);
	else
		machine_stop(run->machine);
}

static void run_vsock_accepted(void *ctx, int fd)
{
	guest_said_ready(&((struct run *)ctx)->guest.guest, fd);
}

static void run_console_action(void *ctx, enum escape_action action)
{
	struct run *run = ctx;

	if (run->ended)
		return;
	if (action == ESCAPE_QUIT) {
		run->escaped = true;
		machine_stop(run->machine);
	} else {
		machine_power_button(run->machine);
		tty_say("lodge: power button pressed");
	}
}

/* ---- signals ----------------------------------------------------------------------------------
 */

/* Stops this process as the shell asked; returns when it goes on. */
static void run_suspend(struct run *run)
{
	if (run->console)
		console_suspend(run->console);
	raise(SIGSTOP);
	if (run->console)
		console_resume(run->console);
}

static void run_signalled(struct loop_op *op, int res)
{
	struct run *run = container_of(op, struct run, signal_op);
	struct signalfd_siginfo info;

	run->signal_waiting = false;
	if (res == -ECANCELED)
		return;
	while (read(run->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		switch (info.ssi_signo) {
		case SIGTSTP:
			run_suspend(run);
			break;
		case SIGCONT:
			if (run->console)
				console_resume(run->console);
			break;
		default:
			run_end_signal(run, (int)info.ssi_signo);
			break;
		}
	}
	run->signal_waiting = true;
	loop_poll(run->loop, &run->signal_op, run->signal_fd, POLLIN);
}

/* Blocks the signals that are handled here. */
static int run_signals_open(struct run *run, struct err *err)
{
	static const int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT};
	sigset_t set, blocked;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(handled); i++) {
		struct sigaction sa;

		/* what the caller has us ignore (nohup, a shell's background job) stays ignored */
		if (sigaction(handled[i], NULL, &sa) == 0 && sa.sa_handler != SIG_IGN)
			sigaddset(&set, handled[i]);
	}
	blocked = set;
	sigaddset(&blocked, SIGTTOU); /* the terminal is restored even from the background */
	sigaddset(&blocked, SIGTTIN);
	if (sigprocmask(SIG_BLOCK, &blocked, NULL))
		return err_sys(err, errno, "cannot block signals");
	run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run->signal_fd < 0)
		return err_sys(err, errno, "signalfd");
	run->signal_op.done = run_signalled;
	run->signal_waiting = true;
	loop_poll(run->loop, &run->signal_op, run->signal_fd, POLLIN);
	return 0;
}

/* ---- the console's file -------------------------------------------------------------------------
 */

static bool same_file(const char *path, const struct stat *st)
{
	struct stat other;

	return path && stat(path, &other) == 0 && other.st_dev == st->st_dev &&
	       other.st_ino == st->st_ino;
}

static bool run_file_taken(const void *ctx, const struct stat *st)
{
	const struct machine_config *m = ctx;

	for (unsigned i = 0; i < m->ndisks; i++) {
		if (same_file(m->disks[i].image.path, st) ||
		    same_file(m->disks[i].image.data_file, st))
			return true;
	}
	return same_file(m->kernel, st) || same_file(m->initrd, st);
}

static int run_console_open(struct run *run, struct err *err)
{
	struct console_callbacks callbacks = {.action = run_console_action, .ctx = run};
	int in_fd = STDIN_FILENO, out_fd = STDOUT_FILENO;

	if (run->options.console == RUN_CONSOLE_NONE)
		return 0;
	if (run->options.console == RUN_CONSOLE_FILE) {
		int rc = console_open_file(run->options.console_path, run_file_taken,
					   &run->options.machine, &run->console_fd,
					   &run->console_created, err);

		if (!rc && run->console_created)
			rc = kept_file_open(&run->console_file, run->options.console_path, err);
		if (rc)
			return rc;
		sandbox_keep_dir(&run->sandbox, run->console_file.dir_fd);
		in_fd = -1;
		out_fd = run->console_fd;
	}
	return console_new(run->loop, in_fd, out_fd, &callbacks, &run->console, err);
}

/* The former contents go when the machine is sure to start, and not before. */
static int run_console_empty(struct run *run, struct err *err)
{
	struct stat st;

	if (run->console_fd < 0 || fstat(run->console_fd, &st) || !S_ISREG(st.st_mode))
		return 0;
	if (ftruncate(run->console_fd, 0))
		return err_sys(err, errno, "console file %s: cannot be emptied",
			       run->options.console_path);
	return 0;
}

/* ---- the device tree's file ---------------------------------------------------------------------
 */

/* Before this process is locked in. */
static int run_dtb_open(struct run *run, struct err *err)
{
	const char *path = run->options.dump_dtb;
	const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY;
	struct stat st;
	int rc;

	if (!path)
		return 0;
	rc = kept_file_open(&run->dtb_file, path, err);
	if (rc)
		return rc;
	run->dtb_fd = open(path, flags | O_EXCL, 0666);
	if (run->dtb_fd >= 0) {
		sandbox_keep_dir(&run->sandbox, run->dtb_file.dir_fd);
	} else {
		kept_file_close(&run->dtb_file);
		run->dtb_fd = open(path, flags, 0666);
	}
	if (run->dtb_fd < 0 || fstat(run->dtb_fd, &st))
		return err_sys(err, errno, "--dump-dtb %s", path);
	if (run_file_taken(&run->options.machine, &st))
		return err_set(err, EINVAL, "--dump-dtb %s: the machine has this file itself",
			       path);
	return 0;
}

static int run_dtb_write(struct run *run, struct err *err)
{
	size_t len;
	const char *dtb = machine_dtb(run->machine, &len);
	struct stat st;

	if (run->dtb_fd < 0)
		return 0;
	assert(dtb); /* the options were checked */
	if (!fstat(run->dtb_fd, &st) && S_ISREG(st.st_mode) && ftruncate(run->dtb_fd, 0))
		return err_sys(err, errno, "--dump-dtb %s", run->options.dump_dtb);
	while (len) {
		ssize_t n = write(run->dtb_fd, dtb, len);

		if (n < 0)
			return err_sys(err, errno, "--dump-dtb %s", run->options.dump_dtb);
		dtb += n;
		len -= (size_t)n;
	}
	run->dtb_written = true;
	return 0;
}

/* ---- from start to end --------------------------------------------------------------------------
 */

static int run_lock_in(void *ctx, struct err *err)
{
	return sandbox_enter(&((struct run *)ctx)->sandbox, THREAD_CONTROL, err);
}

static int run_start(struct run *run, struct err *err)
{
	struct machine_callbacks callbacks = {
	    .ended = run_ended, .lock_in = run_lock_in, .ctx = run};
	struct loop_opts loop_opts = {.backend = run->options.machine.loop_backend,
				      .entries = RUN_LOOP_ENTRIES,
				      .workers = 1,
				      .use = LOOP_USE_STREAMS};
	const struct run_guest_callbacks guest_callbacks = {
	    .failed = run_guest_failed, .over = run_guest_over, .ctx = run};
	int rc;

	rc = sandbox_init(&run->sandbox, run->options.sandbox, true, err);
	if (rc)
		return rc;
	loop_opts.threads = callbacks.threads = sandbox_threads(&run->sandbox);
	rc = loop_new(&loop_opts, &run->loop, err);
	if (rc)
		return rc;
	rc = run_console_open(run, err);
	if (!rc)
		rc = run_dtb_open(run, err);
	if (rc)
		return rc;
	rc = shares_check(&run->options.machine, err);
	if (!rc)
		rc = networks_open(&run->networks, &run->options.machine,
				   &(struct networks_rights){0}, err);
	if (!rc)
		rc = shares_open(&run->options.machine,
				 &(struct shares_rights){.uid = getuid(), .gid = getgid()},
				 &run->shares, err);
	if (rc)
		return rc;
	if (run->options.machine.vsock.socket) {
		rc = kept_file_open(&run->vsock_file, run->options.machine.vsock.socket, err);
		if (rc)
			return rc;
		sandbox_keep_dir(&run->sandbox, run->vsock_file.dir_fd);
	}
	run_guest_init(&run->guest, run->loop, &guest_callbacks);
	if (boot_wanted(&run->options.machine)) {
		callbacks.vsock_accepted = run_vsock_accepted;
		callbacks.vsock_port = READY_PORT;
	}
	rc = machine_new(&run->options.machine, run->loop,
			 run->console ? console_sink(run->console) : NULL, &callbacks,
			 &run->machine, err);
	if (!rc)
		rc = run_dtb_write(run, err);
	if (rc || run->options.dry_run)
		return rc;
	rc = run_console_empty(run, err);
	if (rc)
		return rc;
	/* From here on: before, a signal simply ends this process, so that taking hundreds of GiB
	 * of memory can be broken off. */
	rc = run_signals_open(run, err);
	if (rc)
		return rc;
	if (run->console)
		console_connect(run->console, machine_uart(run->machine));
	if (boot_wanted(&run->options.machine))
		run_guest_begin(&run->guest, run->machine, &run->options.machine, run->shares,
				run->options.start_timeout_ms, run->calls_fd);
	networks_watch(&run->networks, run->machine, run->loop);
	shares_watch(run->shares, run->loop, run_shares_changed, run);
	machine_start(run->machine);
	return 0;
}

/* Undoes run_start(), as far as it came. */
static void run_finish(struct run *run, bool started)
{
	if (started && run->console)
		console_drain(run->console, RUN_DRAIN_STALL_MS);
	if (run->machine) /* which has made the socket */
		kept_file_remove(&run->vsock_file);
	kept_file_close(&run->vsock_file);
	if (run->loop)
		run_guest_end(&run->guest);
	machine_free(run->machine);
	shares_free(run->shares);
	networks_free(&run->networks);
	if (run->console)
		console_close(run->console);
	if (run->loop) {
		loop_timer_disarm(run->loop, &run->stop_timer);
		if (run->signal_waiting)
			loop_cancel(run->loop, &run->signal_op);
		loop_free(run->loop);
	}
	run_guest_free(&run->guest);
	console_free(run->console);
	if (!started)
		kept_file_remove(&run->console_file);
	kept_file_close(&run->console_file);
	if (!run->dtb_written)
		kept_file_remove(&run->dtb_file);
	kept_file_close(&run->dtb_file);
	cleanup_fd(&run->console_fd);
	cleanup_fd(&run->dtb_fd);
	cleanup_fd(&run->signal_fd);
}

/* Says why the machine ended; returns the exit status. */
static int run_outcome(const struct run *run)
{
	double seconds = (double)(loop_now_ns() - run->started_ns) / 1e9;
	char why[ERR_MSG_MAX + 64];
	int status = outcome_status(run->event);

	if (run->failed.code) {
		tty_say("lodge run: %s", run->failed.msg);
		return LODGE_FAILED;
	}
	if (run->quiet)
		return LODGE_OK;
	snprintf(why, sizeof(why), "%s", run->reason);
	if (run->event == MACHINE_STOPPED && run->escaped) {
		snprintf(why, sizeof(why), "ended from the console");
		status = LODGE_ESCAPED;
	} else if (run->event == MACHINE_STOPPED && run->signal) {
		snprintf(why, sizeof(why), "stopped by SIG%s", sigabbrev_np(run->signal));
		status = LODGE_SIGNALLED + run->signal;
	}
	tty_say("lodge: %s after %.1f s", why, seconds);
	return status;
}

static int run_machine(struct run *run)
{
	struct err err = ERR_INIT;
	int rc = run_start(run, &err);
	bool started = rc == 0 && !run->options.dry_run;

	if (started)
		rc = loop_run(run->loop);
	run_finish(run, started);
	if (!started && rc == 0) {
		if (!run->options.dump_dtb)
			tty_say("lodge run: the machine can be made; nothing was started "
				"(--dry-run)");
		return LODGE_OK;
	}
	if (!started) {
		tty_say("lodge run: %s", err.msg);
		return LODGE_FAILED;
	}
	if (!run->ended) {
		tty_say("lodge run: the event loop failed: %s", strerror(-rc));
		return LODGE_HOST_FAILED;
	}
	return run_outcome(run);
}

/* The process of the machine; the other one has the terminal. */
static int run_for_calls(void *ctx, int fd)
{
	struct run *run = ctx;

	run->calls_fd = fd;
	return run_machine(run);
}

int cmd_run(int argc, char **argv)
{
	struct run run = {.console_fd = -1,
			  .dtb_fd = -1,
			  .console_file = KEPT_FILE_INIT,
			  .vsock_file = KEPT_FILE_INIT,
			  .dtb_file = KEPT_FILE_INIT,
			  .signal_fd = -1,
			  .calls_fd = -1,
			  .failed = ERR_INIT,
			  .started_ns = loop_now_ns()};
	struct err err = ERR_INIT;
	int status;

	run_options_init(&run.options);
	if (run_options_parse(&run.options, argc, argv, &err)) {
		tty_say("lodge run: %s", err.msg);
		status = err.code == EINVAL ? LODGE_USAGE : LODGE_FAILED;
	} else if (run.options.help) {
		cmd_run_help();
		status = LODGE_OK;
	} else {
		log_init(STDERR_FILENO, run.options.log_level);
		if (run.options.exec && !run.options.dry_run)
			status = run_exec(run.options.exec, run_for_calls, &run);
		else
			status = run_machine(&run);
	}
	run_options_fini(&run.options);
	return status;
}

void cmd_run_help(void)
{
	fputs("usage: lodge run --kernel FILE --root path=FILE,format=raw [option ...]\n\n"
	      "Boots a Linux guest with its serial console on the terminal, and waits for its "
	      "end.\n\nOptions (with what holds without them):\n",
	      stdout);
	run_options_help(stdout);
	fputs(
	    "\nOn the terminal: Ctrl-A x ends the machine, Ctrl-A p presses its power button,\n"
	    "Ctrl-A b sends a break, Ctrl-A a sends Ctrl-A.\n"
	    "\nExit status: 0 guest powered off, 1 start failed, 2 wrong arguments, 3 guest asked\n"
	    "for a reboot, 4 guest kernel panicked, 5 triple fault, 6 KVM or the host failed the\n"
	    "machine, 7 ended from the console, 128+N stopped by signal N. With --exec that of "
	    "the\n"
	    "command, as of `lodge exec`, once it could be started.\n",
	    stdout);
}
