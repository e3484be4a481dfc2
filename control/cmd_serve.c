/*
 * `lodge serve`: many VMs behind one socket, each a process of its own.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/arguments.h"
#include "control/command.h"
#include "control/sandbox/sandbox.h"
#include "control/serve_run.h"
#include "control/signals.h"
#include "control/unix_socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SERVE_LOOP_ENTRIES 256

struct serve_options {
	const char *socket;
	const char *runtime_dir;
	const char *storage_root;
	const char *log_text;
	enum log_level log_level;
	enum loop_backend loop_backend;
	bool leave_vms;
	const char *sandbox;
};

static int set_socket(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct serve_options *)target)->socket = value;
	return 0;
}

static int set_runtime_dir(void *target, const char *value, struct err *err)
{
	if (*value != '/')
		return err_set(err, EINVAL, "'%s' is no absolute path", value);
	((struct serve_options *)target)->runtime_dir = value;
	return 0;
}

static int set_storage_root(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct serve_options *)target)->storage_root = value;
	return 0;
}

static int set_leave_vms(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct serve_options *)target)->leave_vms = true;
	return 0;
}

static int set_sandbox(void *target, const char *value, struct err *err)
{
	bool on;

	if (sandbox_parse(value, &on))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	((struct serve_options *)target)->sandbox = value;
	return 0;
}

static int set_log(void *target, const char *value, struct err *err)
{
	struct serve_options *o = target;

	if (log_level_parse(value, &o->log_level))
		return err_set(err, EINVAL, "'%s' is none of error, warn, info and debug", value);
	o->log_text = value;
	return 0;
}

static int set_io(void *target, const char *value, struct err *err)
{
	if (loop_backend_parse(value, &((struct serve_options *)target)->loop_backend))
		return err_set(err, EINVAL, "'%s' is none of auto, io_uring and epoll", value);
	return 0;
}

static const struct option_setting serve_settings[] = {
    {"socket", "PATH", set_socket, "Unix socket to serve; needed"},
    {"runtime-dir", "DIR", set_runtime_dir, "what runs; absolute, is made; needed"},
    {"storage-root", "DIR", set_storage_root, "where disk images are created and destroyed"},
    {"leave-vms", NULL, set_leave_vms, "VMs stay when the server ends"},
    {"sandbox", "on|off", set_sandbox, "lock the processes of VMs in (on)"},
    {"io", "auto|io_uring|epoll", set_io, "how sockets are served (auto)"},
    {"log", "error|warn|info|debug", set_log, "how much is logged on standard error (warn)"},
};

static void serve_signalled(void *ctx, int sig)
{
	log_info("SIG%s", sigabbrev_np(sig));
	serve_end(ctx);
}

static int serve_run(const struct serve_options *o, struct err *err)
{
	const struct loop_opts loop_opts = {
	    .backend = o->loop_backend, .entries = SERVE_LOOP_ENTRIES, .workers = 1};
	struct serve_setup setup = {.runtime_dir = o->runtime_dir,
				    .storage_root = o->storage_root,
				    .log_level = o->log_text,
				    .leave_vms = o->leave_vms,
				    .sandbox = o->sandbox};
	struct signals signals = SIGNALS_INIT;
	struct serve *serve;
	int res = unix_listen(o->socket, &setup.listen_fd, err);

	if (res)
		return res;
	res = loop_new(&loop_opts, &setup.loop, err);
	if (!res)
		res = serve_new(&setup, &serve, err);
	if (!res) {
		res = signals_open(&signals, setup.loop, serve_signalled, serve, err);
		if (!res) {
			res = loop_run(setup.loop);
			if (res)
				err_sys(err, -res, "the event loop failed");
		}
		signals_close(&signals);
		serve_free(serve);
		signals_free(&signals);
	}
	unlink(o->socket);
	cleanup_fd(&setup.listen_fd);
	return res;
}

static struct arguments serve_arguments(struct serve_options *options)
{
	return (struct arguments){.command = "serve",
				  .settings = serve_settings,
				  .nsettings = ARRAY_LEN(serve_settings),
				  .target = options};
}

int cmd_serve(int argc, char **argv)
{
	struct serve_options options = {
	    .log_text = "warn", .log_level = LOG_LEVEL_WARN, .sandbox = "on"};
	struct arguments args = serve_arguments(&options);
	struct err err = ERR_INIT;
	int res = arguments_parse(&args, argc, argv, NULL, NULL, &err);

	if (res == 1) {
		cmd_serve_help();
		return LODGE_OK;
	}
	if (!res && !options.socket)
		res = err_set(&err, EINVAL, "no socket; say --socket PATH");
	if (!res && !options.runtime_dir)
		res = err_set(&err, EINVAL, "no runtime directory; say --runtime-dir DIR");
	if (res || !options.socket) {
		fprintf(stderr, "lodge serve: %s\n", err.msg);
		return LODGE_USAGE;
	}
	log_init(STDERR_FILENO, options.log_level);
	res = serve_run(&options, &err);
	if (res)
		fprintf(stderr, "lodge serve: %s\n", err.msg);
	return res ? LODGE_FAILED : LODGE_OK;
}

void cmd_serve_help(void)
{
	struct arguments args = serve_arguments(NULL);

	fputs("usage: lodge serve --socket PATH --runtime-dir DIR [option ...]\n\n"
	      "Starts, stops and knows many VMs, each a process of its own, by calls over a Unix\n"
	      "socket (vm_tools.concierge.VmConcierge, ttrpc). SIGTERM stops all VMs and ends it.\n"
	      "\nOptions:\n",
	      stdout);
	arguments_help(&args, stdout);
	fputs("\nExit status: 0 ended by a signal, 1 failed, 2 wrong arguments.\n", stdout);
}
