/* See control/agent/termina.h. */
#include "control/agent/termina.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "proto/agent.pb-c.h"
#include "vmm/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ARGS_MAX  8
#define TEXT_MAX  1024
#define AGAIN_NS  UINT64_C(200000000)
#define LXD_DIR	  TERMINA_STATEFUL "/lxd"
#define LXD_LOG	  "/run/lxd.log"
#define PRESEEDED "user.lodge.preseed"
#define BRIDGE	  "lxdbr0"

enum step {
	STEP_DIRECTORY,
	STEP_START,
	STEP_WAIT,
	STEP_ALIVE, /* does it still run? Back to STEP_WAIT */
	STEP_LOOK,
	STEP_PRESEED,
	STEP_NOTE,
	STEP_ADDRESS,
	STEPS,
};

static const struct {
	const char *name;
	const char *argv[ARGS_MAX]; /* "%" becomes the bridge's address */
	const char *input;	    /* likewise in it */
} steps[STEPS] = {
    [STEP_DIRECTORY] = {"making " LXD_DIR, {"mkdir", "-p", LXD_DIR}, NULL},
    [STEP_START] = {"starting LXD", {"lxd", "--logfile", LXD_LOG}, NULL},
    [STEP_WAIT] = {"waiting for LXD", {"lxd", "waitready", "--timeout=3"}, NULL},
    [STEP_ALIVE] = {"waiting for LXD", {NULL}, NULL},
    [STEP_LOOK] = {"asking LXD whether it is preseeded", {"lxc", "config", "get", PRESEEDED}, NULL},
    [STEP_PRESEED] = {"preseeding LXD",
		      {"lxd", "init", "--preseed"},
		      "networks:\n"
		      "- name: " BRIDGE "\n"
		      "  type: bridge\n"
		      "  config:\n"
		      "    ipv4.address: %\n"
		      "    ipv4.nat: \"false\"\n"
		      "    ipv6.address: none\n"
		      "storage_pools:\n"
		      "- name: default\n"
		      "  driver: btrfs\n"
		      "  config:\n"
		      "    source: " LXD_DIR "/storage-pools/default\n"
		      "profiles:\n"
		      "- name: default\n"
		      "  devices:\n"
		      "    root:\n"
		      "      path: /\n"
		      "      pool: default\n"
		      "      type: disk\n"
		      "    eth0:\n"
		      "      name: eth0\n"
		      "      network: " BRIDGE "\n"
		      "      type: nic\n"},
    [STEP_NOTE] = {"noting that LXD is preseeded", {"lxc", "config", "set", PRESEEDED, "1"}, NULL},
    [STEP_ADDRESS] = {"setting the address of " BRIDGE,
		      {"lxc", "network", "set", BRIDGE, "ipv4.address", "%"},
		      NULL},
};

static void step_begin(struct termina *t, enum step step);

void termina_end(struct termina *t)
{
	if (!t->guest)
		return;
	loop_timer_disarm(t->loop, &t->again);
	if (t->call)
		ttrpc_client_cancel(steal_ptr(&t->call));
	t->guest = NULL;
}

static void over(struct termina *t, const struct err *err)
{
	termina_end(t);
	t->done(t->ctx, err);
}

const char *termina_step(const struct termina *t)
{
	return steps[t->step].name;
}

static void failed(struct termina *t, const char *why)
{
	struct err err = ERR_INIT;

	err_set(&err, EIO, "termina: %s, in the guest: %s", termina_step(t), why);
	guest_clean_text(err.msg);
	over(t, &err);
}

/* ---- a program of the guest ---------------------------------------------------------------------
 */

/* Keeps the end of what there is, always a string. */
static void keep(char *text, size_t *len, const ProtobufCBinaryData *data)
{
	const size_t room = TERMINA_SAID_MAX - 1;
	const size_t take = MIN(data->len, room);
	const size_t old = MIN(*len, room - take);

	memmove(text, text + *len - old, old);
	memcpy(text + old, data->data + data->len - take, take);
	*len = old + take;
	text[*len] = '\0';
}

/* The last line that says something. */
static char *last_line(char *text)
{
	size_t len = strlen(text);
	char *line;

	while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	line = strrchr(text, '\n');
	return line ? line + 1 : text;
}

static void exec_said(void *ctx, const ProtobufCMessage *message)
{
	const Lodge__Agent__V1__ExecResponse *r = (const Lodge__Agent__V1__ExecResponse *)message;
	struct termina *t = ctx;

	if (r->pid && t->step == STEP_START)
		t->lxd_pid = r->pid;
	if (r->stdout_data.len)
		keep(t->out, &t->out_len, &r->stdout_data);
	if (r->stderr_data.len)
		keep(t->said, &t->said_len, &r->stderr_data);
	if (r->exited) {
		t->exited = true;
		t->status = r->exited->status;
		t->signal = r->exited->signal;
	}
}

static void exited_badly(struct termina *t)
{
	const char *line = last_line(t->said_len ? t->said : t->out);
	char why[TERMINA_SAID_MAX + 64];

	if (t->signal)
		snprintf(why, sizeof(why), "%s was ended by signal %u", steps[t->step].argv[0],
			 t->signal);
	else
		snprintf(why, sizeof(why), "%s %s: %s", steps[t->step].argv[0],
			 steps[t->step].argv[1], *line ? line : "it failed and said nothing");
	failed(t, why);
}

static void exec_done(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct termina *t = ctx;
	const bool good = t->exited && !t->status && !t->signal;

	(void)reply;
	t->call = NULL;
	if (code != TTRPC_OK)
		failed(t, text);
	else if (t->step == STEP_WAIT && !good)
		step_begin(t, STEP_ALIVE);
	else if (!good && t->step != STEP_START)
		exited_badly(t);
	else if (t->step == STEP_WAIT)
		step_begin(t, STEP_LOOK);
	else if (t->step == STEP_LOOK)
		step_begin(t, !strcmp(last_line(t->out), "1") ? STEP_ADDRESS : STEP_PRESEED);
	else if (t->step == STEP_NOTE || t->step == STEP_ADDRESS)
		over(t, &(struct err)ERR_INIT);
	else
		step_begin(t, t->step + 1);
}

/* `pattern` with the bridge's address, the first usable of the network, for each '%'. */
static char *fill(const struct termina *t, const char *pattern, char text[TEXT_MAX])
{
	const uint32_t a = t->containers + 1;
	size_t n = 0;

	for (; *pattern && n < TEXT_MAX - 1; pattern++) {
		if (*pattern != '%')
			text[n++] = *pattern;
		else
			n += (size_t)snprintf(text + n, TEXT_MAX - n, "%u.%u.%u.%u/%d", a >> 24,
					      a >> 16 & 0xff, a >> 8 & 0xff, a & 0xff,
					      NET_CONTAINERS_PREFIX);
	}
	text[n] = '\0';
	return text;
}

/* The program, and its input. */
static int exec_send(struct termina *t)
{
	static char lxd_dir[] = "LXD_DIR=" LXD_DIR, lxd_conf[] = "LXD_CONF=/run/lodge-lxc";
	Lodge__Agent__V1__ExecStart start = LODGE__AGENT__V1__EXEC_START__INIT;
	Lodge__Agent__V1__ExecRequest request = LODGE__AGENT__V1__EXEC_REQUEST__INIT;
	char texts[ARGS_MAX][TEXT_MAX], input[TEXT_MAX], *argv[ARGS_MAX];
	char *env[] = {lxd_dir, lxd_conf};
	int res;

	for (; start.n_argv < ARGS_MAX && steps[t->step].argv[start.n_argv]; start.n_argv++)
		argv[start.n_argv] =
		    fill(t, steps[t->step].argv[start.n_argv], texts[start.n_argv]);
	start.argv = argv;
	start.env = env;
	start.n_env = ARRAY_LEN(env);
	start.detach = t->step == STEP_START;
	start.open_stdin = steps[t->step].input != NULL;
	request.start = &start;
	res = ttrpc_client_send(t->call, &request.base);
	if (!res && start.open_stdin) {
		lodge__agent__v1__exec_request__init(&request);
		request.stdin_data.data = (uint8_t *)fill(t, steps[t->step].input, input);
		request.stdin_data.len = strlen(input);
		request.stdin_end = true;
		res = ttrpc_client_send(t->call, &request.base);
	}
	return res;
}

static int exec_begin(struct termina *t, struct ttrpc_client *client)
{
	const struct ttrpc_rpc rpc = {
	    .service = AGENT_SERVICE,
	    .method = "Exec",
	    .output = &lodge__agent__v1__exec_response__descriptor,
	    .server_stream = true,
	    .message = exec_said,
	    .done = exec_done,
	    .ctx = t,
	};
	int res;

	t->exited = false;
	t->status = t->signal = 0;
	t->out_len = t->said_len = 0;
	t->out[0] = t->said[0] = '\0';
	res = ttrpc_client_start(client, &rpc, &t->call);
	return res ? res : exec_send(t);
}

/* ---- does LXD live? -----------------------------------------------------------------------------
 */

static void again(struct loop_timer *timer)
{
	step_begin(container_of(timer, struct termina, again), STEP_WAIT);
}

static void alive_done(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct termina *t = ctx;

	(void)reply;
	t->call = NULL;
	if (code == TTRPC_NOT_FOUND)
		failed(t, "it has ended; " LXD_LOG " in the guest says why, where the guest's disk "
			  "can be looked at");
	else if (code != TTRPC_OK)
		failed(t, text);
	else
		loop_timer_arm(t->loop, &t->again, loop_now_ns() + AGAIN_NS);
}

static int alive_begin(struct termina *t, struct ttrpc_client *client)
{
	Lodge__Agent__V1__ListFilesRequest request = LODGE__AGENT__V1__LIST_FILES_REQUEST__INIT;
	const struct ttrpc_rpc rpc = {
	    .service = AGENT_SERVICE,
	    .method = "ListFiles",
	    .request = &request.base,
	    .output = &lodge__agent__v1__list_files_response__descriptor,
	    .done = alive_done,
	    .ctx = t,
	};
	char path[32];

	snprintf(path, sizeof(path), "/proc/%u", t->lxd_pid);
	request.path = path;
	request.no_entries = true;
	return ttrpc_client_start(client, &rpc, &t->call);
}

/* ---- steps --------------------------------------------------------------------------------------
 */

static void step_begin(struct termina *t, enum step step)
{
	struct err err = ERR_INIT;
	struct ttrpc_client *client;
	int res;

	t->step = step;
	client = guest_client(t->guest, &err);
	if (!client) {
		failed(t, err.msg);
		return;
	}
	res = step == STEP_ALIVE ? alive_begin(t, client) : exec_begin(t, client);
	if (res)
		failed(t, strerror(-res));
}

void termina_begin(struct termina *t, struct loop *loop, struct guest *guest, uint32_t containers,
		   void (*done)(void *ctx, const struct err *err), void *ctx)
{
	*t = (struct termina){
	    .loop = loop,
	    .guest = guest,
	    .containers = containers,
	    .again.fn = again,
	    .done = done,
	    .ctx = ctx,
	};
	step_begin(t, STEP_DIRECTORY);
}
