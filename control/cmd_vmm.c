/*
 * `lodge vmm`: a process that waits on its socket for the StartVm that makes it a VM, and ends with
 * that VM.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/arguments.h"
#include "control/command.h"
#include "control/kept_file.h"
#include "control/options/parse.h"
#include "control/sandbox/sandbox.h"
#include "control/server_options.h"
#include "control/signals.h"
#include "control/vm/vmm_service.h"
#include "devices/virtio/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define VMM_LOOP_ENTRIES 64

struct vmm_options {
	struct server_options server; /* first: setters of both find it there */
	int socket_fd;		      /* inherited */
	bool has_files_of;
	struct identity files_of;
	unsigned idle_timeout_s; /* 0: for ever */
	const char *vsock_socket;
};

static int set_vsock_socket(void *target, const char *value, struct err *err)
{
	if (!*value || strlen(value) > VSOCK_PATH_MAX)
		return err_set(err, EINVAL, "'%s' has not 1 to %d bytes", value, VSOCK_PATH_MAX);
	((struct vmm_options *)target)->vsock_socket = value;
	return 0;
}

static int set_socket_fd(void *target, const char *value, struct err *err)
{
	unsigned fd;

	if (parse_unsigned(value, 3, 1u << 20, &fd))
		return err_set(err, EINVAL, "'%s' is no number of a descriptor from 3 on", value);
	((struct vmm_options *)target)->socket_fd = (int)fd;
	return 0;
}

static int set_files_of(void *target, const char *value, struct err *err)
{
	struct vmm_options *o = target;

	if (o->has_files_of)
		return err_set(err, EINVAL, "is given twice");
	o->has_files_of = !identity_parse(value, &o->files_of, err);
	return o->has_files_of ? 0 : -EINVAL;
}

static int set_idle_timeout(void *target, const char *value, struct err *err)
{
	if (parse_unsigned(value, 0, 86400, &((struct vmm_options *)target)->idle_timeout_s))
		return err_set(err, EINVAL, "'%s' is not a number of seconds from 0 to 86400",
			       value);
	return 0;
}

static const struct option_setting vmm_settings[] = {
    {"socket", "PATH", server_set_socket, "Unix socket to serve; this or --socket-fd is needed"},
    {"socket-fd", "N", set_socket_fd, "a listening Unix socket that this process inherits"},
    {"files-of", "UID:GID[,GROUP...]", set_files_of, "whose rights open the files of StartVm"},
    {"idle-timeout", "SECONDS", set_idle_timeout, "end when no VM was started by then (never)"},
    {"vsock-socket", "PATH", set_vsock_socket,
     "socket of the built-in vsock, where the host has no /dev/vhost-vsock (none)"},
    SERVER_SETTINGS,
};

static void vmm_signalled(void *ctx, int sig)
{
	log_info("SIG%s", sigabbrev_np(sig));
	vmm_service_stop(ctx);
}

static int vmm_listen(const struct vmm_options *o, int *ret_fd, struct err *err)
{
	if (o->server.socket)
		return unix_listen(o->server.socket, &o->server.socket_mode, ret_fd, err);
	/* again, so that who connects learns that this process serves it, and not its parent */
	if (listen(o->socket_fd, SOMAXCONN))
		return err_sys(err, errno, "descriptor %d is no socket to listen on", o->socket_fd);
	if (fcntl(o->socket_fd, F_SETFD, FD_CLOEXEC))
		return err_sys(err, errno, "descriptor %d", o->socket_fd);
	*ret_fd = o->socket_fd;
	return 0;
}

/* Says why the VM ended; returns the exit status. */
static int vmm_outcome(const struct vmm_service *s)
{
	if (!s->ended)
		return LODGE_OK;
	log_info("VM %s: %s", s->name, s->end.reason);
	return s->end.exit_status;
}

static int vmm_serve(struct vmm_options *o, struct err *err)
{
	struct loop_opts loop_opts = {.backend = o->server.loop_backend,
				      .entries = VMM_LOOP_ENTRIES,
				      .workers = 1,
				      .use = LOOP_USE_STREAMS};
	struct kept_file socket = KEPT_FILE_INIT, vsock = KEPT_FILE_INIT;
	struct sandbox sandbox;
	struct vmm_setup setup = {.access = &o->server.access,
				  .files_of = o->has_files_of ? &o->files_of : NULL,
				  .storage_root = o->server.storage_root,
				  .vsock_socket = o->vsock_socket,
				  .component_root = o->server.component_root,
				  .sandbox = &sandbox};
	struct signals signals = SIGNALS_INIT;
	struct vmm_service *s;
	int fd = -1, res, status = LODGE_FAILED;

	/* in a user namespace all users but ours would look the same */
	res = sandbox_init(&sandbox, o->server.sandbox, !o->server.access.nrules, err);
	loop_opts.threads = sandbox_threads(&sandbox);
	if (!res)
		res = loop_new(&loop_opts, &setup.loop, err);
	if (!res)
		res = vmm_service_new(&setup, &s, err);
	if (res)
		return LODGE_FAILED;
	if (o->server.socket)
		res = kept_file_open(&socket, o->server.socket, err);
	if (!res && o->vsock_socket)
		res = kept_file_open(&vsock, o->vsock_socket, err);
	if (!res)
		res = vmm_listen(o, &fd, err);
	sandbox_keep_dir(&sandbox, socket.dir_fd);
	sandbox_keep_dir(&sandbox, vsock.dir_fd);
	if (!res)
		res = signals_open(&signals, setup.loop, vmm_signalled, s, err);
	if (!res) {
		ttrpc_server_listen(s->server, fd);
		vmm_service_idle_timeout(s, o->idle_timeout_s);
		res = loop_run(setup.loop);
		if (res)
			err_sys(err, -res, "the event loop failed");
		else
			status = vmm_outcome(s);
	}
	if (fd >= 0)
		kept_file_remove(&socket);
	kept_file_close(&socket);
	if (s->booted) /* the machine has made it */
		kept_file_remove(&vsock);
	kept_file_close(&vsock);
	signals_close(&signals);
	vmm_service_free(s);
	signals_free(&signals);
	cleanup_fd(&fd);
	return status;
}

static struct arguments vmm_arguments(struct vmm_options *options)
{
	return (struct arguments){.command = "vmm",
				  .settings = vmm_settings,
				  .nsettings = ARRAY_LEN(vmm_settings),
				  .target = options};
}

int cmd_vmm(int argc, char **argv)
{
	struct vmm_options options = {.server = SERVER_OPTIONS_INIT, .socket_fd = -1};
	struct arguments args = vmm_arguments(&options);
	struct err err = ERR_INIT;
	int res = arguments_parse(&args, argc, argv, NULL, NULL, &err);
	int status;

	if (res == 1) {
		cmd_vmm_help();
		return LODGE_OK;
	}
	if (!res && (options.server.socket != NULL) == (options.socket_fd >= 0))
		res = err_set(&err, EINVAL, "no socket, or two; say --socket PATH");
	if (res) {
		fprintf(stderr, "lodge vmm: %s\n", err.msg);
		return LODGE_USAGE;
	}
	log_init(STDERR_FILENO, options.server.log_level);
	status = vmm_serve(&options, &err);
	identity_fini(&options.files_of);
	if (err.code)
		fprintf(stderr, "lodge vmm: %s\n", err.msg);
	return status;
}

void cmd_vmm_help(void)
{
	struct arguments args = vmm_arguments(NULL);

	fputs("usage: lodge vmm --socket PATH [option ...]\n\n"
	      "Waits on a Unix socket for the call that makes this process a VM (StartVm of\n"
	      "vm_tools.concierge.VmConcierge, ttrpc), and ends with that VM.\n\nOptions:\n",
	      stdout);
	arguments_help(&args, stdout);
	fputs(
	    "\nExit status: 0 guest powered off or stopped as asked, 1 failed, 2 wrong arguments,\n"
	    "3 guest asked for a reboot, 4 guest kernel panicked, 5 triple fault, 6 KVM or the\n"
	    "host failed the machine.\n",
	    stdout);
}
