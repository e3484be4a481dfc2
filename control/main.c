/*
 * The executable: one static table of commands.
 */
#include "base/checked.h"
#include "control/command.h"
#include "control/options/parse.h"
#include "control/version.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int cmd_help(int argc, char **argv);
static void cmd_help_help(void);

#define HERE	"Machines of this terminal"
#define SERVED	"VMs of a server (lodge serve)"
#define SERVERS "Servers"
#define IMAGES	"Disk images"
#define HOST	"This host"

static const struct command {
	const char *group; /* those of one stand together */
	const char *name;
	int (*run)(int argc, char **argv);
	void (*help)(void);
	const char *summary;
	int (*help_of)(const char *word); /* explains a command of its own; NULL: has none */
} commands[] = {
    {HERE, "run", cmd_run, cmd_run_help, "boot a guest with its console on the terminal", NULL},

    {SERVED, "start", cmd_start, cmd_start_help, "start a VM", NULL},
    {SERVED, "stop", cmd_stop, cmd_stop_help, "shut VMs down", NULL},
    {SERVED, "list", cmd_list, cmd_list_help, "what runs", NULL},
    {SERVED, "info", cmd_info, cmd_info_help, "what a VM, or the server, is", NULL},
    {SERVED, "wait", cmd_wait, cmd_wait_help, "wait for a VM's end, and say how it was", NULL},
    {SERVED, "events", cmd_events, cmd_events_help, "what happens to VMs, as it happens", NULL},
    {SERVED, "console", cmd_console, cmd_console_help, "a VM's console on this terminal", NULL},
    {SERVED, "exec", cmd_exec, cmd_exec_help, "run a program in a VM's guest", NULL},
    {SERVED, "shell", cmd_shell, cmd_shell_help, "a shell there", NULL},
    {SERVED, "cp", cmd_cp, cmd_cp_help, "copy files into it, or out of it", NULL},
    {SERVED, "guest", cmd_guest, cmd_guest_help, "what its agent says of it; mounts, clock",
     cmd_guest_help_of},
    {SERVED, "pause", cmd_pause, cmd_pause_help, "make a VM stand still", NULL},
    {SERVED, "resume", cmd_resume, cmd_resume_help, "let it go on", NULL},
    {SERVED, "resize", cmd_resize, cmd_resize_help, "make a disk of a running VM larger", NULL},
    {SERVED, "link", cmd_link, cmd_link_help, "plug in, or pull out, its network cable", NULL},
    {SERVED, "top", cmd_top, cmd_top_help, "what each VM does now", NULL},
    {SERVED, "metrics", cmd_metrics, cmd_metrics_help, "what each VM has done, for programs", NULL},

    {SERVERS, "serve", cmd_serve, cmd_serve_help, "many VMs behind one socket", NULL},
    {SERVERS, "vmm", cmd_vmm, cmd_vmm_help,
     "a process that becomes a VM when it is told over a socket", NULL},

    {IMAGES, "disk", cmd_disk, cmd_disk_help, "make, examine and change disk images",
     cmd_disk_help_of},
    {IMAGES, "image", cmd_image, cmd_image_help, "likewise below a server's storage root",
     cmd_image_help_of},
    {IMAGES, "component", cmd_component, cmd_component_help, "kernel and root of `start --termina`",
     cmd_component_help_of},

    {HOST, "doctor", cmd_doctor, cmd_doctor_help,
     "what this host offers, and what to do about a lack", NULL},
    {HOST, "help", cmd_help, cmd_help_help, "explain a command", NULL},
};

static const struct command *command_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

static int command_unknown(const char *name)
{
	const char *names[ARRAY_LEN(commands) + 1];
	const char *near;

	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		names[i] = commands[i].name;
	names[ARRAY_LEN(commands)] = NULL;
	near = parse_suggest(name, names);
	if (near)
		fprintf(stderr, "lodge: unknown command '%s'; did you mean %s?\n", name, near);
	else
		fprintf(stderr, "lodge: unknown command '%s'; `lodge help` lists them\n", name);
	return LODGE_USAGE;
}

static void usage(FILE *out)
{
	fputs("usage: lodge [--version | --help] COMMAND [argument ...]\n", out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (!i || strcmp(commands[i].group, commands[i - 1].group) != 0)
			fprintf(out, "\n%s:\n", commands[i].group);
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
	}
	fputs("\n`lodge help COMMAND` explains one.\n", out);
}

static void cmd_help_help(void)
{
	usage(stdout);
}

static int cmd_help(int argc, char **argv)
{
	const struct command *command;

	if (argc < 2) {
		usage(stdout);
		return LODGE_OK;
	}
	command = command_find(argv[1]);
	if (!command)
		return command_unknown(argv[1]);
	if (argc > 2 && command->help_of)
		return command->help_of(argv[2]);
	command->help();
	return LODGE_OK;
}

/* A descriptor we open must never land on 0 to 2, where output meant for a stream would reach it.
 */
static int streams_fill(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
		if (fd < 0)
			return -1;
	} while (fd <= STDERR_FILENO);
	return close(fd);
}

/* What was printed must have arrived: `lodge doctor > /full/disk` is a failure. */
static int finish(int status)
{
	if (fflush(stdout) || ferror(stdout)) {
		fputs("lodge: standard output cannot be written\n", stderr);
		return status ? status : LODGE_FAILED;
	}
	return status;
}

int main(int argc, char **argv)
{
	const struct command *command;

	if (streams_fill())
		return LODGE_FAILED;
	/* a closed pipe and a file-size limit are errors of one write, not the end of a machine */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);

	if (argc < 2) {
		usage(stderr);
		return LODGE_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		usage(stdout);
		return finish(LODGE_OK);
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("lodge " LODGE_VERSION);
		return finish(LODGE_OK);
	}
	if (*argv[1] == '-') {
		fprintf(stderr, "lodge: unknown option %s; options come after the command\n",
			argv[1]);
		return LODGE_USAGE;
	}
	command = command_find(argv[1]);
	if (!command)
		return command_unknown(argv[1]);
	return finish(command->run(argc - 1, argv + 1));
}
