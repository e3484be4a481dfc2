/*
 * control/vm_console and its ring: much output, readers that are fast, slow and gone. A server with
 * the two methods on one end of a socket pair; the peer reads frames at the other, when it likes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/vm/console.h"
#include "control/vm/console_ring.h"
#include "proto/ttrpc.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCHDOG_S 60
#define TICK_NS	   UINT64_C(1000000)

struct peer {
	int fd;
	struct ttrpc_reader reader;
	uint8_t *data;
	size_t len;
	uint64_t dropped;
	unsigned messages;
	bool ended;
};

struct rig {
	struct loop *loop;
	struct ttrpc_server *server;
	struct vm_console *console;
	struct loop_timer tick;
	uint8_t *said; /* all that the guest has */
	size_t said_len;
};

static void read_console(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	vm_console_read(((struct rig *)ctx)->console, call,
			(const Lodge__V1__ReadConsoleRequest *)msg);
}

static void cancelled(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	vm_console_close(call);
	ttrpc_call_fail(call, TTRPC_CANCELLED, "nobody waits");
}

static const struct ttrpc_method methods[] = {
    {"ReadConsole", &lodge__v1__read_console_request__descriptor,
     &lodge__v1__console_output__descriptor, TTRPC_SERVER_STREAM, read_console, NULL, NULL,
     cancelled},
};
static const struct ttrpc_service service = {"t", methods, 1};
static const struct ttrpc_service *const services[] = {&service, NULL};

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct ttrpc_server_config config = {.services = services, .ctx = r};
	struct err err = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(loop_new(NULL, &r->loop, &err), 0);
	config.loop = r->loop;
	assert_int_equal(ttrpc_server_new(&config, &r->server, &err), 0);
	assert_int_equal(vm_console_new(r->loop, &r->console), 0);
	*state = r;
	alarm(WATCHDOG_S);
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	ttrpc_server_close(r->server);
	loop_free(r->loop);
	ttrpc_server_free(r->server);
	vm_console_free(r->console);
	free(r->said);
	free(r);
	alarm(0);
	return 0;
}

static void tick(struct loop_timer *t)
{
	loop_stop(container_of(t, struct rig, tick)->loop);
}

static void turn(struct rig *r)
{
	r->tick.fn = tick;
	loop_timer_arm(r->loop, &r->tick, loop_now_ns() + TICK_NS);
	assert_int_equal(loop_run(r->loop), 0);
}

/* The guest says `len` bytes that no other place of its output has. */
static void say(struct rig *r, size_t len)
{
	const struct uart_sink *sink = vm_console_sink(r->console);

	r->said = realloc(r->said, r->said_len + len);
	for (size_t i = 0; i < len; i++) {
		size_t at = r->said_len + i;

		r->said[at] = (uint8_t)(at >> (8 * (at % 4)));
	}
	for (size_t i = 0; i < len;) {
		size_t n = MIN(len - i, (size_t)5000);

		assert_int_equal(sink->write(sink->ctx, r->said + r->said_len + i, n), (long)n);
		i += n;
	}
	r->said_len += len;
}

static struct peer *connect_peer(struct rig *r)
{
	struct peer *p = calloc(1, sizeof(*p));
	int pair[2], small = 4096;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_int_equal(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(ttrpc_server_adopt(r->server, pair[0]), 0);
	p->fd = pair[1];
	return p;
}

static void free_peer(struct peer *p)
{
	ttrpc_reader_fini(&p->reader);
	close(p->fd);
	free(p->data);
	free(p);
}

static void ask(struct peer *p, const Lodge__V1__ReadConsoleRequest *request)
{
	Ttrpc__Request rpc = TTRPC__REQUEST__INIT;
	char name[] = "t", method[] = "ReadConsole";
	uint8_t payload[64], wire[256];
	struct ttrpc_header h = {.stream = 1, .type = TTRPC_REQUEST};
	struct ttrpc_wire_header head;

	rpc.service = name;
	rpc.method = method;
	rpc.payload = (ProtobufCBinaryData){
	    .len = lodge__v1__read_console_request__pack(request, payload), .data = payload};
	h.len_bytes = (uint32_t)protobuf_c_message_pack(&rpc.base, wire);
	head = ttrpc_header_put(&h);
	assert_int_equal(write(p->fd, &head, sizeof(head)), sizeof(head));
	assert_int_equal(write(p->fd, wire, h.len_bytes), h.len_bytes);
}

static struct peer *watch(struct rig *r, const Lodge__V1__ReadConsoleRequest *request)
{
	struct peer *p = connect_peer(r);

	ask(p, request);
	for (int i = 0; i < 3; i++)
		turn(r);
	return p;
}

static void take(struct peer *p)
{
	Lodge__V1__ConsoleOutput *out;

	assert_int_equal(p->reader.header.type, TTRPC_DATA);
	if (p->reader.header.flags & TTRPC_REMOTE_CLOSED) {
		p->ended = true;
		return;
	}
	out = lodge__v1__console_output__unpack(NULL, p->reader.header.len_bytes, p->reader.data);
	assert_non_null(out);
	assert_in_range(out->data.len, 0, VM_CONSOLE_PIECE_BYTES);
	/* where it is lost is known: before what follows */
	p->dropped += out->dropped_bytes;
	p->data = realloc(p->data, p->len + out->data.len + 1);
	if (out->data.len)
		memcpy(p->data + p->len, out->data.data, out->data.len);
	p->len += out->data.len;
	p->messages++;
	lodge__v1__console_output__free_unpacked(out, NULL);
}

/* Reads what is there, at most `max` bytes of the socket. */
static void receive(struct peer *p, size_t max)
{
	static uint8_t buf[65536];
	ssize_t n = read(p->fd, buf, MIN(max, sizeof(buf)));

	for (size_t at = 0; n > 0 && at < (size_t)n;) {
		size_t used;

		if (ttrpc_reader_feed(&p->reader, buf + at, (size_t)n - at, &used) == TTRPC_FRAME)
			take(p);
		at += used;
	}
}

static void receive_all(struct rig *r, struct peer *p, size_t len)
{
	while (!p->ended && p->len + p->dropped < len) {
		receive(p, SIZE_MAX);
		turn(r);
	}
}

/* What it has got is the end of what was said. */
static void expect_tail(const struct rig *r, const struct peer *p)
{
	assert_in_range(p->len, 0, r->said_len);
	assert_memory_equal(p->data, r->said + r->said_len - p->len, p->len);
}

static const Lodge__V1__ReadConsoleRequest all = LODGE__V1__READ_CONSOLE_REQUEST__INIT;

/* ---- the ring ---- */

static void ring_keeps_the_last(void **state)
{
	struct console_ring ring;
	uint8_t *text = calloc(1, 3 * CONSOLE_RING_BYTES);
	const uint8_t *data;
	size_t pos = 0, n;

	(void)state;
	assert_int_equal(console_ring_init(&ring), 0);
	for (size_t i = 0; i < 3 * CONSOLE_RING_BYTES; i++)
		text[i] = (uint8_t)(i * 2654435761u >> 13);
	assert_int_equal(console_ring_start(&ring), 0);
	for (n = 1; pos + n < 3 * CONSOLE_RING_BYTES; pos += n, n = n * 3 % 70001 + 1) {
		uint64_t at;

		console_ring_put(&ring, text + pos, n);
		at = console_ring_start(&ring);
		assert_int_equal(at,
				 pos + n > CONSOLE_RING_BYTES ? pos + n - CONSOLE_RING_BYTES : 0);
		while (at < ring.end) {
			size_t part = console_ring_get(&ring, at, &data);

			assert_in_range(part, 1, ring.end - at);
			assert_memory_equal(data, text + at, part);
			at += part;
		}
	}
	assert_int_equal(console_ring_get(&ring, ring.end, &data), 0);
	console_ring_fini(&ring);
	free(text);
}

/* ---- readers ---- */

static void fast_reader_misses_nothing(void **state)
{
	struct rig *r = *state;
	struct peer *p = watch(r, &all);

	for (int i = 0; i < 100; i++) {
		say(r, 64 * 1024);
		receive_all(r, p, r->said_len);
	}
	assert_int_equal(p->dropped, 0);
	assert_int_equal(p->len, r->said_len);
	expect_tail(r, p);
	free_peer(p);
}

static void slow_reader_is_told_what_it_missed(void **state)
{
	struct rig *r = *state;
	struct peer *slow = watch(r, &all), *fast = watch(r, &all);

	for (int i = 0; i < 100; i++) {
		say(r, 64 * 1024);
		receive_all(r, fast, r->said_len);
		receive(slow, 1000);
	}
	assert_int_equal(fast->dropped, 0);
	assert_int_equal(fast->len, r->said_len);
	vm_console_end(r->console);
	while (!slow->ended) {
		receive(slow, SIZE_MAX);
		turn(r);
	}
	assert_in_range(slow->dropped, 4 << 20, r->said_len);
	assert_int_equal(slow->dropped + slow->len, r->said_len);
	/* behind the gap there is the whole ring */
	slow->data += slow->len - CONSOLE_RING_BYTES;
	assert_memory_equal(slow->data, r->said + r->said_len - CONSOLE_RING_BYTES,
			    CONSOLE_RING_BYTES);
	slow->data -= slow->len - CONSOLE_RING_BYTES;
	free_peer(slow);
	free_peer(fast);
}

static void replay_is_what_is_kept(void **state)
{
	struct rig *r = *state;
	Lodge__V1__ReadConsoleRequest request = all;
	struct peer *p;

	say(r, 3 * CONSOLE_RING_BYTES + 12345);
	request.no_follow = true;
	p = watch(r, &request);
	receive_all(r, p, SIZE_MAX);
	assert_int_equal(p->len, CONSOLE_RING_BYTES);
	assert_int_equal(p->dropped, 0);
	expect_tail(r, p);
	free_peer(p);

	request.replay_bytes_max = 100000;
	p = watch(r, &request);
	receive_all(r, p, SIZE_MAX);
	assert_int_equal(p->len, 100000);
	expect_tail(r, p);
	free_peer(p);
}

/* The replay ends where the ring was when it was asked for, whatever comes meanwhile. */
static void replay_of_a_slow_reader_ends(void **state)
{
	struct rig *r = *state;
	Lodge__V1__ReadConsoleRequest request = all;
	struct peer *p;

	say(r, CONSOLE_RING_BYTES);
	request.no_follow = true;
	p = watch(r, &request);
	say(r, 4 * CONSOLE_RING_BYTES);
	receive_all(r, p, SIZE_MAX);
	assert_true(p->ended);
	assert_int_equal(p->len + p->dropped, CONSOLE_RING_BYTES);
	assert_memory_equal(p->data, r->said, p->len);
	free_peer(p);
}

static void output_of_one_round_is_one_message(void **state)
{
	struct rig *r = *state;
	struct peer *p = watch(r, &all);

	say(r, 20000); /* four pieces from the port */
	receive_all(r, p, r->said_len);
	assert_int_equal(p->messages, 1);
	free_peer(p);
}

static void streams_end_after_the_last_byte(void **state)
{
	struct rig *r = *state;
	struct peer *p = watch(r, &all), *late;

	say(r, 500000);
	vm_console_end(r->console);
	receive_all(r, p, SIZE_MAX);
	assert_int_equal(p->len, r->said_len);
	late = watch(r, &all);
	receive_all(r, late, SIZE_MAX);
	assert_true(late->ended);
	assert_int_equal(late->len, r->said_len);
	expect_tail(r, late);
	free_peer(p);
	free_peer(late);
}

static void reader_that_goes_is_forgotten(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < 20; i++) {
		struct peer *p = watch(r, &all);

		say(r, 300000);
		turn(r);
		free_peer(p);
		turn(r);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ring_keeps_the_last),    CASE(fast_reader_misses_nothing),
	    CASE(slow_reader_is_told_what_it_missed), CASE(replay_is_what_is_kept),
	    CASE(replay_of_a_slow_reader_ends),	      CASE(output_of_one_round_is_one_message),
	    CASE(streams_end_after_the_last_byte),    CASE(reader_that_goes_is_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
