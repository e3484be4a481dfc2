/*
 * A ttrpc server with one method of each kind, on one end of a socket pair, for tests of server and
 * client. Messages are ttrpc.KeyValue throughout.
 */
#ifndef TESTS_UNIT_TTRPC_RIG_H
#define TESTS_UNIT_TTRPC_RIG_H

#include "base/checked.h"
#include "control/ttrpc/server.h"
#include "proto/ttrpc.pb-c.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RIG_SERVICE "test.Rig"
#define RIG_HELD    4

struct rig {
	struct loop *loop;
	struct ttrpc_server *server;
	int peer; /* the other end */
	struct ttrpc_call *held[RIG_HELD];
	unsigned nheld, cancelled;
	unsigned sent;	    /* Flood: messages that went out */
	unsigned poured[2]; /* Pour: the same, of two streams */
};

/* Answers with the same. */
static inline void rig_echo(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)ctx;
	ttrpc_call_reply(call, request);
}

/* Waits for Release. */
static inline void rig_hold(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct rig *rig = ctx;

	(void)request;
	if (rig->nheld == RIG_HELD)
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no more are held");
	else
		rig->held[rig->nheld++] = call;
}

static inline void rig_release_all(struct rig *rig)
{
	Ttrpc__KeyValue reply = TTRPC__KEY_VALUE__INIT;
	char text[] = "released";

	reply.value = text;
	while (rig->nheld)
		ttrpc_call_reply(rig->held[--rig->nheld], &reply.base);
}

static inline void rig_release(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	rig_release_all(ctx);
	ttrpc_call_reply(call, request);
}

static inline void rig_cancelled(void *ctx, struct ttrpc_call *call)
{
	struct rig *rig = ctx;

	(void)call;
	rig->cancelled++;
}

/* Says what is wrong. */
static inline void rig_fail(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)ctx;
	(void)request;
	ttrpc_call_fail(call, TTRPC_UNKNOWN, "no \xff luck");
}

/* Answers with more than fits into a frame. */
static inline void rig_huge(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	Ttrpc__KeyValue reply = TTRPC__KEY_VALUE__INIT;
	char *text = malloc(TTRPC_DATA_MAX + 1);

	(void)ctx;
	(void)request;
	memset(text, 'x', TTRPC_DATA_MAX);
	text[TTRPC_DATA_MAX] = '\0';
	reply.value = text;
	ttrpc_call_reply(call, &reply.base);
	free(text);
}

/* Streams one message for each character of the key. */
static inline void rig_spell(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	const Ttrpc__KeyValue *in = (const Ttrpc__KeyValue *)request;

	(void)ctx;
	for (const char *p = in->key; *p; p++) {
		Ttrpc__KeyValue out = TTRPC__KEY_VALUE__INIT;
		char text[2] = {*p, '\0'};

		out.value = text;
		(void)ttrpc_call_send(call, &out.base);
	}
	ttrpc_call_reply(call, NULL);
}

/* Streams until the client does not keep up. */
static inline void rig_flood(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct rig *rig = ctx;

	while (ttrpc_call_send(call, request) == 0)
		rig->sent++;
	ttrpc_call_reply(call, NULL);
}

#define RIG_POUR       4000 /* messages of one stream, and of one turn */
#define RIG_POUR_PIECE 16

/* A piece in each turn, until all are sent. */
static inline void rig_pour_on(void *ctx, struct ttrpc_call *call)
{
	unsigned *poured = ttrpc_call_user(call);
	Ttrpc__KeyValue out = TTRPC__KEY_VALUE__INIT;
	char text[201];

	(void)ctx;
	memset(text, 'x', sizeof(text));
	text[200] = '\0';
	out.value = text;
	for (unsigned i = 0; i < RIG_POUR_PIECE; i++) {
		if (*poured == RIG_POUR) {
			ttrpc_call_reply(call, NULL);
			return;
		}
		if (ttrpc_call_send(call, &out.base))
			break;
		++*poured;
	}
	ttrpc_call_wait(call, rig_pour_on);
}

/* The key says which of the two it is: "0" or "1". */
static inline void rig_pour(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct rig *rig = ctx;

	ttrpc_call_set_user(call, &rig->poured[((const Ttrpc__KeyValue *)request)->key[0] & 1]);
	rig_pour_on(ctx, call);
}

static inline void rig_pour_cancelled(void *ctx, struct ttrpc_call *call)
{
	rig_cancelled(ctx, call);
	ttrpc_call_reply(call, NULL);
}

/* Joins what the client streams; answers at its end. */
static inline void rig_join(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)ctx;
	(void)request;
	ttrpc_call_set_user(call, calloc(1, 64));
}

static inline void rig_join_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	char *text = ttrpc_call_user(call);

	(void)ctx;
	snprintf(text + strlen(text), 64 - strlen(text), "%s|",
		 ((const Ttrpc__KeyValue *)msg)->key);
}

static inline void rig_join_end(void *ctx, struct ttrpc_call *call)
{
	Ttrpc__KeyValue reply = TTRPC__KEY_VALUE__INIT;
	char *text = ttrpc_call_user(call);

	(void)ctx;
	reply.value = text;
	ttrpc_call_reply(call, &reply.base);
	free(text);
}

static inline void rig_join_cancelled(void *ctx, struct ttrpc_call *call)
{
	rig_cancelled(ctx, call);
	free(ttrpc_call_user(call));
	ttrpc_call_fail(call, TTRPC_CANCELLED, "nobody waits");
}

/* Both ways: each message comes back at once. */
static inline void rig_chat_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	(void)ctx;
	(void)ttrpc_call_send(call, msg);
}

static inline void rig_chat_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	(void)ctx;
	(void)call;
	(void)msg;
}

static inline void rig_chat_end(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	ttrpc_call_reply(call, NULL);
}

static inline void rig_chat_cancelled(void *ctx, struct ttrpc_call *call)
{
	rig_cancelled(ctx, call);
	ttrpc_call_reply(call, NULL);
}

#define RIG_TYPES &ttrpc__key_value__descriptor, &ttrpc__key_value__descriptor

static const struct ttrpc_method rig_methods[] = {
    {"Echo", RIG_TYPES, 0, rig_echo, NULL, NULL, NULL},
    {"Hold", RIG_TYPES, 0, rig_hold, NULL, NULL, rig_cancelled},
    {"Release", RIG_TYPES, 0, rig_release, NULL, NULL, NULL},
    {"Fail", RIG_TYPES, 0, rig_fail, NULL, NULL, NULL},
    {"Huge", RIG_TYPES, 0, rig_huge, NULL, NULL, NULL},
    {"Spell", RIG_TYPES, TTRPC_SERVER_STREAM, rig_spell, NULL, NULL, NULL},
    {"Flood", RIG_TYPES, TTRPC_SERVER_STREAM, rig_flood, NULL, NULL, NULL},
    {"Pour", RIG_TYPES, TTRPC_SERVER_STREAM, rig_pour, NULL, NULL, rig_pour_cancelled},
    {"Join", RIG_TYPES, TTRPC_CLIENT_STREAM, rig_join, rig_join_data, rig_join_end,
     rig_join_cancelled},
    {"Chat", RIG_TYPES, TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM, rig_chat_start, rig_chat_data,
     rig_chat_end, rig_chat_cancelled},
};

static const struct ttrpc_service rig_service = {RIG_SERVICE, rig_methods, ARRAY_LEN(rig_methods)};
static const struct ttrpc_service *const rig_services[] = {&rig_service, NULL};

static inline void rig_open(struct rig *rig, enum loop_backend backend)
{
	const struct loop_opts opts = {.backend = backend, .entries = 64};
	struct ttrpc_server_config config = {.services = rig_services, .ctx = rig};
	struct err err = ERR_INIT;
	int pair[2];

	signal(SIGPIPE, SIG_IGN);
	*rig = (struct rig){0};
	if (loop_new(&opts, &rig->loop, &err) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		fprintf(stderr, "rig: %s\n", err.msg);
		exit(99);
	}
	config.loop = rig->loop;
	if (ttrpc_server_new(&config, &rig->server, &err) ||
	    ttrpc_server_adopt(rig->server, pair[0]))
		exit(99);
	rig->peer = pair[1];
}

static inline void rig_close(struct rig *rig)
{
	ttrpc_server_close(rig->server);
	rig_release_all(rig);
	loop_free(rig->loop);
	ttrpc_server_free(rig->server);
	if (rig->peer >= 0)
		close(rig->peer);
}

#endif
