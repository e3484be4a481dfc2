/*
 * Any bytes of an agent against the relay of the VM's process, with a call of each kind under way
 * whose client reads or does not: no crash, no leak, every call is completed, and what waits stays
 * within its bounds.
 *
 * The first bytes choose what the clients do; the rest is cut into pieces that the input chooses.
 */
#include "base/checked.h"
#include "control/agent/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WRITES_MAX 24
#define KINDS	   4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct rig {
	struct loop *loop;
	struct ttrpc_server *server;
	struct relay relay;
	struct ttrpc_client *agent;
	int agent_fd; /* the hostile end */
	int client_fd;
	uint32_t stream;
};

static bool is_mine(void *ctx, const char *name)
{
	(void)ctx;
	return !strcmp(name, "a");
}

static void agent_closed(void *ctx)
{
	struct rig *rig = ctx;

	ttrpc_client_close(rig->agent);
	rig->agent = NULL;
}

static struct ttrpc_client *agent_client(void *ctx, struct err *err)
{
	struct rig *rig = ctx;

	if (!rig->agent)
		err_set(err, ENOENT, "no agent");
	return rig->agent;
}

static void start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	relay_start(&((struct rig *)ctx)->relay, call, request);
}

static const struct ttrpc_method methods[] = {
    GUESTS_METHODS(start, relay_data, relay_data_end, relay_cancelled)};
static const struct ttrpc_service service = {GUESTS_SERVICE, methods, ARRAY_LEN(methods)};
static const struct ttrpc_service *const services[] = {&service, NULL};
static const struct relay_ops ops = {.is_mine = is_mine, .client = agent_client};

static void stop(struct loop_msg *m)
{
	(void)m;
}

static void turn(struct rig *rig)
{
	static struct loop_msg msg = {.fn = stop};

	for (int i = 0; i < 4; i++) {
		loop_post(rig->loop, &msg);
		loop_stop(rig->loop);
		(void)loop_run(rig->loop);
	}
}

static void drain(int fd)
{
	char sink[16384];

	while (read(fd, sink, sizeof(sink)) > 0)
		;
}

/* ---- the client ---------------------------------------------------------------------------------
 */

static void send_frame(struct rig *rig, uint32_t stream, unsigned type, unsigned flags,
		       const void *data, size_t len)
{
	struct ttrpc_header h = {.len_bytes = (uint32_t)len,
				 .stream = stream,
				 .type = (uint8_t)type,
				 .flags = (uint8_t)flags};
	struct ttrpc_wire_header wire = ttrpc_header_put(&h);

	(void)!write(rig->client_fd, &wire, sizeof(wire));
	(void)!write(rig->client_fd, data, len);
}

/* By hand: Request { service=1 method=2 payload=3 }. */
static void call(struct rig *rig, const char *method, unsigned flags, const void *payload,
		 size_t len)
{
	uint8_t out[256];
	size_t n = 0, l = strlen(GUESTS_SERVICE);

	out[n++] = 0x0a;
	out[n++] = (uint8_t)l;
	memcpy(out + n, GUESTS_SERVICE, l);
	n += l;
	l = strlen(method);
	out[n++] = 0x12;
	out[n++] = (uint8_t)l;
	memcpy(out + n, method, l);
	n += l;
	out[n++] = 0x1a;
	out[n++] = (uint8_t)len;
	memcpy(out + n, payload, len);
	n += len;
	rig->stream += 2;
	send_frame(rig, rig->stream, TTRPC_REQUEST, flags, out, n);
}

static void begin_calls(struct rig *rig)
{
	/* name "a"; request { start {argv "x" open_stdin} stdin_data "yy" } and its like */
	static const uint8_t facts[] = {0x0a, 1, 'a'};
	static const uint8_t exec[] = {0x0a, 1,	  'a',	0x12, 11,   0x0a, 5,   0x0a,
				       1,    'x', 0x38, 1,    0x12, 2,	  'y', 'y'};
	static const uint8_t file[] = {0x0a, 1,	  'a', 0x12, 10, 0x0a, 4,  0x0a,
				       2,    '/', 'x', 0x12, 2,	 'y',  'y'};
	static const uint8_t path[] = {0x0a, 1, 'a', 0x12, 4, 0x0a, 2, '/', 'x'};

	call(rig, "GetGuestFacts", 0, facts, sizeof(facts));
	call(rig, "ExecInGuest", TTRPC_REMOTE_OPEN, exec, sizeof(exec));
	call(rig, "WriteGuestFile", TTRPC_REMOTE_OPEN, file, sizeof(file));
	call(rig, "ReadGuestFile", 0, path, sizeof(path));
	call(rig, "ListGuestFiles", 0, path, sizeof(path));
}

/* ---- the rig ------------------------------------------------------------------------------------
 */

static void rig_open(struct rig *rig)
{
	const struct loop_opts opts = {.backend = LOOP_EPOLL};
	struct ttrpc_server_config config = {.services = services, .ctx = rig};
	struct err err = ERR_INIT;
	int to_client[2], to_agent[2];

	signal(SIGPIPE, SIG_IGN);
	*rig = (struct rig){.stream = UINT32_MAX};
	rig->relay = (struct relay){.ops = &ops, .ctx = rig};
	if (loop_new(&opts, &rig->loop, &err) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, to_client) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, to_agent))
		abort();
	config.loop = rig->loop;
	if (ttrpc_server_new(&config, &rig->server, &err) ||
	    ttrpc_server_adopt(rig->server, to_client[0]) ||
	    ttrpc_client_new(rig->loop, to_agent[0], agent_closed, rig, &rig->agent))
		abort();
	rig->client_fd = to_client[1];
	rig->agent_fd = to_agent[1];
	fcntl(rig->client_fd, F_SETFL, O_NONBLOCK);
	fcntl(rig->agent_fd, F_SETFL, O_NONBLOCK);
}

static void rig_close(struct rig *rig)
{
	ttrpc_server_close(rig->server);
	if (rig->relay.ncalls)
		abort();
	ttrpc_client_close(rig->agent);
	loop_free(rig->loop);
	ttrpc_server_free(rig->server);
	close(rig->client_fd);
	close(rig->agent_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig rig;
	unsigned writes = 0;
	bool reads;

	if (size < 2)
		return 0;
	rig_open(&rig);
	reads = data[0] & 1;
	begin_calls(&rig);
	turn(&rig);
	if (data[0] & 2) { /* a client that goes early */
		shutdown(rig.client_fd, SHUT_RDWR);
		turn(&rig);
	}
	data++;
	size--;
	while (size > 1 && writes++ < WRITES_MAX) {
		size_t n = MIN((size_t)data[0] + 1, size - 1);

		if (writes == WRITES_MAX)
			n = size - 1;
		if (write(rig.agent_fd, data + 1, n) < 0)
			break;
		data += n + 1;
		size -= n + 1;
		turn(&rig);
		if (reads)
			drain(rig.client_fd);
		drain(rig.agent_fd);
	}
	if (!reads) {
		drain(rig.client_fd);
		turn(&rig);
	}
	rig_close(&rig);
	return 0;
}
