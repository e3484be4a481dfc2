/*
 * `lodge component COMMAND`: what start_termina starts, put in place and listed.
 */
#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "control/arguments.h"
#include "control/command.h"
#include "control/component/install.h"
#include "control/options/parse.h"
#include "control/remote/table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct component_options {
	struct component_install install;
	bool json, progress, quiet;
};

/* ---- options ------------------------------------------------------------------------------------
 */

static int set_component_root(void *target, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "no folder is named");
	((struct component_options *)target)->install.root = value;
	return 0;
}

static int set_kernel(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct component_options *)target)->install.kernel = value;
	return 0;
}

static int set_root(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct component_options *)target)->install.rootfs = value;
	return 0;
}

static int set_format(void *target, const char *value, struct err *err)
{
	if (image_format_parse(value, &((struct component_options *)target)->install.format))
		return err_set(err, EINVAL, "'%s' is neither raw nor qcow2", value);
	return 0;
}

static int set_modules(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct component_options *)target)->install.modules = value;
	return 0;
}

static int set_version(void *target, const char *value, struct err *err)
{
	if (!version_valid(value))
		return err_set(err, EINVAL,
			       "'%s' is no version; say numbers with dots between, such as 1.2",
			       value);
	((struct component_options *)target)->install.version = value;
	return 0;
}

static int set_force(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct component_options *)target)->install.force = true;
	return 0;
}

static int set_json(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct component_options *)target)->json = true;
	return 0;
}

static int set_progress(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct component_options *)target)->progress = true;
	return 0;
}

static int set_quiet(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct component_options *)target)->quiet = true;
	return 0;
}

#define ROOT_SETTING                                            \
	{                                                       \
		"component-root", "DIR", set_component_root,    \
		    "where components are (" COMPONENT_ROOT ")" \
	}
#define JSON_SETTING                                                   \
	{                                                              \
		"json", NULL, set_json, "print an object for programs" \
	}

static const struct option_setting list_settings[] = {ROOT_SETTING, JSON_SETTING};

static const struct option_setting install_settings[] = {
    {"kernel", "FILE", set_kernel, "its kernel: bzImage or ELF; needed"},
    {"root", "FILE", set_root, "its root file system, an image without partitions; needed"},
    {"format", "raw|qcow2", set_format, "format of that image (raw); raw is what is stored"},
    {"modules", "DIR", set_modules, "the kernel's modules, where it needs some to start"},
    {"version", "V", set_version, "its version (the highest that is there, and one more)"},
    {"force", NULL, set_force, "replace that version where it is there"},
    ROOT_SETTING,
    JSON_SETTING,
    {"progress", NULL, set_progress, "tell how far it is, also where no terminal is"},
    {"quiet", NULL, set_quiet, "never tell that"},
};

/* ---- list ---------------------------------------------------------------------------------------
 */

static void list_json(const char *root, const struct components *components)
{
	struct json j = JSON_INIT(stdout);

	json_object(&j, NULL);
	json_string(&j, "component_root", root);
	json_array(&j, "components");
	for (size_t i = 0; i < components->n; i++) {
		const struct component *c = &components->list[i];

		json_object(&j, NULL);
		json_string(&j, "name", COMPONENT_NAME);
		json_string(&j, "version", c->version);
		json_u64(&j, "kernel_bytes", c->kernel_bytes);
		json_u64(&j, "rootfs_bytes", c->rootfs_bytes);
		json_u64(&j, "rootfs_allocated_bytes", c->rootfs_allocated_bytes);
		json_bool(&j, "used", i == 0);
		json_bool(&j, "complete", !c->lacks);
		json_string(&j, "lacks", c->lacks);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
}

static void list_table(const struct components *components)
{
	static const struct table_column columns[] = {
	    {"NAME", false}, {"VERSION", true}, {"KERNEL", true},
	    {"ROOT", true},  {"ON DISK", true}, {"", false},
	};
	struct table t = TABLE_INIT(columns);

	for (size_t i = 0; i < components->n; i++) {
		const struct component *c = &components->list[i];
		char text[SIZE_HUMAN_MAX];

		table_cell(&t, "%s", COMPONENT_NAME);
		table_cell(&t, "%s", c->version);
		table_cell(&t, "%s", c->kernel_bytes ? size_human(c->kernel_bytes, text) : "-");
		table_cell(&t, "%s", c->rootfs_bytes ? size_human(c->rootfs_bytes, text) : "-");
		table_cell(&t, "%s",
			   c->rootfs_bytes ? size_human(c->rootfs_allocated_bytes, text) : "-");
		table_cell(&t, "%s%s%s%s", i ? "" : "used", i || !c->lacks ? "" : ", but ",
			   c->lacks ? "incomplete: no " : "", c->lacks ? c->lacks : "");
	}
	table_print(&t, stdout, SIZE_MAX, 0, "\n");
	table_free(&t);
}

static int list(struct component_options *o, struct err *err)
{
	struct components components;

	if (components_read(o->install.root, &components, err))
		return LODGE_FAILED;
	if (o->json)
		list_json(o->install.root, &components);
	else
		list_table(&components);
	components_free(&components);
	return LODGE_OK;
}

/* ---- install ------------------------------------------------------------------------------------
 */

/* An older version than the highest would wait for a start in vain. */
static void warn_unused(const struct component_options *o, const char *version)
{
	struct components components;
	struct err err = ERR_INIT;

	if (o->quiet || components_read(o->install.root, &components, &err))
		return;
	if (components.n && strcmp(components.list[0].version, version) != 0)
		fprintf(stderr,
			"lodge component install: version %s is there, but %s is higher, and is "
			"what is used\n",
			version, components.list[0].version);
	components_free(&components);
}

static void print_installed(const struct component_options *o, const char *version)
{
	struct json j = JSON_INIT(stdout);
	char *path = NULL;

	if (asprintf(&path, "%s/" COMPONENT_NAME "/%s", o->install.root, version) < 0)
		return;
	if (o->json) {
		json_object(&j, NULL);
		json_string(&j, "name", COMPONENT_NAME);
		json_string(&j, "version", version);
		json_string(&j, "path", path);
		json_end(&j);
	} else {
		puts(path);
	}
	free(path);
}

static int install(struct component_options *o, struct err *err)
{
	const struct disk_args args = {.progress = o->progress, .quiet = o->quiet};
	char version[COMPONENT_VERSION_MAX + 1];
	struct disk_job job = {0};
	int status = LODGE_OK, res;

	if (!o->install.kernel || !o->install.rootfs) {
		err_set(err, EINVAL, "%s is missing; say --kernel FILE --root FILE",
			o->install.kernel ? "--root" : "--kernel");
		return LODGE_USAGE;
	}
	res = disk_job_begin(&job, &args, err);
	if (!res)
		res = component_install(&o->install, &job, version, err);
	disk_job_end(&job);
	if (!res) {
		print_installed(o, version);
		warn_unused(o, version);
	} else if (job.signal) {
		*err = (struct err)ERR_INIT;
		err_set(err, ECANCELED, "ended by SIG%s; nothing has been installed",
			sigabbrev_np(job.signal));
		status = LODGE_SIGNALLED + job.signal;
	} else {
		status = LODGE_FAILED;
	}
	return status;
}

/* ---- the table ----------------------------------------------------------------------------------
 */

static const struct component_command {
	const char *name;
	const char *synopsis;
	const char *summary;
	const struct option_setting *settings;
	size_t nsettings;
	int (*run)(struct component_options *o, struct err *err);
} commands[] = {
    {"list", "[--json]", "the versions that there are, and which is used", list_settings,
     ARRAY_LEN(list_settings), list},
    {"install", "--kernel FILE --root FILE [option ...]", "put one in place", install_settings,
     ARRAY_LEN(install_settings), install},
};

static const struct component_command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

static int unknown(const char *name)
{
	const char *names[ARRAY_LEN(commands) + 1] = {NULL}, *near;

	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		names[i] = commands[i].name;
	near = parse_suggest(name, names);
	if (near)
		fprintf(stderr, "lodge component: unknown command '%s'; did you mean %s?\n", name,
			near);
	else
		fprintf(stderr,
			"lodge component: unknown command '%s'; `lodge help component` lists "
			"them\n",
			name);
	return LODGE_USAGE;
}

static void usage(FILE *out)
{
	fputs("usage: lodge component COMMAND [option ...]\n\n"
	      "Kernel and root of VMs that are started with `lodge start --termina`.\n\n"
	      "Commands:\n",
	      out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
	fputs("\n`lodge component COMMAND --help` explains one; lodge-component(1) explains all.\n"
	      "\nExit status: 0 done, 1 failed, 2 wrong arguments, 128+N ended by signal N.\n",
	      out);
}

void cmd_component_help(void)
{
	usage(stdout);
}

static struct arguments arguments_of(const struct component_command *c, const char *command,
				     struct component_options *o)
{
	return (struct arguments){
	    .command = command, .settings = c->settings, .nsettings = c->nsettings, .target = o};
}

static void command_help(const struct component_command *c)
{
	const struct arguments args = arguments_of(c, c->name, NULL);

	printf("usage: lodge component %s %s\n\nOptions:\n", c->name, c->synopsis);
	arguments_help(&args, stdout);
}

int cmd_component_help_of(const char *word)
{
	const struct component_command *c = find(word);

	if (!c)
		return unknown(word);
	command_help(c);
	return LODGE_OK;
}

static int run(const struct component_command *c, int argc, char **argv)
{
	struct component_options o = {.install = {.root = COMPONENT_ROOT, .format = IMAGE_RAW}};
	struct err err = ERR_INIT;
	char name[32];
	struct arguments args;
	int res, status;

	snprintf(name, sizeof(name), "component %s", c->name);
	args = arguments_of(c, name, &o);
	res = arguments_parse(&args, argc, argv, NULL, NULL, &err);
	if (res == 1) {
		command_help(c);
		return LODGE_OK;
	}
	log_init(STDERR_FILENO, LOG_LEVEL_WARN);
	umask(022); /* others start VMs from it */
	status = res ? LODGE_USAGE : c->run(&o, &err);
	if (err.code)
		fprintf(stderr, "lodge %s: %s\n", name, err.msg);
	return status;
}

int cmd_component(int argc, char **argv)
{
	const struct component_command *c;

	if (argc < 2) {
		usage(stderr);
		return LODGE_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		usage(stdout);
		return LODGE_OK;
	}
	c = find(argv[1]);
	return c ? run(c, argc - 1, argv + 1) : unknown(argv[1]);
}
