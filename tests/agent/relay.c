/*
 * A VM's process without a VM: lodge.v1.Guests for an agent that listens on a Unix socket, and of
 * lodge.v1.Vms what `lodge serve` asks to find it.
 *
 * usage: relay SOCKET AGENT-SOCKET NAME     (until SIGTERM)
 */
#include "control/agent/relay.h"
#include "base/checked.h"
#include "base/log.h"
#include "control/unix_socket.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct test {
	struct loop *loop;
	struct relay relay;
	const char *agent_path, *name;
	struct ttrpc_client *agent;
	struct loop_op signal_op;
	struct signalfd_siginfo signal;
};

/* ---- the agent ----------------------------------------------------------------------------------
 */

static bool is_mine(void *ctx, const char *name)
{
	return !strcmp(((struct test *)ctx)->name, name);
}

static void agent_closed(void *ctx)
{
	struct test *t = ctx;

	ttrpc_client_close(t->agent);
	t->agent = NULL;
}

static struct ttrpc_client *agent_client(void *ctx, struct err *err)
{
	struct test *t = ctx;
	int fd = -1;

	if (t->agent)
		return t->agent;
	if (unix_connect(t->agent_path, &fd, err) ||
	    ttrpc_client_new(t->loop, fd, agent_closed, t, &t->agent)) {
		*err = (struct err)ERR_INIT;
		err_set(err, ENOENT, "the VM has no agent");
		return NULL;
	}
	return t->agent;
}

static const struct relay_ops ops = {.is_mine = is_mine, .client = agent_client};

static void start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	relay_start(&((struct test *)ctx)->relay, call, request);
}

static const struct ttrpc_method guests_methods[] = {
    GUESTS_METHODS(start, relay_data, relay_data_end, relay_cancelled)};

/* ---- what a server asks -------------------------------------------------------------------------
 */

static void list_vms(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	const struct test *t = ctx;
	VmTools__Concierge__VmInfo info = VM_TOOLS__CONCIERGE__VM_INFO__INIT, *list[] = {&info};
	Lodge__V1__ListVmsResponse r = LODGE__V1__LIST_VMS_RESPONSE__INIT;
	char name[64];

	(void)request;
	snprintf(name, sizeof(name), "%s", t->name);
	info.name = name;
	info.pid = getpid();
	info.state = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_RUNNING;
	r.vms = list;
	r.n_vms = 1;
	ttrpc_call_reply(call, &r.base);
}

static void watch(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)ctx;
	(void)call;
	(void)request;
}

static void unwatch(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	ttrpc_call_fail(call, TTRPC_CANCELLED, "nobody waits");
}

static const struct ttrpc_method vms_methods[] = {
    {"ListVms", &lodge__v1__list_vms_request__descriptor, &lodge__v1__list_vms_response__descriptor,
     0, list_vms, NULL, NULL, NULL},
    {"WatchEvents", &lodge__v1__watch_events_request__descriptor, &lodge__v1__vm_event__descriptor,
     TTRPC_SERVER_STREAM, watch, NULL, NULL, unwatch},
};

static const struct ttrpc_service vms = {"lodge.v1.Vms", vms_methods, ARRAY_LEN(vms_methods)};
static const struct ttrpc_service guests = {GUESTS_SERVICE, guests_methods,
					    ARRAY_LEN(guests_methods)};
static const struct ttrpc_service *const services[] = {&vms, &guests, NULL};

/* ---- life ---------------------------------------------------------------------------------------
 */

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 128)) {
		perror(path);
		exit(1);
	}
	return fd;
}

static void signalled(struct loop_op *op, int res)
{
	(void)res;
	loop_stop(container_of(op, struct test, signal_op)->loop);
}

static void wait_signal(struct test *t, int *ret_fd)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	*ret_fd = signalfd(-1, &set, SFD_CLOEXEC);
	t->signal_op.done = signalled;
	loop_read(t->loop, &t->signal_op, *ret_fd, &t->signal, sizeof(t->signal));
}

int main(int argc, char **argv)
{
	const struct loop_opts opts = {.backend = LOOP_AUTO};
	struct ttrpc_server_config config = {.services = services};
	struct test t = {.relay = {.ops = &ops}};
	struct ttrpc_server *server;
	struct err err = ERR_INIT;
	int fd, signal_fd;

	if (argc != 4)
		return 2;
	log_init(STDERR_FILENO, LOG_LEVEL_INFO);
	t.relay.ctx = &t;
	t.agent_path = argv[2];
	t.name = argv[3];
	fd = listen_at(argv[1]);
	config.ctx = &t;
	if (loop_new(&opts, &t.loop, &err))
		return 1;
	wait_signal(&t, &signal_fd);
	config.loop = t.loop;
	if (ttrpc_server_new(&config, &server, &err))
		return 1;
	ttrpc_server_listen(server, fd);
	loop_run(t.loop);
	ttrpc_server_close(server);
	ttrpc_client_close(t.agent);
	loop_free(t.loop);
	ttrpc_server_free(server);
	close(fd);
	close(signal_fd);
	return 0;
}
