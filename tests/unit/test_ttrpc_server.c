/*
 * control/ttrpc: frames and the server, as bytes on a socket. The peer writes by system calls; the
 * loop runs until what is expected has come.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "control/ttrpc/conn.h"
#include "tests/unit/ttrpc_rig.h"

#include <errno.h>
#include <fcntl.h>

#define WATCHDOG_S 240 /* an emulated host, and a busy one */
#define TICK_NS	   UINT64_C(2000000)

/* ---- the peer -----------------------------------------------------------------------------------
 */

struct peer {
	struct rig rig;
	struct ttrpc_reader reader;
	struct loop_timer tick;
};

static int setup(void **state, enum loop_backend backend)
{
	struct peer *p = test_calloc(1, sizeof(*p));

	rig_open(&p->rig, backend);
	assert_int_equal(fcntl(p->rig.peer, F_SETFL, O_NONBLOCK), 0);
	*state = p;
	alarm(WATCHDOG_S);
	return 0;
}

static int setup_auto(void **state)
{
	return setup(state, LOOP_AUTO);
}

static int setup_epoll(void **state)
{
	return setup(state, LOOP_EPOLL);
}

static int teardown(void **state)
{
	struct peer *p = *state;

	rig_close(&p->rig);
	ttrpc_reader_fini(&p->reader);
	test_free(p);
	alarm(0);
	return 0;
}

static void tick(struct loop_timer *t)
{
	loop_stop(container_of(t, struct peer, tick)->rig.loop);
}

/* Lets the server work for a moment. */
static void turn(struct peer *p)
{
	p->tick.fn = tick;
	loop_timer_arm(p->rig.loop, &p->tick, loop_now_ns() + TICK_NS);
	assert_int_equal(loop_run(p->rig.loop), 0);
}

static void send_all(struct peer *p, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len) {
		ssize_t n = write(p->rig.peer, at, len);

		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			turn(p);
			continue;
		}
		at += n;
		len -= (size_t)n;
	}
}

static void send_frame(struct peer *p, uint32_t stream, uint8_t type, uint8_t flags,
		       const void *data, size_t len)
{
	struct ttrpc_header h = {(uint32_t)len, stream, type, flags};
	struct ttrpc_wire_header wire = ttrpc_header_put(&h);

	send_all(p, &wire, sizeof(wire));
	send_all(p, data, len);
}

/* A Request for a method of the rig. */
static void send_request(struct peer *p, uint32_t stream, uint8_t flags, const char *method,
			 const char *key, int64_t timeout_ns)
{
	Ttrpc__Request request = TTRPC__REQUEST__INIT;
	Ttrpc__KeyValue kv = TTRPC__KEY_VALUE__INIT;
	char service[] = RIG_SERVICE, name[32], k[256];
	uint8_t payload[300], wire[512];

	snprintf(name, sizeof(name), "%s", method);
	snprintf(k, sizeof(k), "%s", key ? key : "");
	kv.key = k;
	request.service = service;
	request.method = name;
	request.timeout_nano = timeout_ns;
	if (key)
		request.payload = (ProtobufCBinaryData){
		    .len = protobuf_c_message_pack(&kv.base, payload), .data = payload};
	send_frame(p, stream, TTRPC_REQUEST, flags, wire,
		   protobuf_c_message_pack(&request.base, wire));
}

/* The next frame of the server. False: it has closed the connection. */
static bool receive(struct peer *p)
{
	for (;;) {
		uint8_t byte;
		size_t used;
		ssize_t n = read(p->rig.peer, &byte, 1);

		if (n < 0) {
			turn(p);
			continue;
		}
		if (n == 0)
			return false;
		if (ttrpc_reader_feed(&p->reader, &byte, 1, &used) == TTRPC_FRAME)
			return true;
	}
}

static Ttrpc__Response *receive_response(struct peer *p, uint32_t stream)
{
	Ttrpc__Response *response;

	assert_true(receive(p));
	assert_int_equal(p->reader.header.type, TTRPC_RESPONSE);
	assert_int_equal(p->reader.header.flags, 0);
	assert_int_equal(p->reader.header.stream, stream);
	response = ttrpc__response__unpack(NULL, p->reader.header.len_bytes, p->reader.data);
	assert_non_null(response);
	return response;
}

static void expect_status(struct peer *p, uint32_t stream, int code)
{
	Ttrpc__Response *r = receive_response(p, stream);

	assert_non_null(r->status);
	assert_int_equal(r->status->code, code);
	assert_true(r->status->message[0]);
	ttrpc__response__free_unpacked(r, NULL);
}

static void expect_reply(struct peer *p, uint32_t stream, const char *key, const char *value)
{
	Ttrpc__Response *r = receive_response(p, stream);
	Ttrpc__KeyValue *kv;

	assert_true(!r->status || !r->status->code);
	kv = ttrpc__key_value__unpack(NULL, r->payload.len, r->payload.data);
	assert_string_equal(kv->key, key);
	assert_string_equal(kv->value, value);
	ttrpc__key_value__free_unpacked(kv, NULL);
	ttrpc__response__free_unpacked(r, NULL);
}

static void expect_data(struct peer *p, uint32_t stream, uint8_t flags, size_t len)
{
	assert_true(receive(p));
	assert_int_equal(p->reader.header.type, TTRPC_DATA);
	assert_int_equal(p->reader.header.flags, flags);
	assert_int_equal(p->reader.header.stream, stream);
	assert_int_equal(p->reader.header.len_bytes, len);
}

/* The connection still works. */
static void expect_alive(struct peer *p, uint32_t stream)
{
	send_request(p, stream, 0, "Echo", "alive", 0);
	expect_reply(p, stream, "alive", "");
}

/* ---- what is right ------------------------------------------------------------------------------
 */

/* Put together by hand from PROTOCOL.md and the wire format of protobuf. */
static const uint8_t golden_request[] = {
    0,	  0, 0,	   0x17, 0,   0,   0,	1,   1,	  0,				    /* header */
    0x0a, 8, 't',  'e',	 's', 't', '.', 'R', 'i', 'g', 0x12, 4, 'E', 'c', 'h', 'o', /* names */
    0x1a, 5, 0x0a, 3,	 'a', 'b', 'c',
};
static const uint8_t golden_response[] = {
    0, 0, 0, 7, 0, 0, 0, 1, 2, 0, 0x12, 5, 0x0a, 3, 'a', 'b', 'c',
};

static void unary_bytes(void **state)
{
	struct peer *p = *state;
	uint8_t got[sizeof(golden_response)];
	size_t have = 0;

	send_all(p, golden_request, sizeof(golden_request));
	while (have < sizeof(got)) {
		ssize_t n = read(p->rig.peer, got + have, sizeof(got) - have);

		if (n > 0)
			have += (size_t)n;
		else
			turn(p);
	}
	assert_memory_equal(got, golden_response, sizeof(got));
}

static void bytes_may_come_one_by_one(void **state)
{
	struct peer *p = *state;

	for (size_t i = 0; i < sizeof(golden_request); i++) {
		send_all(p, golden_request + i, 1);
		turn(p);
	}
	expect_reply(p, 1, "abc", "");
}

static void calls_overtake_each_other(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, 0, "Hold", "", 0);
	send_request(p, 3, 0, "Echo", "quick", 0);
	expect_reply(p, 3, "quick", "");
	send_request(p, 5, 0, "Release", "", 0);
	expect_reply(p, 1, "", "released");
	expect_reply(p, 5, "", "");
}

static void server_stream(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, TTRPC_REMOTE_CLOSED, "Spell", "ab", 0);
	expect_data(p, 1, 0, 3);
	expect_data(p, 1, 0, 3);
	expect_data(p, 1, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, 0);
	expect_alive(p, 3);
}

static void client_stream(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, TTRPC_REMOTE_OPEN, "Join", NULL, 0);
	send_frame(p, 1, TTRPC_DATA, 0, "\x0a\x01x", 3);
	send_frame(p, 1, TTRPC_DATA, 0, "", 0); /* an empty message is one */
	send_frame(p, 1, TTRPC_DATA, 0, "\x0a\x01y", 3);
	send_frame(p, 1, TTRPC_DATA, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, "", 0);
	expect_reply(p, 1, "", "x||y|");
}

static void stream_both_ways(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, TTRPC_REMOTE_OPEN, "Chat", NULL, 0);
	send_frame(p, 1, TTRPC_DATA, 0, "\x0a\x01x", 3);
	expect_data(p, 1, 0, 3);
	send_frame(p, 1, TTRPC_DATA, TTRPC_REMOTE_CLOSED, "\x0a\x01y", 3);
	expect_data(p, 1, 0, 3);
	expect_data(p, 1, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, 0);
}

static void deadline_is_kept(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, 0, "Hold", "", 5000000);
	expect_status(p, 1, TTRPC_DEADLINE_EXCEEDED);
	assert_int_equal(p->rig.cancelled, 1);
	rig_release_all(&p->rig); /* goes nowhere */
	expect_alive(p, 3);
}

static void negative_timeout_is_none(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, 0, "Hold", "", -1);
	expect_alive(p, 3);
	assert_int_equal(p->rig.cancelled, 0);
}

static void failure_of_the_handler(void **state)
{
	struct peer *p = *state;
	Ttrpc__Response *r;

	send_request(p, 1, 0, "Fail", "", 0);
	r = receive_response(p, 1);
	assert_int_equal(r->status->code, TTRPC_UNKNOWN);
	assert_string_equal(r->status->message, "no ? luck");
	ttrpc__response__free_unpacked(r, NULL);
}

/* ---- what is wrong ------------------------------------------------------------------------------
 */

static void even_stream_id(void **state)
{
	struct peer *p = *state;

	send_request(p, 2, 0, "Echo", "", 0);
	expect_status(p, 2, TTRPC_INVALID_ARGUMENT);
	expect_alive(p, 3);
}

static void stream_id_that_does_not_ascend(void **state)
{
	struct peer *p = *state;

	expect_alive(p, 5);
	send_request(p, 5, 0, "Echo", "", 0);
	expect_status(p, 5, TTRPC_INVALID_ARGUMENT);
	send_request(p, 3, 0, "Echo", "", 0);
	expect_status(p, 3, TTRPC_INVALID_ARGUMENT);
	expect_alive(p, 7);
}

static void request_that_does_not_parse(void **state)
{
	struct peer *p = *state;

	send_frame(p, 1, TTRPC_REQUEST, 0, "\x0a\x7f", 2);
	expect_status(p, 1, TTRPC_INVALID_ARGUMENT);
	expect_alive(p, 3);
}

static void payload_that_does_not_parse(void **state)
{
	struct peer *p = *state;
	uint8_t bad[sizeof(golden_request)];

	memcpy(bad, golden_request, sizeof(bad));
	bad[sizeof(bad) - 4] = 9; /* longer than what follows */
	send_all(p, bad, sizeof(bad));
	expect_status(p, 1, TTRPC_INVALID_ARGUMENT);
	expect_alive(p, 3);
}

static void data_on_an_inactive_stream(void **state)
{
	struct peer *p = *state;

	send_frame(p, 9, TTRPC_DATA, 0, "", 0);
	expect_status(p, 9, TTRPC_INVALID_ARGUMENT);
	expect_alive(p, 11);
	send_frame(p, 11, TTRPC_DATA, 0, "", 0);
	expect_status(p, 11, TTRPC_INVALID_ARGUMENT);
}

static void data_on_a_unary_call(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, 0, "Hold", "", 0);
	send_frame(p, 1, TTRPC_DATA, 0, "", 0);
	expect_status(p, 1, TTRPC_INVALID_ARGUMENT);
	rig_release_all(&p->rig);
	expect_alive(p, 3);
}

static void data_after_the_end(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, TTRPC_REMOTE_OPEN, "Join", NULL, 0);
	send_frame(p, 1, TTRPC_DATA, 0, "\xff", 1);
	expect_status(p, 1, TTRPC_INVALID_ARGUMENT);
	assert_int_equal(p->rig.cancelled, 1);
	expect_alive(p, 3);
}

static void unknown_service_and_method(void **state)
{
	static const char other[] = "\x0a\x05other\x12\x04"
				    "Echo";
	struct peer *p = *state;

	send_frame(p, 1, TTRPC_REQUEST, 0, other, sizeof(other) - 1);
	expect_status(p, 1, TTRPC_UNIMPLEMENTED);
	send_request(p, 3, 0, "Ekko", "", 0);
	expect_status(p, 3, TTRPC_UNIMPLEMENTED);
	send_frame(p, 5, TTRPC_REQUEST, 0, "", 0);
	expect_status(p, 5, TTRPC_UNIMPLEMENTED);
}

static void unknown_type_is_ignored(void **state)
{
	struct peer *p = *state;

	send_frame(p, 1, 77, 0, "abc", 3);
	send_frame(p, 1, TTRPC_RESPONSE, 0, "", 0);
	expect_alive(p, 1);
}

static void more_than_4_mib(void **state)
{
	struct peer *p = *state;
	size_t len = TTRPC_DATA_MAX + 1;
	uint8_t *data = calloc(1, len);

	send_frame(p, 1, TTRPC_REQUEST, 0, data, len);
	expect_status(p, 1, TTRPC_RESOURCE_EXHAUSTED);
	expect_alive(p, 3);
	/* as much as may come is read, and found to be no request */
	send_frame(p, 5, TTRPC_REQUEST, 0, data, len - 1);
	expect_status(p, 5, TTRPC_INVALID_ARGUMENT);
	expect_alive(p, 7);
	free(data);
}

static void answer_of_more_than_4_mib(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, 0, "Huge", "", 0);
	expect_status(p, 1, TTRPC_RESOURCE_EXHAUSTED);
	expect_alive(p, 3);
}

static void too_many_calls(void **state)
{
	struct peer *p = *state;
	uint32_t stream = 1;

	for (unsigned i = 0; i < TTRPC_CALLS_MAX; i++, stream += 2)
		send_request(p, stream, TTRPC_REMOTE_OPEN, "Chat", NULL, 0);
	send_request(p, stream, 0, "Echo", "", 0);
	expect_status(p, stream, TTRPC_RESOURCE_EXHAUSTED);
	send_frame(p, 1, TTRPC_DATA, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, "", 0);
	expect_data(p, 1, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, 0);
	expect_alive(p, stream + 2);
}

static void slow_reader_blocks_nobody(void **state)
{
	struct peer *p = *state;
	int pair[2];
	char text[201];

	memset(text, 'x', sizeof(text));
	text[200] = '\0';
	send_request(p, 1, TTRPC_REMOTE_CLOSED, "Flood", text, 0);
	while (!p->rig.sent)
		turn(p);
	/* bounded, and another connection does not notice */
	assert_in_range(p->rig.sent, 100, TTRPC_QUEUE_HIGH / 200 + 2);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(ttrpc_server_adopt(p->rig.server, pair[0]), 0);

	struct peer other = {.rig = p->rig};

	other.rig.peer = pair[1];
	expect_alive(&other, 1);
	ttrpc_reader_fini(&other.reader);
	close(pair[1]);
	/* who reads in the end gets all */
	for (unsigned i = 0; i < p->rig.sent; i++)
		expect_data(p, 1, 0, 203);
	expect_data(p, 1, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, 0);
}

/* Streams that wait for the client go on when it reads, in turns. */
static void waiting_streams_take_turns(void **state)
{
	struct peer *p = *state;
	unsigned ended = 0, got[2] = {0};

	send_request(p, 1, TTRPC_REMOTE_CLOSED, "Pour", "0", 0);
	send_request(p, 3, TTRPC_REMOTE_CLOSED, "Pour", "1", 0);
	for (unsigned i = 0; i < 20; i++)
		turn(p);
	/* bounded while nobody reads: by the queue, and by what the kernel takes */
	assert_in_range(p->rig.poured[0] + p->rig.poured[1], 1, RIG_POUR);
	while (ended < 2) {
		unsigned which;

		assert_true(receive(p));
		assert_int_equal(p->reader.header.type, TTRPC_DATA);
		which = p->reader.header.stream == 3;
		if (p->reader.header.flags & TTRPC_REMOTE_CLOSED)
			ended++;
		else
			got[which]++;
		if (!ended)
			assert_in_range(got[0] + 4 * RIG_POUR_PIECE - got[1], 0,
					8 * RIG_POUR_PIECE);
	}
	assert_int_equal(got[0], RIG_POUR);
	assert_int_equal(got[1], RIG_POUR);
}

static void connection_that_goes_while_streams_wait(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, TTRPC_REMOTE_CLOSED, "Pour", "0", 0);
	send_request(p, 3, TTRPC_REMOTE_CLOSED, "Pour", "1", 0);
	for (unsigned i = 0; i < 20; i++)
		turn(p);
	close(p->rig.peer);
	p->rig.peer = -1;
	while (p->rig.cancelled < 2)
		turn(p);
}

/* Whoever never reads must not make the server hold its answers without end. */
static void silent_reader_is_not_read_from(void **state)
{
	struct peer *p = *state;
	uint32_t stream = 1;
	unsigned stuck = 0;

	while (stuck < 20) {
		Ttrpc__Request request = TTRPC__REQUEST__INIT;
		char service[] = RIG_SERVICE, method[] = "Echo";
		static uint8_t wire[TTRPC_DATA_MAX / 8];
		static uint8_t payload[TTRPC_DATA_MAX / 16];
		struct ttrpc_header h = {.stream = stream, .type = TTRPC_REQUEST};
		struct ttrpc_wire_header head;
		size_t sent = 0;

		memset(payload, 'x', sizeof(payload));
		memcpy(payload, "\x0a\xfc\xff\x0f", 4); /* key, of all the rest */
		request.service = service;
		request.method = method;
		request.payload = (ProtobufCBinaryData){.len = sizeof(payload), .data = payload};
		h.len_bytes = (uint32_t)protobuf_c_message_pack(&request.base, wire + 10);
		head = ttrpc_header_put(&h);
		memcpy(wire, &head, sizeof(head));
		stream += 2;
		while (sent < h.len_bytes + 10 && stuck < 20) {
			ssize_t n = write(p->rig.peer, wire + sent, h.len_bytes + 10 - sent);

			stuck = n < 0 ? stuck + 1 : 0;
			sent += n > 0 ? (size_t)n : 0;
			if (n < 0)
				turn(p);
		}
		assert_in_range(stream, 0, 1000); /* 128 MiB: it would never end */
	}
}

static void disconnect_cancels(void **state)
{
	struct peer *p = *state;

	send_request(p, 1, 0, "Hold", "", 0);
	send_request(p, 3, TTRPC_REMOTE_OPEN, "Join", NULL, 0);
	send_all(p, golden_request, 13); /* and in the middle of a frame */
	turn(p);
	close(p->rig.peer);
	p->rig.peer = -1;
	while (p->rig.cancelled < 2)
		turn(p);
	rig_release_all(&p->rig);
}

#define CASE(fn)                                              \
	{#fn "/auto", fn, setup_auto, teardown, NULL},        \
	{                                                     \
#fn "/epoll", fn, setup_epoll, teardown, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(unary_bytes),
	    CASE(bytes_may_come_one_by_one),
	    CASE(calls_overtake_each_other),
	    CASE(server_stream),
	    CASE(client_stream),
	    CASE(stream_both_ways),
	    CASE(deadline_is_kept),
	    CASE(negative_timeout_is_none),
	    CASE(failure_of_the_handler),
	    CASE(even_stream_id),
	    CASE(stream_id_that_does_not_ascend),
	    CASE(request_that_does_not_parse),
	    CASE(payload_that_does_not_parse),
	    CASE(data_on_an_inactive_stream),
	    CASE(data_on_a_unary_call),
	    CASE(data_after_the_end),
	    CASE(unknown_service_and_method),
	    CASE(unknown_type_is_ignored),
	    CASE(more_than_4_mib),
	    CASE(answer_of_more_than_4_mib),
	    CASE(too_many_calls),
	    CASE(slow_reader_blocks_nobody),
	    CASE(waiting_streams_take_turns),
	    CASE(connection_that_goes_while_streams_wait),
	    CASE(silent_reader_is_not_read_from),
	    CASE(disconnect_cancels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
