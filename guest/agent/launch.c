/* From a forked child to a program. See guest/agent/launch.h. */
#include "guest/agent/launch.h"

#include "base/checked.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_DEFAULT   "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define SHELL_DEFAULT  "/bin/sh"
#define NAME_MAX_BYTES 256 /* of users and groups: more than any passwd has */

struct user {
	uid_t uid;
	gid_t gid;
	const char *name; /* "": a number without a name */
	const char *home, *shell;
};

int launch_check(const Lodge__Agent__V1__ExecStart *start, struct err *err)
{
	if (start->login_shell && start->n_argv)
		return err_set(err, EINVAL, "a login shell has no argv of its own");
	if (!start->login_shell && (!start->n_argv || !start->argv[0][0]))
		return err_set(err, EINVAL, "argv[0] is missing: it names the program");
	for (size_t i = 0; i < start->n_env; i++) {
		const char *eq = strchr(start->env[i], '=');

		if (!eq || eq == start->env[i])
			return err_set(err, EINVAL, "env '%.100s' is not NAME=value",
				       start->env[i]);
	}
	if (start->cwd[0] && start->cwd[0] != '/')
		return err_set(err, EINVAL, "cwd '%s' is not an absolute path", start->cwd);
	if (start->terminal && (start->detach || start->terminal->rows > USHRT_MAX ||
				start->terminal->columns > USHRT_MAX))
		return err_set(err, EINVAL,
			       "a terminal has up to %d rows and columns, and is not "
			       "for detached processes",
			       USHRT_MAX);
	if (start->detach && start->open_stdin)
		return err_set(err, EINVAL, "a detached process has no standard input");
	return 0;
}

/* ---- user and group -----------------------------------------------------------------------------
 */

/* A number of an id that is not "no change" (-1). */
static bool parse_id(const char *text, unsigned *ret_id)
{
	unsigned long id;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	id = strtoul(text, &end, 10);
	if (*end || errno || id >= UINT_MAX)
		return false;
	*ret_id = (unsigned)id;
	return true;
}

static int find_group(const char *name, gid_t *ret_gid, struct err *err)
{
	const struct group *group = getgrnam(name);

	if (group)
		*ret_gid = group->gr_gid;
	else if (!parse_id(name, ret_gid))
		return err_set(err, ENOENT, "there is no group %s in the guest", name);
	return 0;
}

static int find_user(const char *text, struct user *ret_user, struct err *err)
{
	char name[NAME_MAX_BYTES];
	const char *group = strchr(text, ':');
	const struct passwd *pw;
	unsigned uid = 0;

	*ret_user = (struct user){.name = "root", .home = "/", .shell = SHELL_DEFAULT};
	if ((size_t)snprintf(name, sizeof(name), "%.*s",
			     group ? (int)(group - text) : (int)strnlen(text, INT_MAX),
			     text) >= sizeof(name))
		return err_set(err, EINVAL, "the user's name is too long");
	pw = getpwnam(name[0] ? name : "root");
	if (!pw && name[0] && parse_id(name, &uid))
		pw = getpwuid(uid);
	if (pw) {
		*ret_user = (struct user){pw->pw_uid, pw->pw_gid, strdup(pw->pw_name),
					  strdup(pw->pw_dir[0] ? pw->pw_dir : "/"),
					  strdup(pw->pw_shell[0] ? pw->pw_shell : SHELL_DEFAULT)};
		if (!ret_user->name || !ret_user->home || !ret_user->shell)
			return err_set(err, ENOMEM, "out of memory");
	} else if (name[0] && parse_id(name, &uid)) {
		if (uid && !group)
			return err_set(err, ENOENT,
				       "user %u is not in the guest's /etc/passwd; say "
				       "its group as well (%u:GROUP)",
				       uid, uid);
		ret_user->uid = uid;
		ret_user->name = uid ? "" : "root";
	} else if (name[0] && strcmp(name, "root") != 0) {
		return err_set(err, ENOENT, "there is no user %s in the guest", name);
	}
	return group ? find_group(group + 1, &ret_user->gid, err) : 0;
}

static int become(const struct user *user, bool terminal, struct err *err)
{
	int res;

	if (terminal && fchown(0, user->uid, user->gid) == 0)
		(void)fchmod(0, 0620);
	res = user->name[0] ? initgroups(user->name, user->gid) : setgroups(0, NULL);
	if (res < 0 && !(errno == EPERM && user->uid == geteuid()))
		return err_sys(err, errno, "setting the groups of user %u", user->uid);
	if (setresgid(user->gid, user->gid, user->gid) < 0)
		return err_sys(err, errno, "becoming group %u", user->gid);
	if (setresuid(user->uid, user->uid, user->uid) < 0)
		return err_sys(err, errno, "becoming user %u", user->uid);
	return 0;
}

/* ---- environment --------------------------------------------------------------------------------
 */

static bool has_name(char **env, size_t n, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (!strncmp(env[i], name, len) && env[i][len] == '=')
			return true;
	return false;
}

/* What the client gave, and after it what it left out. NULL: no memory. */
static char **make_env(const Lodge__Agent__V1__ExecStart *start, const struct user *user)
{
	const char *const more[][2] = {
	    {"PATH", PATH_DEFAULT}, {"HOME", user->home},
	    {"USER", user->name},   {"LOGNAME", user->name},
	    {"SHELL", user->shell}, {"TERM", start->terminal ? "linux" : ""},
	};
	char **env = calloc(start->n_env + ARRAY_LEN(more) + 1, sizeof(*env));
	size_t n = 0;

	if (!env)
		return NULL;
	for (; n < start->n_env; n++)
		env[n] = start->env[n];
	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		if (!more[i][1][0] || has_name(start->env, start->n_env, more[i][0]))
			continue;
		if (asprintf(&env[n++], "%s=%s", more[i][0], more[i][1]) < 0)
			return NULL;
	}
	return env;
}

/* ---- all of it ----------------------------------------------------------------------------------
 */

/* As login(1) does: "-sh" tells the shell what it is. Returns when there is no such shell. */
static void execute_shell(const char *shell)
{
	const char *slash = strrchr(shell, '/');
	char name[NAME_MAX_BYTES];
	char *argv[] = {name, NULL};

	snprintf(name, sizeof(name), "-%s", slash ? slash + 1 : shell);
	execv(shell, argv);
}

static int execute_login_shell(const char *shell, struct err *err)
{
	int error;

	execute_shell(shell);
	error = errno;
	if (error == ENOENT)
		execute_shell(SHELL_DEFAULT);
	return err_sys(err, error, "cannot start %s", shell);
}

int launch(const void *arg, struct err *err)
{
	const Lodge__Agent__V1__ExecStart *start = arg;
	const char *cwd = start->cwd;
	char **argv;
	struct user user;
	int res;

	res = find_user(start->user, &user, err);
	if (!res)
		res = become(&user, start->terminal != NULL, err);
	if (res)
		return res;
	if (chdir("/") < 0)
		return err_sys(err, errno, "/");
	if (cwd[0] && chdir(cwd) < 0)
		return err_sys(err, errno, "working directory %s", cwd);
	if (!cwd[0] && start->terminal)
		(void)!chdir(user.home); /* as login does where there is none */
	environ = make_env(start, &user);
	if (environ && start->login_shell)
		return execute_login_shell(user.shell, err);
	argv = calloc(start->n_argv + 1, sizeof(*argv));
	if (!environ || !argv)
		return err_set(err, ENOMEM, "out of memory");
	memcpy(argv, start->argv, start->n_argv * sizeof(*argv));
	execvp(argv[0], argv);
	if (errno == ENOENT)
		return err_set(err, ENOENT,
			       "cannot start %s: neither it nor its interpreter is in "
			       "the guest (No such file or directory)",
			       start->argv[0]);
	return err_sys(err, errno, "cannot start %s", start->argv[0]);
}
