/* Shutdown: the call, and asking the guest's init. See guest/agent/shutdown.h. */
#include "guest/agent/shutdown.h"

#include "base/checked.h"
#include "base/log.h"
#include "guest/agent/agent.h"
#include "guest/agent/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A client that does not read its answer does not stop the guest's end. */
#define ANSWER_NS UINT64_C(1000000000)

/* systemd may have been asked while it starts: asked again, which changes nothing. After so often
 * it is done without it. */
#define ASK_AGAIN_NS UINT64_C(3000000000)
#define ASK_MAX	     30

/* The guest's init may just have been started, and would not hear it. */
#define LOOK_AGAIN_NS UINT64_C(100000000)
#define LOOK_MAX      600

#define NAME_BYTES   256
#define STATUS_BYTES 4096

/* guest/init, where it has nobody to hand over to */
#define OUR_INIT "lodge-init"

/* systemd(1), SIGNALS: numbers of the kernel's first real-time signal (32; the C library keeps
 * two) and more */
#define SYSTEMD_POWEROFF (34 + 4)
#define SYSTEMD_REBOOT	 (34 + 5)

/* Programs that, as process 1, take part in poweroff(8) and reboot(8). */
static const char *const inits[] = {"init",  "linuxrc", "openrc-init", "runit",
				    "dinit", "finit",	"s6-svscan",   "upstart"};

/* The start of a file, which may have NULs in it; all the rest is 0. */
static void read_start(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(text, 0, size);
	if (fd < 0)
		return;
	(void)!read(fd, text, size - 2);
	close(fd);
}

/* What process 1 calls itself: busybox and sysvinit are "init" in many forms. */
static void init_name(char name[static NAME_BYTES])
{
	char text[NAME_BYTES];
	char *word, *slash;

	read_start("/proc/1/cmdline", text, sizeof(text));
	slash = strrchr(text, '/');
	word = slash ? slash + 1 : text;
	if (!strcmp(word, "busybox"))
		word += strlen(word) + 1;
	word[strcspn(word, " ")] = '\0';
	memmove(name, word, strlen(word) + 1);
}

static bool is_listed(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(inits); i++)
		if (!strcmp(name, inits[i]))
			return true;
	return false;
}

/* A mask of proc_pid_status(5); all ones where there is none. */
static uint64_t signal_mask(const char *status, const char *field)
{
	const char *at = strstr(status, field);

	return at ? strtoull(at + strlen(field), NULL, 16) : UINT64_MAX;
}

/* A program that has not prepared for any signal has not yet come to it: guest/init on the way to
 * hand over, an init that was just started. */
static bool hears_signals(void)
{
	char status[STATUS_BYTES];

	read_start("/proc/1/status", status, sizeof(status));
	return signal_mask(status, "\nSigBlk:") || signal_mask(status, "\nSigCgt:");
}

enum init {
	INIT_NONE,     /* a shell or our own init as process 1 does not listen */
	INIT_STARTS,   /* will be one of the others */
	INIT_SYSTEMD,  /* takes signals */
	INIT_POWEROFF, /* is asked by poweroff(8) of this guest */
};

static enum init find_init(void)
{
	char name[NAME_BYTES] = "";
	const char *slash;

	if (getpid() == 1)
		return INIT_NONE;
	if (access("/run/systemd/system", F_OK) == 0)
		return INIT_SYSTEMD;
	read_start("/proc/1/comm", name, sizeof(name));
	if (!strcmp(name, OUR_INIT "\n"))
		return INIT_NONE;
	memset(name, 0, sizeof(name));
	(void)!readlink("/proc/1/exe", name, sizeof(name) - 1);
	slash = strrchr(name, '/');
	if (slash && !strcmp(slash, "/systemd"))
		return INIT_STARTS;
	init_name(name);
	/* in the middle of execve(2) */
	if (!*name)
		return INIT_STARTS;
	if (!is_listed(name))
		return INIT_NONE;
	return hears_signals() ? INIT_POWEROFF : INIT_STARTS;
}

/* ---- poweroff(8), as a child
 * ---------------------------------------------------------------------
 */

static int run_poweroff(const void *arg, struct err *err)
{
	const bool *reboot_after = arg;
	static const char *const dirs[] = {"/sbin", "/usr/sbin", "/bin", "/usr/bin"};
	static char *const env[] = {NULL};
	char path[32];

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", dirs[i],
			 *reboot_after ? "reboot" : "poweroff");
		execve(path, (char *const[]){path, NULL}, env);
	}
	return err_sys(err, errno, "%s", path);
}

static bool no_room(void *ctx)
{
	(void)ctx;
	return false;
}

static void force(struct agent *agent)
{
	int res = shutdown_force(agent->reboot);

	log_error("the guest cannot be ended: %s", strerror(-res));
}

static void poweroff_ended(void *ctx, int wait_status, const struct err *err)
{
	/* by a signal: of an init that ends all others, this one as well */
	if (err->code || (WIFEXITED(wait_status) && WEXITSTATUS(wait_status)))
		force(ctx);
}

static bool ask_poweroff(struct agent *agent)
{
	static const struct process_ops ops = {.room = no_room, .ended = poweroff_ended};
	struct process_spec spec = {.run = run_poweroff, .arg = &agent->reboot};
	struct process *p;

	/* once: it may take its time */
	return agent->asked || process_start(agent, &spec, &ops, agent, &p, NULL) == 0;
}

/* True: somebody was asked, or will be. */
static bool ask_init(struct agent *agent, uint64_t *ret_next_ns)
{
	*ret_next_ns = ASK_AGAIN_NS;
	switch (find_init()) {
	case INIT_STARTS:
		*ret_next_ns = LOOK_AGAIN_NS;
		return agent->looked++ < LOOK_MAX;
	case INIT_SYSTEMD:
		return agent->asked++ < ASK_MAX &&
		       kill(1, agent->reboot ? SYSTEMD_REBOOT : SYSTEMD_POWEROFF) == 0;
	case INIT_POWEROFF:
		return ask_poweroff(agent) && agent->asked++ < ASK_MAX;
	default:
		return false;
	}
}

/* ---- the call -----------------------------------------------------------------------------------
 */

static void end_guest(struct loop_timer *t)
{
	struct agent *agent = container_of(t, struct agent, end_timer);
	uint64_t next_ns;

	if (agent->force || !ask_init(agent, &next_ns))
		force(agent);
	else
		loop_timer_arm(agent->loop, t, loop_now_ns() + next_ns);
}

static void answered(void *ctx)
{
	struct agent *agent = ctx;

	if (!agent->asked && !agent->looked)
		loop_timer_arm(agent->loop, &agent->end_timer, loop_now_ns());
}

void shutdown_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	const Lodge__Agent__V1__ShutdownRequest *r =
	    (const Lodge__Agent__V1__ShutdownRequest *)request;
	Lodge__Agent__V1__ShutdownResponse reply = LODGE__AGENT__V1__SHUTDOWN_RESPONSE__INIT;
	struct agent *agent = ctx;

	/* the first one says how, a later one may only be in more of a hurry */
	if (!agent->ending)
		agent->reboot = r->reboot;
	agent->force |= r->force;
	ttrpc_call_reply(call, &reply.base);
	if (agent->ending && !r->force)
		return;
	agent->ending = true;
	agent->end_timer.fn = end_guest;
	loop_timer_arm(agent->loop, &agent->end_timer, loop_now_ns() + ANSWER_NS);
	ttrpc_server_drain(agent->server, answered);
}
