/*
 * `lodge run`: one table of options, each with its setter and its line of help.
 */
#include "control/options/options.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/agent/guest.h"
#include "control/options/config_check.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"
#include "control/sandbox/sandbox.h"
#include "vmm/arch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OPTION_NAME_MAX 64

/* ---- setters: the target is the struct run_options ------------------------------------------ */

/* A path or text that must not be empty. */
static int set_text(char **field, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "is empty");
	return options_set_string(field, value, err);
}

static int set_kernel(void *target, const char *value, struct err *err)
{
	return set_text(&((struct run_options *)target)->machine.kernel, value, err);
}

static int set_initrd(void *target, const char *value, struct err *err)
{
	return set_text(&((struct run_options *)target)->machine.initrd, value, err);
}

static int set_modules(void *target, const char *value, struct err *err)
{
	return set_text(&((struct run_options *)target)->machine.modules, value, err);
}

static int set_root(void *target, const char *value, struct err *err)
{
	return options_add_root(&((struct run_options *)target)->machine, value, err);
}

static int set_disk(void *target, const char *value, struct err *err)
{
	return options_add_disk(&((struct run_options *)target)->machine, value, err);
}

static int set_vsock(void *target, const char *value, struct err *err)
{
	return options_set_vsock(&((struct run_options *)target)->machine.vsock, value, err);
}

static int set_net(void *target, const char *value, struct err *err)
{
	return options_add_net(&((struct run_options *)target)->machine, value, err);
}

static int set_share(void *target, const char *value, struct err *err)
{
	return options_add_share(&((struct run_options *)target)->machine, value, err);
}

static int set_cmdline(void *target, const char *value, struct err *err)
{
	int rc = config_check_cmdline(value, err);

	if (rc)
		return rc;
	return options_set_string(&((struct run_options *)target)->machine.cmdline, value, err);
}

static int set_init(void *target, const char *value, struct err *err)
{
	int rc = config_check_init(value, err);

	if (rc)
		return rc;
	return options_set_string(&((struct run_options *)target)->machine.init, value, err);
}

static int set_cpus(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (parse_unsigned(value, 1, MACHINE_CPUS_MAX, &o->machine.cpus))
		return err_set(err, EINVAL, "'%s' is not a number from 1 to %d", value,
			       MACHINE_CPUS_MAX);
	return 0;
}

static int set_memory(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;
	char text[PARSE_SIZE_TEXT_MAX];
	uint64_t bytes;

	switch (parse_size(value, &bytes)) {
	case 0:
		break;
	case -ERANGE:
		bytes = UINT64_MAX;
		break;
	default:
		return err_set(err, EINVAL, "'%s' is not a size; say for example 512M or 2G",
			       value);
	}
	if (bytes < MACHINE_MEMORY_MIN)
		return err_set(err, EINVAL, "'%s' is less than %s%s", value,
			       parse_size_text(MACHINE_MEMORY_MIN, text),
			       strpbrk(value, "KMGTkmgt") ? ""
							  : "; sizes without a unit are bytes");
	if (bytes > CONFIG_MEMORY_MAX)
		return err_set(err, EINVAL, "'%s' is more than %s", value,
			       parse_size_text(CONFIG_MEMORY_MAX, text));
	if (bytes % MIB)
		return err_set(err, EINVAL, "'%s' is not a whole number of MiB", value);
	o->machine.memory_bytes = bytes;
	return 0;
}

/* host[,-feature]... */
static int set_cpu(void *target, const char *value, struct err *err)
{
	struct machine_config *m = &((struct run_options *)target)->machine;
	const char *word = value;

	while (m->ncpu_masked) {
		m->ncpu_masked--;
		free(steal_ptr(&m->cpu_masked[m->ncpu_masked]));
	}
	for (;;) {
		const int len = (int)strcspn(word, ",");

		if (word == value && (len != 4 || memcmp(word, "host", 4) != 0))
			return err_set(err, EINVAL,
				       "'%.*s': the only model is host; say host,-feature,...", len,
				       word);
		if (word != value) {
			if (*word != '-' || len < 2)
				return err_set(
				    err, EINVAL,
				    "'%.*s': features can only be taken away; say -feature", len,
				    word);
			if (m->ncpu_masked == MACHINE_CPU_MASKS_MAX)
				return err_set(err, EINVAL, "more than %d features",
					       MACHINE_CPU_MASKS_MAX);
			m->cpu_masked[m->ncpu_masked] = strndup(word + 1, (size_t)len - 1);
			if (!m->cpu_masked[m->ncpu_masked])
				return err_set(err, ENOMEM, "out of memory");
			m->ncpu_masked++;
		}
		if (!word[len])
			return 0;
		word += len + 1;
	}
}

static int set_initramfs(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (strcmp(value, "auto") != 0 && strcmp(value, "none") != 0)
		return err_set(err, EINVAL, "'%s' is neither auto nor none (a file: --initrd FILE)",
			       value);
	o->machine.initramfs = *value == 'a' ? MACHINE_INITRAMFS_AUTO : MACHINE_INITRAMFS_NONE;
	return 0;
}

static int set_console(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	o->console_given = true;
	if (!strncmp(value, "file:", 5)) {
		if (!value[5])
			return err_set(err, EINVAL, "'file:' lacks its path; say file:PATH");
		o->console = RUN_CONSOLE_FILE;
		o->machine.console = true;
		return options_set_string(&o->console_path, value + 5, err);
	}
	if (strcmp(value, "stdio") != 0 && strcmp(value, "none") != 0)
		return err_set(err, EINVAL, "'%s' is none of stdio, file:PATH and none", value);
	o->console = *value == 's' ? RUN_CONSOLE_STDIO : RUN_CONSOLE_NONE;
	o->machine.console = o->console == RUN_CONSOLE_STDIO;
	return 0;
}

static int set_transport(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (strcmp(value, "pci") != 0 && strcmp(value, "mmio") != 0)
		return err_set(err, EINVAL, "'%s' is neither pci nor mmio", value);
	o->machine.transport = *value == 'p' ? MACHINE_PCI : MACHINE_MMIO;
	o->transport_given = true;
	return 0;
}

static int set_hw(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (strcmp(value, "acpi") != 0 && strcmp(value, "fdt") != 0)
		return err_set(err, EINVAL, "'%s' is neither acpi nor fdt", value);
	o->machine.hw = *value == 'a' ? MACHINE_HW_ACPI : MACHINE_HW_FDT;
	return 0;
}

static int set_dump_dtb(void *target, const char *value, struct err *err)
{
	return set_text(&((struct run_options *)target)->dump_dtb, value, err);
}

static int set_hugepages(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (strcmp(value, "2M") != 0 && strcmp(value, "1G") != 0)
		return err_set(err, EINVAL, "'%s' is neither 2M nor 1G", value);
	o->machine.hugepages = *value == '2' ? MACHINE_PAGES_2M : MACHINE_PAGES_1G;
	return 0;
}

static int set_prealloc(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct run_options *)target)->machine.prealloc = true;
	return 0;
}

static int set_agent(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct run_options *)target)->agent = true;
	return 0;
}

static int set_no_rng(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct run_options *)target)->machine.rng = false;
	return 0;
}

static int set_io(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (loop_backend_parse(value, &o->machine.loop_backend))
		return err_set(err, EINVAL, "'%s' is none of auto, io_uring and epoll", value);
	return 0;
}

static int set_log(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (log_level_parse(value, &o->log_level))
		return err_set(err, EINVAL, "'%s' is none of error, warn, info and debug", value);
	return 0;
}

static int set_sandbox(void *target, const char *value, struct err *err)
{
	if (sandbox_parse(value, &((struct run_options *)target)->sandbox))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

static int set_stop_timeout(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (parse_unsigned(value, 0, RUN_STOP_TIMEOUT_MAX, &o->stop_timeout_s))
		return err_set(err, EINVAL, "'%s' is not a number of seconds from 0 to %d", value,
			       RUN_STOP_TIMEOUT_MAX);
	return 0;
}

static int set_exec(void *target, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "is empty; say a command");
	return options_set_string(&((struct run_options *)target)->exec, value, err);
}

static int set_start_timeout(void *target, const char *value, struct err *err)
{
	unsigned s;

	if (parse_unsigned(value, 1, 3600, &s))
		return err_set(err, EINVAL, "'%s' is not a number of seconds from 1 to 3600",
			       value);
	((struct run_options *)target)->start_timeout_ms = s * 1000;
	return 0;
}

static int set_dry_run(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct run_options *)target)->dry_run = true;
	return 0;
}

static int set_help(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct run_options *)target)->help = true;
	return 0;
}

static const struct option_setting run_settings[] = {
    {"kernel", "FILE", set_kernel, "the kernel (vmlinuz); needed"},
    {"root", "KEY=VALUE,...", set_root, "disk that holds the root file system"},
    {"disk", "KEY=VALUE,...", set_disk, "a further disk; may be repeated"},
    {"cpus", "N", set_cpus, "virtual CPUs (1)"},
    {"memory", "SIZE", set_memory, "memory, such as 512M or 2G (512M)"},
    {"cmdline", "TEXT", set_cmdline, "words appended to the kernel's command line"},
    {"initrd", "FILE", set_initrd, "use this initrd in place of the built-in one"},
    {"initramfs", "auto|none", set_initramfs, "built-in initramfs, or none (auto)"},
    {"modules", "DIR", set_modules, "the kernel's modules (looked for beside the kernel)"},
    {"init", "PROGRAM", set_init, "program of the root that takes over (/sbin/init)"},
    {"cpu", "host,-FEATURE,...", set_cpu, "CPU features hidden from the guest (host)"},
    {"console", "stdio|file:PATH|none", set_console, "where the serial console goes (stdio)"},
    {"transport", "pci|mmio", set_transport, "how virtio devices are attached (pci)"},
    {"hw", "acpi|fdt", set_hw, "how the kernel is told of the hardware"},
    {"hugepages", "2M|1G", set_hugepages, "guest memory from the host's reserved huge pages"},
    {"prealloc", NULL, set_prealloc, "take all guest memory at the start"},
    {"io", "auto|io_uring|epoll", set_io, "how the host's I/O is done (auto)"},
    {"vsock", "KEY=VALUE,...", set_vsock, "streams between host and guest"},
    {"agent", NULL, set_agent, "lodge's agent in the guest, which shuts it down when asked"},
    {"net", "KIND[,KEY=VALUE...]", set_net, "a network interface; may be repeated"},
    {"share", "path=DIR,KEY=VALUE...", set_share, "a directory of the host; may be repeated"},
    {"no-rng", NULL, set_no_rng, "no virtio-rng device"},
    {"stop-timeout", "SECONDS", set_stop_timeout, "from the power button to the stop (10)"},
    {"sandbox", "on|off", set_sandbox, "lock this process in before the guest runs (on)"},
    {"exec", "COMMAND", set_exec, "run this in the guest, and end with its exit status"},
    {"start-timeout", "SECONDS", set_start_timeout, "how long the guest's agent may take (30)"},
    {"dry-run", NULL, set_dry_run, "make the whole machine, but do not start it"},
    {"dump-dtb", "FILE", set_dump_dtb, "write the device tree, and start nothing"},
    {"log", "error|warn|info|debug", set_log, "how much is logged on standard error (warn)"},
    {"help", NULL, set_help, "print this"},
};

void run_options_help(FILE *out)
{
	for (size_t i = 0; i < ARRAY_LEN(run_settings); i++) {
		const struct option_setting *s = &run_settings[i];
		char left[48];

		snprintf(left, sizeof(left), "--%s %s", s->name, s->arg ? s->arg : "");
		fprintf(out, "  %-30s %s\n", left, s->help);
	}
	fprintf(out, "\nKeys of --root and --disk:\n");
	options_disk_help(out);
	fprintf(out, "\nKeys of --vsock:\n");
	options_vsock_help(out);
	fprintf(out, "\nKinds and keys of --net:\n");
	options_net_help(out);
	fprintf(out, "\nKeys of --share:\n");
	options_share_help(out);
}

/* ---- the command line ------------------------------------------------------------------------ */

void run_options_init(struct run_options *options)
{
	memset(options, 0, sizeof(*options));
	machine_config_init(&options->machine);
	options->console = RUN_CONSOLE_STDIO;
	options->machine.console = true;
	options->log_level = LOG_LEVEL_WARN;
	options->sandbox = true;
	options->stop_timeout_s = RUN_STOP_TIMEOUT_DEFAULT;
}

void run_options_fini(struct run_options *options)
{
	machine_config_fini(&options->machine);
	free(steal_ptr(&options->console_path));
	free(steal_ptr(&options->dump_dtb));
}

/* One option at argv[*i], "--name value" or "--name=value"; *i ends on the last word used. */
static int options_parse_one(struct run_options *options, int argc, char *const *argv, int *i,
			     struct err *err)
{
	const char *word = argv[*i];
	const struct option_setting *s;
	const char *equals, *value;
	char name[OPTION_NAME_MAX];
	int rc;

	if (!strcmp(word, "-h"))
		word = "--help";
	if (strncmp(word, "--", 2) != 0 || !word[2])
		return err_set(err, EINVAL,
			       *word == '-' ? "unknown option %s; options are long: --kernel FILE"
					    : "unexpected argument '%s'; options begin with --",
			       word);
	equals = strchr(word, '=');
	value = equals ? equals + 1 : NULL;
	/* a longer one is no option of ours, and is cut in the message only */
	snprintf(name, sizeof(name), "%.*s",
		 equals ? (int)(equals - word - 2) : (int)strlen(word + 2), word + 2);

	s = option_setting_find(run_settings, ARRAY_LEN(run_settings), name);
	if (!s)
		return option_setting_unknown(run_settings, ARRAY_LEN(run_settings), "option", name,
					      err);
	if (!s->arg && value)
		return err_set(err, EINVAL, "--%s takes no value", name);
	if (s->arg && !value) {
		if (*i + 1 >= argc)
			return err_set(err, EINVAL, "--%s lacks its value; say --%s %s", name, name,
				       s->arg);
		value = argv[++*i];
		if (!strncmp(value, "--", 2) && s->set != set_cmdline && s->set != set_exec)
			return err_set(err, EINVAL,
				       "--%s lacks its value (%s follows); say --%s %s", name,
				       value, name, s->arg);
	}
	rc = s->set(options, value, err);
	if (rc && s->set != set_root && s->set != set_disk)
		err_prefix(err, "--%s", name);
	return rc;
}

/* What follows from other options: mounts, shares and --exec need the agent. */
static int options_settle(struct run_options *o, struct err *err)
{
	struct machine_config *m = &o->machine;
	bool wanted = o->agent || o->exec;

	if (!o->transport_given)
		m->transport = arch_transport(m);
	o->dry_run |= o->dump_dtb != NULL;
	if (o->dump_dtb && !arch_by_fdt(m))
		return err_set(
		    err, EINVAL,
		    "--dump-dtb: this machine is described by ACPI; one with --hw fdt has "
		    "a device tree");
	for (unsigned i = 0; i < m->ndisks; i++)
		wanted |= m->disks[i].mount.target != NULL;
	wanted |= m->nshares;
	if (wanted) {
		m->agent = !m->initrd && m->initramfs == MACHINE_INITRAMFS_AUTO;
		m->vsock.on = true;
	}
	if (m->agent && guest_make_token(m->agent_token, err))
		return -err->code;
	if (!o->exec)
		return 0;
	if (o->console_given && o->console == RUN_CONSOLE_STDIO)
		return err_set(err, EINVAL,
			       "the terminal is for --exec; say --console file:PATH or none");
	if (!o->console_given) {
		o->console = RUN_CONSOLE_NONE;
		m->console = false;
	}
	return 0;
}

/* What is wrong only in the combination. */
static int options_check(const struct run_options *options, struct err *err)
{
	const struct machine_config *m = &options->machine;
	uint64_t page = m->hugepages == MACHINE_PAGES_1G ? GIB : 2 * MIB;
	char text[PARSE_SIZE_TEXT_MAX];

	if (!m->kernel && !options->no_boot)
		return err_set(err, EINVAL,
			       "no kernel; say --kernel FILE, for example --kernel /boot/vmlinuz");
	if (options->agent && !m->agent)
		return err_set(err, EINVAL,
			       "--agent: it comes with lodge's own initramfs; leave --initrd and "
			       "--initramfs none out");
	if (!m->has_root && !m->initrd && !options->no_boot &&
	    m->initramfs == MACHINE_INITRAMFS_AUTO)
		return err_set(err, EINVAL,
			       "nothing to boot into; say --root path=FILE,format=raw, or "
			       "--initrd FILE, or --initramfs none");
	if (m->root_label && m->root_partition)
		return err_set(err, EINVAL, "--root has both partition and label; say one");
	if (m->hugepages != MACHINE_PAGES_DEFAULT && m->memory_bytes % page)
		return err_set(err, EINVAL,
			       "--memory %s is not a multiple of the huge pages' size; choose one "
			       "that is",
			       parse_size_text(m->memory_bytes, text));
	return options_check_disks(m, err);
}

int run_options_parse(struct run_options *options, int argc, char *const *argv, struct err *err)
{
	for (int i = 1; i < argc; i++) {
		int rc = options_parse_one(options, argc, argv, &i, err);

		if (rc || options->help)
			return rc;
	}
	if (options_settle(options, err) || options_check_shares(&options->machine, err))
		return -EINVAL;
	return options_check(options, err);
}
