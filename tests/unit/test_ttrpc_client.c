/* control/ttrpc: the client against the server, both on one loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "control/ttrpc/client.h"
#include "tests/unit/ttrpc_rig.h"

#include <errno.h>

#define WATCHDOG_S 60

struct both {
	struct rig rig;
	struct ttrpc_client *client;
	unsigned left; /* `done` that are awaited */
	int code;
	char text[64]; /* what came, put together */
	bool closed, close_in_done;
};

static void gone(void *ctx)
{
	struct both *b = ctx;

	b->closed = true;
	loop_stop(b->rig.loop);
}

static int setup(void **state)
{
	struct both *b = test_calloc(1, sizeof(*b));

	rig_open(&b->rig, LOOP_AUTO);
	assert_int_equal(ttrpc_client_new(b->rig.loop, b->rig.peer, gone, b, &b->client), 0);
	b->rig.peer = -1;
	*state = b;
	alarm(WATCHDOG_S);
	return 0;
}

static int teardown(void **state)
{
	struct both *b = *state;

	ttrpc_client_close(b->client);
	rig_close(&b->rig);
	test_free(b);
	alarm(0);
	return 0;
}

static void add_text(struct both *b, const ProtobufCMessage *msg)
{
	const Ttrpc__KeyValue *kv = (const Ttrpc__KeyValue *)msg;
	size_t len = strlen(b->text);

	snprintf(b->text + len, sizeof(b->text) - len, "%s%s;", kv->key, kv->value);
}

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
	add_text(ctx, msg);
}

static void on_done(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct both *b = ctx;

	b->code = code;
	assert_true(code == TTRPC_OK || text[0]);
	if (reply)
		add_text(b, reply);
	if (b->close_in_done) {
		ttrpc_client_close(b->client);
		b->client = NULL;
	}
	if (--b->left == 0)
		loop_stop(b->rig.loop);
}

static struct ttrpc_client_call *start(struct both *b, const char *method, const char *key,
				       bool stream_out, uint64_t timeout_ns)
{
	Ttrpc__KeyValue kv = TTRPC__KEY_VALUE__INIT;
	char text[16];
	struct ttrpc_client_call *call;
	struct ttrpc_rpc rpc = {
	    .service = RIG_SERVICE,
	    .method = method,
	    .request = key ? &kv.base : NULL,
	    .output = &ttrpc__key_value__descriptor,
	    .server_stream = stream_out,
	    .timeout_ns = timeout_ns,
	    .message = on_message,
	    .done = on_done,
	    .ctx = b,
	};

	snprintf(text, sizeof(text), "%s", key ? key : "");
	kv.key = text;
	assert_int_equal(ttrpc_client_start(b->client, &rpc, &call), 0);
	b->left++;
	return call;
}

static void send_text(struct ttrpc_client_call *call, const char *key)
{
	Ttrpc__KeyValue kv = TTRPC__KEY_VALUE__INIT;
	char text[16];

	snprintf(text, sizeof(text), "%s", key);
	kv.key = text;
	assert_int_equal(ttrpc_client_send(call, &kv.base), 0);
}

static void run(struct both *b)
{
	assert_int_equal(loop_run(b->rig.loop), 0);
}

static void unary(void **state)
{
	struct both *b = *state;

	start(b, "Echo", "a", false, 0);
	run(b);
	assert_int_equal(b->code, TTRPC_OK);
	assert_string_equal(b->text, "a;");
}

static void calls_at_the_same_time(void **state)
{
	struct both *b = *state;

	start(b, "Hold", "h", false, 0);
	start(b, "Echo", "a", false, 0);
	start(b, "Release", "r", false, 0);
	run(b);
	assert_string_equal(b->text, "a;released;r;");
}

static void server_stream(void **state)
{
	struct both *b = *state;

	start(b, "Spell", "abc", true, 0);
	run(b);
	assert_int_equal(b->code, TTRPC_OK);
	assert_string_equal(b->text, "a;b;c;");
}

static void client_stream(void **state)
{
	struct both *b = *state;
	struct ttrpc_client_call *call = start(b, "Join", NULL, false, 0);

	send_text(call, "x");
	send_text(call, "y");
	assert_int_equal(ttrpc_client_send_end(call), 0);
	run(b);
	assert_string_equal(b->text, "x|y|;");
}

static void stream_both_ways(void **state)
{
	struct both *b = *state;
	struct ttrpc_client_call *call = start(b, "Chat", NULL, true, 0);

	send_text(call, "x");
	send_text(call, "y");
	assert_int_equal(ttrpc_client_send_end(call), 0);
	run(b);
	assert_string_equal(b->text, "x;y;");
}

static void status_of_the_server(void **state)
{
	struct both *b = *state;

	start(b, "Nothing", "", false, 0);
	run(b);
	assert_int_equal(b->code, TTRPC_UNIMPLEMENTED);
}

static void deadline(void **state)
{
	struct both *b = *state;

	start(b, "Hold", "", false, 5000000);
	run(b);
	assert_int_equal(b->code, TTRPC_DEADLINE_EXCEEDED);
}

static void cancelled_call_is_silent(void **state)
{
	struct both *b = *state;

	ttrpc_client_cancel(start(b, "Echo", "no", false, 0));
	b->left--;
	start(b, "Echo", "yes", false, 0);
	run(b);
	assert_string_equal(b->text, "yes;");
}

static void cancelled_call_is_given_up_at_the_server(void **state)
{
	struct both *b = *state;
	struct ttrpc_client_call *hold = start(b, "Hold", "", false, 0);
	struct ttrpc_client_call *chat = start(b, "Chat", NULL, true, 0);

	start(b, "Echo", "a", false, 0);
	b->left -= 2;
	run(b);
	ttrpc_client_cancel(hold);
	ttrpc_client_cancel(chat);
	start(b, "Echo", "b", false, 0);
	run(b);
	assert_string_equal(b->text, "a;b;");
	assert_int_equal(b->rig.cancelled, 2);
}

static void close_from_a_callback(void **state)
{
	struct both *b = *state;

	b->close_in_done = true;
	start(b, "Echo", "a", false, 0);
	start(b, "Hold", "a", false, 0); /* forgotten */
	b->left--;
	run(b);
	assert_string_equal(b->text, "a;");
}

static void request_of_more_than_4_mib(void **state)
{
	struct both *b = *state;
	Ttrpc__KeyValue kv = TTRPC__KEY_VALUE__INIT;
	struct ttrpc_rpc rpc = {.service = RIG_SERVICE,
				.method = "Echo",
				.request = &kv.base,
				.output = &ttrpc__key_value__descriptor,
				.done = on_done,
				.ctx = b};

	kv.key = malloc(TTRPC_DATA_MAX + 1);
	memset(kv.key, 'x', TTRPC_DATA_MAX);
	kv.key[TTRPC_DATA_MAX] = '\0';
	assert_int_equal(ttrpc_client_start(b->client, &rpc, NULL), -EMSGSIZE);
	free(kv.key);
	unary(state);
}

static void server_goes_away(void **state)
{
	struct both *b = *state;

	start(b, "Hold", "", false, 0);
	start(b, "Join", NULL, false, 0);
	ttrpc_server_close(b->rig.server);
	run(b);
	assert_int_equal(b->code, TTRPC_UNAVAILABLE);
	while (!b->closed)
		run(b);
	assert_int_equal(ttrpc_client_start(b->client, &(struct ttrpc_rpc){0}, NULL), -EPIPE);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(unary),
	    CASE(calls_at_the_same_time),
	    CASE(server_stream),
	    CASE(client_stream),
	    CASE(stream_both_ways),
	    CASE(status_of_the_server),
	    CASE(deadline),
	    CASE(cancelled_call_is_silent),
	    CASE(cancelled_call_is_given_up_at_the_server),
	    CASE(close_from_a_callback),
	    CASE(request_of_more_than_4_mib),
	    CASE(server_goes_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
