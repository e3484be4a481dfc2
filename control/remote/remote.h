/*
 * What the commands that ask a server have in common: the options --socket, --json and --timeout,
 * the connection, what failed as a line and an exit status (lodge-client(1), EXIT STATUS).
 *
 * Threads: one.
 */
#ifndef CONTROL_REMOTE_REMOTE_H
#define CONTROL_REMOTE_REMOTE_H

#include "control/arguments.h"
#include "control/client/lodge.h"
#include "control/command.h"
#include "control/options/settings.h"

#include <stdbool.h>

/* Exit status beside LODGE_OK, LODGE_FAILED and LODGE_USAGE. */
enum remote_exit {
	REMOTE_NO_VM = 3, /* no VM, or no image, of this name */
	REMOTE_NO_SERVER = 4,
	REMOTE_NOT_ALLOWED = 5,
};

/* The first member of the options of each command. */
struct remote_options {
	const char *socket;
	unsigned timeout_ms; /* 0: not given */
	bool json;
};

/* Their lines of a table of options. */
#define REMOTE_SETTING_SOCKET                                                            \
	{                                                                                \
		"socket", "PATH", remote_set_socket,                                     \
		    "the server's socket ($LODGE_SOCKET, then " LODGE_SOCKET_DEFAULT ")" \
	}
#define REMOTE_SETTING_JSON                                 \
	{                                                   \
		"json", NULL, remote_set_json, "print JSON" \
	}
#define REMOTE_SETTINGS                                     \
	REMOTE_SETTING_SOCKET, REMOTE_SETTING_JSON,         \
	{                                                   \
		"timeout", "SECONDS", remote_set_timeout,   \
		    "how long to wait for the answer (for " \
		    "ever)"                                 \
	}

int remote_set_socket(void *target, const char *value, struct err *err);
int remote_set_json(void *target, const char *value, struct err *err);
int remote_set_timeout(void *target, const char *value, struct err *err);

struct remote_command;

/* A command while it runs. */
struct remote {
	const struct remote_command *command;
	const struct remote_options *options;
	struct lodge_client *client;
	int status; /* of the failure that was printed */
};

struct remote_command {
	const char *name;  /* "image create" */
	const char *usage; /* what follows the name */
	const char *about; /* for the help, ends with a newline */
	const char *more;  /* behind the options; NULL: nothing */
	const struct option_setting *settings;
	size_t nsettings;
	unsigned operands_min, operands_max;
	const char *operands_help;
	int failed_base; /* added to the exit status of what failed */
	int failed_as;	 /* all failures end with this, wrong arguments too; 0: each with its own */
	const struct arguments_letter *letters;
	size_t nletters;
	unsigned command_at; /* as of struct arguments */
	/* What is wrong in the combination, before a connection is made. 0 or -EINVAL. May be NULL.
	 */
	int (*check)(const struct remote_options *options, const char *const *operands,
		     unsigned noperands, struct err *err);
	/* With a connection. Returns the exit status; what failed has been printed. */
	int (*run)(struct remote *r, const char *const *operands, unsigned noperands);
};

/* Parses, connects, runs. `options` begins with a struct remote_options, which is zeroed. */
int remote_run(const struct remote_command *command, struct remote_options *options, int argc,
	       char **argv);

/* The last step of remote_run(), for those that parse themselves. */
int remote_connect_and_run(const struct remote_command *command, struct remote_options *options,
			   const char *const *operands, unsigned noperands);

void remote_help(const struct remote_command *command);

/* Prints "lodge COMMAND: " and the text; returns `status`, which the command ends with. */
int remote_fail(struct remote *r, int status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The same of a call that failed. */
int remote_failed(struct remote *r, const struct lodge_error *error);

/* The answer, which the caller frees; NULL: r->status is the exit status, the failure is printed.
 */
ProtobufCMessage *remote_call(struct remote *r, const char *method,
			      const ProtobufCMessage *request);

/* One more connection to the same server. 0, or an exit status. */
int remote_connect(struct remote *r, struct lodge_client **ret_client);

/*
 * What standard output gets must leave at once, for who reads it as it comes. False: it cannot be
 * written; nobody reads any more.
 */
bool remote_flush(void);

/* A string for a message that is only read while it is packed. */
char *remote_borrow(const char *text);

/* An absolute path to free; NULL: out of memory, or there is no current directory. */
char *remote_absolute(const char *path);

#endif
