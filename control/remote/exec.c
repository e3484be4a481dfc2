/*
 * `lodge exec` and `lodge shell`: programs in a guest, through its agent.
 */
#include "base/checked.h"
#include "control/remote/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENV_MAX 256

enum wanted { WANTED_AUTO, WANTED_YES, WANTED_NO };

struct exec_options {
	struct remote_options remote;
	bool input;
	enum wanted terminal;
	bool detach;
	const char *user, *workdir;
	char *env[ENV_MAX];
	size_t nenv;
};

/* ---- options ------------------------------------------------------------------------------------
 */

static int set_input(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct exec_options *)target)->input = true;
	return 0;
}

static int set_terminal(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct exec_options *)target)->terminal = WANTED_YES;
	return 0;
}

static int set_no_terminal(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct exec_options *)target)->terminal = WANTED_NO;
	return 0;
}

static int set_detach(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct exec_options *)target)->detach = true;
	return 0;
}

static int set_user(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct exec_options *)target)->user = value;
	return 0;
}

static int set_workdir(void *target, const char *value, struct err *err)
{
	if (*value != '/')
		return err_set(err, EINVAL, "'%s' is not an absolute path", value);
	((struct exec_options *)target)->workdir = value;
	return 0;
}

/* "NAME=value", or "NAME" with the value that it has here. */
static int set_env(void *target, const char *value, struct err *err)
{
	struct exec_options *o = target;
	const char *own = strchr(value, '=') ? "" : getenv(value);
	char *entry;

	if (!*value || *value == '=')
		return err_set(err, EINVAL, "'%s' is not NAME=value", value);
	if (!own)
		return 0; /* it has none here: nor there */
	if (o->nenv == ENV_MAX)
		return err_set(err, E2BIG, "at most %d can be given", ENV_MAX);
	if (asprintf(&entry, "%s%s%s", value, strchr(value, '=') ? "" : "=", own) < 0)
		return err_set(err, ENOMEM, "out of memory");
	o->env[o->nenv++] = entry;
	return 0;
}

#define SETTING_USER                                                                       \
	{                                                                                  \
		"user", "USER[:GROUP]", set_user, "of the guest, by name or number (root)" \
	}
#define SETTING_ENV                                                                              \
	{                                                                                        \
		"env", "NAME[=VALUE]", set_env, "a variable; without a value, with the one here" \
	}
#define SETTING_WORKDIR                                                                           \
	{                                                                                         \
		"workdir", "DIR", set_workdir, "where it runs (/; on a terminal the user's home)" \
	}

static const struct option_setting exec_settings[] = {
    {"stdin", NULL, set_input, "pass standard input on"},
    {"terminal", NULL, set_terminal, "on a terminal in the guest, also where there is none here"},
    {"no-terminal", NULL, set_no_terminal, "by pipes, also where there is a terminal here"},
    {"detach", NULL, set_detach, "start it, print its process id and end"},
    SETTING_USER,
    SETTING_ENV,
    SETTING_WORKDIR,
    REMOTE_SETTING_SOCKET,
    {"timeout", "SECONDS", remote_set_timeout, "kill it after this time, and end with 124"},
};

/* As docker and podman have them. */
static const struct arguments_letter exec_letters[] = {
    {'i', "stdin"}, {'t', "terminal"}, {'T', "no-terminal"}, {'d', "detach"},
    {'u', "user"},  {'e', "env"},      {'w', "workdir"},
};

static int exec_check(const struct remote_options *options, const char *const *operands,
		      unsigned noperands, struct err *err)
{
	const struct exec_options *o = (const struct exec_options *)options;

	(void)operands;
	if (noperands < 2)
		return err_set(err, EINVAL, "say NAME and a command, such as: web uname -a");
	if (o->detach && (o->input || o->terminal == WANTED_YES))
		return err_set(err, EINVAL, "--detach leaves no streams to pass on");
	return 0;
}

/* ---- running ------------------------------------------------------------------------------------
 */

static bool wants_terminal(const struct exec_options *o)
{
	if (o->detach || o->terminal == WANTED_NO)
		return false;
	return o->terminal == WANTED_YES || session_on_terminal();
}

/* The terminal in the guest is of the kind of the one here. */
static int add_term(struct exec_options *o)
{
	const char *term = getenv("TERM");

	for (size_t i = 0; i < o->nenv; i++) {
		if (!strncmp(o->env[i], "TERM=", 5))
			return 0;
	}
	if (!term || !*term || o->nenv == ENV_MAX)
		return 0;
	if (asprintf(&o->env[o->nenv], "TERM=%s", term) < 0)
		return -ENOMEM;
	o->nenv++;
	return 0;
}

static int run(struct remote *r, struct exec_options *o, const char *vm,
	       Lodge__Agent__V1__ExecStart *start)
{
	struct session_spec spec = {
	    .vm = vm, .start = start, .terminal = wants_terminal(o), .input = o->input};

	if (spec.terminal && add_term(o))
		return remote_fail(r, LODGE_FAILED, "out of memory");
	start->user = remote_borrow(o->user ? o->user : "");
	start->cwd = remote_borrow(o->workdir ? o->workdir : "");
	start->env = o->env;
	start->n_env = o->nenv;
	start->detach = o->detach;
	return session_run(r, &spec);
}

static struct exec_options *options_of(struct remote *r)
{
	union {
		const struct remote_options *in;
		struct exec_options *out;
	} u = {.in = r->options};

	return u.out;
}

static int exec_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__Agent__V1__ExecStart start = LODGE__AGENT__V1__EXEC_START__INIT;
	char **argv = calloc(noperands, sizeof(*argv));
	int status;

	if (!argv)
		return remote_fail(r, LODGE_FAILED, "out of memory");
	for (unsigned i = 1; i < noperands; i++)
		argv[start.n_argv++] = remote_borrow(operands[i]);
	start.argv = argv;
	status = run(r, options_of(r), operands[0], &start);
	free(argv);
	return status;
}

static int run_with_env(const struct remote_command *command, struct exec_options *o, int argc,
			char **argv)
{
	int status = remote_run(command, &o->remote, argc, argv);

	while (o->nenv)
		free(o->env[--o->nenv]);
	return status;
}

static const struct remote_command exec_command = {
    .name = "exec",
    .usage = "NAME [--] COMMAND [ARG ...]",
    .about =
	"Runs a program in the guest of a VM, and ends as it does.\n"
	"On a terminal it has one in the guest as well, whose keys are all the program's, but\n"
	"that Enter ~ . leaves and kills it. Otherwise it has pipes, and with -i the standard\n"
	"input. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are sent on to it.\n",
    .more = "Exit status: the program's; 128 and the number of the signal that ended it; 124 not\n"
	    "within --timeout; 125 lodge, the VM or its agent failed, or wrong arguments; 126 the\n"
	    "program cannot be executed; 127 there is none.\n",
    .settings = exec_settings,
    .nsettings = ARRAY_LEN(exec_settings),
    .letters = exec_letters,
    .nletters = ARRAY_LEN(exec_letters),
    .operands_min = 1,
    .operands_max = ~0U,
    .operands_help = "the VM's name",
    .command_at = 1,
    .failed_as = SESSION_FAILED,
    .check = exec_check,
    .run = exec_run,
};

int cmd_exec(int argc, char **argv)
{
	struct exec_options options = {.input = false};

	return run_with_env(&exec_command, &options, argc, argv);
}

void cmd_exec_help(void)
{
	remote_help(&exec_command);
}

/* ---- shell --------------------------------------------------------------------------------------
 */

static int shell_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__Agent__V1__ExecStart start = LODGE__AGENT__V1__EXEC_START__INIT;
	struct exec_options *o = options_of(r);

	(void)noperands;
	start.login_shell = true;
	o->input = true;
	return run(r, o, operands[0], &start);
}

static const struct option_setting shell_settings[] = {
    SETTING_USER,
    SETTING_ENV,
    SETTING_WORKDIR,
    REMOTE_SETTING_SOCKET,
};

static const struct arguments_letter shell_letters[] = {
    {'u', "user"},
    {'e', "env"},
    {'w', "workdir"},
};

static const struct remote_command shell_command = {
    .name = "shell",
    .usage = "NAME",
    .about =
	"A login shell in the guest of a VM: the one of the user. Enter ~ . leaves and kills it.\n"
	"Without a terminal it reads its commands from the standard input.\n",
    .more = "The exit status is that of `lodge exec`.\n",
    .settings = shell_settings,
    .nsettings = ARRAY_LEN(shell_settings),
    .letters = shell_letters,
    .nletters = ARRAY_LEN(shell_letters),
    .operands_min = 1,
    .operands_max = 1,
    .operands_help = "the VM's name",
    .failed_as = SESSION_FAILED,
    .run = shell_run,
};

int cmd_shell(int argc, char **argv)
{
	struct exec_options options = {.input = false};

	return run_with_env(&shell_command, &options, argc, argv);
}

void cmd_shell_help(void)
{
	remote_help(&shell_command);
}
