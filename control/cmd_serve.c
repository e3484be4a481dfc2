/*
 * `lodge serve`: many VMs behind one socket, each a process of its own.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/arguments.h"
#include "control/command.h"
#include "control/options/config_check.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"
#include "control/serve/config_file.h"
#include "control/serve/serve.h"
#include "control/serve/service_manager.h"
#include "control/server_options.h"
#include "control/signals.h"
#include "control/vm/start_config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SERVE_LOOP_ENTRIES 256

struct serve_options {
	struct server_options server; /* first: setters of both find it there */
	const char *runtime_dir;
	const char *config;
	struct serve_defaults defaults;
	bool check_config;
	bool leave_vms;
};

#define SERVE_OPTIONS_INIT                    \
	(struct serve_options)                \
	{                                     \
		.server = SERVER_OPTIONS_INIT \
	}

static int set_runtime_dir(void *target, const char *value, struct err *err)
{
	if (*value != '/')
		return err_set(err, EINVAL, "'%s' is no absolute path", value);
	((struct serve_options *)target)->runtime_dir = value;
	return 0;
}

static int set_leave_vms(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct serve_options *)target)->leave_vms = true;
	return 0;
}

static int set_config(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct serve_options *)target)->config = value;
	return 0;
}

static int set_check_config(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct serve_options *)target)->check_config = true;
	return 0;
}

static int set_vm_cpus(void *target, const char *value, struct err *err)
{
	if (parse_unsigned(value, 1, VM_CPUS_MAX, &((struct serve_options *)target)->defaults.cpus))
		return err_set(err, EINVAL, "'%s' is no number from 1 to %d", value, VM_CPUS_MAX);
	return 0;
}

static int set_vm_memory(void *target, const char *value, struct err *err)
{
	uint64_t *bytes = &((struct serve_options *)target)->defaults.memory_bytes;

	if (parse_size(value, bytes))
		return err_set(err, EINVAL, "'%s' is no size; say for example 512M", value);
	return config_check_memory(*bytes, err);
}

static int set_vm_transport(void *target, const char *value, struct err *err)
{
	bool mmio = !strcmp(value, "mmio");

	if (!mmio && strcmp(value, "pci") != 0)
		return err_set(err, EINVAL, "'%s' is neither pci nor mmio", value);
	((struct serve_options *)target)->defaults.mmio = mmio;
	return 0;
}

static int set_net(void *target, const char *value, struct err *err)
{
	char **net = &((struct serve_options *)target)->defaults.net;
	struct machine_config scratch;
	int rc;

	machine_config_init(&scratch);
	rc = options_add_net(&scratch, value, err);
	machine_config_fini(&scratch);
	return rc ? rc : options_set_string(net, value, err);
}

static int set_share_user(void *target, const char *value, struct err *err)
{
	char **user = &((struct serve_options *)target)->defaults.share_user;
	struct machine_share scratch;
	int rc = options_share_user(&scratch, value, err);

	return rc ? rc : options_set_string(user, value, err);
}

/* Each is a key of the configuration file as well, but the first two. */
static const struct option_setting serve_settings[] = {
    {"config", "FILE", set_config, "read options from FILE, as `name = value` lines"},
    {"check-config", NULL, set_check_config, "read all options, say what is wrong, and end"},
    {"socket", "PATH", server_set_socket, "Unix socket to serve; needed"},
    {"runtime-dir", "DIR", set_runtime_dir, "what runs; absolute, is made; needed"},
    {"leave-vms", NULL, set_leave_vms, "VMs stay when the server ends"},
    {"vm-cpus", "N", set_vm_cpus, "CPUs of a VM whose StartVm does not say it (1)"},
    {"vm-memory", "SIZE", set_vm_memory, "likewise its memory (512M)"},
    {"vm-transport", "pci|mmio", set_vm_transport, "likewise its virtio transport (pci)"},
    {"net", "KIND[,KEY=VALUE...]", set_net, "likewise its interface, as of `lodge run` (none)"},
    {"share-user", "UID[:GID]", set_share_user, "with whose rights root's VMs share (65534)"},
    SERVER_SETTINGS,
};

#define COMMAND_LINE_ONLY 2

/* What runs, for its callbacks. */
struct running {
	struct serve *serve;
	struct service_manager *manager;
};

static void serve_signalled(void *ctx, int sig)
{
	const struct running *r = ctx;

	log_info("SIG%s", sigabbrev_np(sig));
	service_manager_say(r->manager, "STOPPING=1\nSTATUS=stopping VMs");
	serve_end(r->serve);
}

static void serve_ready(void *ctx)
{
	service_manager_say(ctx, "READY=1\nSTATUS=serving");
}

/* Each connection and each VM takes descriptors; the limit that a shell gives is for less. */
static void raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		log_warn("control: RLIMIT_NOFILE: %s", strerror(errno));
}

/* The loop and the server are run to their end. */
static int serve_run(const struct serve_options *o, struct serve_setup *setup,
		     struct service_manager *manager, struct err *err)
{
	const struct loop_opts loop_opts = {
	    .backend = o->server.loop_backend, .entries = SERVE_LOOP_ENTRIES, .workers = 1};
	struct signals signals = SIGNALS_INIT;
	struct running running = {.manager = manager};
	int res = loop_new(&loop_opts, &setup->loop, err);

	if (!res)
		res = serve_new(setup, &running.serve, err);
	if (res)
		return res;
	res = signals_open(&signals, setup->loop, serve_signalled, &running, err);
	if (!res) {
		res = loop_run(setup->loop);
		if (res)
			err_sys(err, -res, "the event loop failed");
	}
	signals_close(&signals);
	serve_free(running.serve);
	signals_free(&signals);
	return res;
}

static int serve(struct serve_options *o, struct err *err)
{
	struct service_manager manager = SERVICE_MANAGER_INIT;
	struct serve_setup setup = {.listen_fd = -1,
				    .access = &o->server.access,
				    .runtime_dir = o->runtime_dir,
				    .storage_root = o->server.storage_root,
				    .component_root = o->server.component_root,
				    .log_level = o->server.log_text,
				    .sandbox = o->server.sandbox,
				    .defaults = o->defaults,
				    .leave_vms = o->leave_vms,
				    .ready = serve_ready,
				    .ctx = &manager};
	int res;
	bool is_given;

	raise_limit();
	res = service_manager_open(&manager, &setup.listen_fd, err);
	is_given = setup.listen_fd >= 0;

	if (!res && !is_given && !o->server.socket)
		res = err_set(err, EINVAL, "no socket; say --socket PATH");
	if (!res && !is_given)
		res = unix_listen(o->server.socket, &o->server.socket_mode, &setup.listen_fd, err);
	if (!res) {
		res = serve_run(o, &setup, &manager, err);
		if (!is_given && o->server.socket)
			unlink(o->server.socket);
	}
	cleanup_fd(&setup.listen_fd);
	service_manager_close(&manager);
	return res;
}

static struct arguments serve_arguments(struct serve_options *options)
{
	return (struct arguments){.command = "serve",
				  .settings = serve_settings,
				  .nsettings = ARRAY_LEN(serve_settings),
				  .target = options};
}

/* The file's settings first, then the command line's, which prevail. `file` keeps the strings. */
static int parse(struct serve_options *o, struct config_file *file, int argc, char **argv,
		 struct err *err)
{
	struct arguments args = serve_arguments(o);
	struct config_target target = {.settings = serve_settings + COMMAND_LINE_ONLY,
				       .nsettings = ARRAY_LEN(serve_settings) - COMMAND_LINE_ONLY,
				       .target = o};
	const char *config;
	int res = arguments_parse(&args, argc, argv, NULL, NULL, err);

	if (!res && o->config) {
		config = o->config;
		*o = SERVE_OPTIONS_INIT;
		res = config_file_read(file, config, &target, err);
		if (!res)
			res = arguments_parse(&args, argc, argv, NULL, NULL, err);
	}
	if (!res && !o->server.socket && !service_manager_listens())
		res = err_set(err, EINVAL, "no socket; say --socket PATH");
	if (!res && !o->runtime_dir)
		res = err_set(err, EINVAL, "no runtime directory; say --runtime-dir DIR");
	return res;
}

int cmd_serve(int argc, char **argv)
{
	struct serve_options options = SERVE_OPTIONS_INIT;
	struct config_file file = CONFIG_FILE_INIT;
	struct err err = ERR_INIT;
	int res = parse(&options, &file, argc, argv, &err), status = LODGE_OK;

	if (res == 1) {
		cmd_serve_help();
	} else if (res) {
		status = LODGE_USAGE;
	} else if (!options.check_config) {
		log_init(STDERR_FILENO, options.server.log_level);
		status = serve(&options, &err) ? LODGE_FAILED : LODGE_OK;
	}
	if (err.code)
		fprintf(stderr, "lodge serve: %s\n", err.msg);
	config_file_free(&file);
	return status;
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
