/* Calls that are passed on. See control/serve/pass.h. */
#include "control/serve/pass.h"

#include "control/access/access.h"
#include "control/ttrpc/conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Above the windows of all streams, with what small messages need themselves. */
#define QUEUE_MAX (1024 * 1024)

struct pass {
	struct passes *passes;
	struct pass *next, **at;
	struct ttrpc_call *call;
	const char *service;	     /* of the process */
	uid_t uid;		     /* of who is not trusted; else 0 */
	struct ttrpc_client *client; /* NULL: a client stream that has not said its VM */
	struct ttrpc_client_call *vm_call;
	ProtobufCMessage *waiting; /* for the client, while the process is held */
};

/* ---- life ---------------------------------------------------------------------------------------
 */

static void pass_free(struct pass *p)
{
	ttrpc_client_close(p->client);
	pb_free(p->waiting);
	*p->at = p->next;
	if (p->next)
		p->next->at = p->at;
	p->passes->n--;
	free(p);
}

static void pass_fail(struct pass *p, enum ttrpc_code code, const char *text)
{
	struct ttrpc_call *call = p->call;

	pass_free(p);
	ttrpc_call_fail(call, code, "%s", text);
}

static bool has_room(const struct passes *passes, uid_t uid)
{
	unsigned n = 0;

	for (const struct pass *p = passes->first; p && uid; p = p->next)
		n += p->uid == uid;
	return passes->n < PASS_MAX && n < PASS_USER_MAX;
}

/* NULL: the call has been answered. */
static struct pass *pass_new(struct passes *passes, struct ttrpc_call *call)
{
	const struct identity *identity = access_identity(call);
	uid_t uid = identity ? identity->uid : 0;
	struct pass *p = has_room(passes, uid) ? calloc(1, sizeof(*p)) : NULL;

	if (!p) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED,
				"too many calls are passed on to VMs; end some first");
		return NULL;
	}
	p->passes = passes;
	p->call = call;
	p->uid = uid;
	p->next = passes->first;
	p->at = &passes->first;
	if (p->next)
		p->next->at = &p->next;
	passes->first = p;
	passes->n++;
	ttrpc_call_set_user(call, p);
	return p;
}

void pass_cancelled(struct ttrpc_call *call)
{
	pass_fail(ttrpc_call_user(call), TTRPC_CANCELLED, "nobody waits");
}

/* ---- from the process to the client -------------------------------------------------------------
 */

static ProtobufCMessage *copy_of(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *wire = malloc(len ? len : 1);
	ProtobufCMessage *copy = NULL;

	if (wire) {
		protobuf_c_message_pack(message, wire);
		copy = protobuf_c_message_unpack(message->descriptor, NULL, len, wire);
		free(wire);
	}
	return copy;
}

/* The client has read everything. */
static void writable(void *ctx, struct ttrpc_call *call)
{
	struct pass *p = ttrpc_call_user(call);

	(void)ctx;
	if (p->waiting && ttrpc_call_send(call, p->waiting) == -EAGAIN) {
		ttrpc_call_wait(call, writable);
		return;
	}
	pb_free(p->waiting);
	p->waiting = NULL;
	ttrpc_client_hold(p->client, false);
}

static void message_came(void *ctx, const ProtobufCMessage *message)
{
	struct pass *p = ctx;
	int res = ttrpc_call_send(p->call, message);

	if (res == -EAGAIN) {
		p->waiting = copy_of(message);
		if (!p->waiting)
			res = -ENOMEM;
	}
	if (res == -ENOMEM || res == -EMSGSIZE) {
		pass_fail(p, TTRPC_RESOURCE_EXHAUSTED, strerror(-res));
		return;
	}
	if (res == -EAGAIN || ttrpc_call_room(p->call) < TTRPC_QUEUE_HIGH / 2) {
		ttrpc_client_hold(p->client, true);
		ttrpc_call_wait(p->call, writable);
	}
}

static void vm_done(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct pass *p = ctx;
	struct ttrpc_call *call = p->call;

	if (code == TTRPC_UNAVAILABLE && ttrpc_client_ended(p->client)) {
		pass_fail(p, TTRPC_UNAVAILABLE, "the VM has ended");
	} else if (code != TTRPC_OK) {
		pass_fail(p, (enum ttrpc_code)code, text);
	} else {
		pass_free(p);
		ttrpc_call_reply(call, reply);
	}
}

/* ---- from the client to the process -------------------------------------------------------------
 */

/* The text of a field "name", or of one in a message "open". NULL: it has neither. */
static const char *name_of(const ProtobufCMessage *message)
{
	const ProtobufCFieldDescriptor *field =
	    protobuf_c_message_descriptor_get_field_by_name(message->descriptor, "name");
	const ProtobufCMessage *open;

	if (field)
		return *(char *const *)((const char *)message + field->offset);
	field = protobuf_c_message_descriptor_get_field_by_name(message->descriptor, "open");
	if (!field)
		return NULL;
	open = *(ProtobufCMessage *const *)((const char *)message + field->offset);
	return open ? name_of(open) : NULL;
}

static int connect_to(struct pass *p, const char *name, struct err *err)
{
	const struct serve_vm *vm = name ? vm_table_find(p->passes->table, name) : NULL;

	if (!name)
		return err_set(err, EINVAL, "the first message must name the VM");
	if (!vm)
		return err_set(err, ENOENT, "there is no VM '%s'", name);
	if (!vm->ran)
		return err_set(err, EAGAIN, "the VM '%s' is still starting", name);
	return serve_vm_open(vm, NULL, p, &p->client, err);
}

/* `request` NULL: a client stream follows. False: the call has been answered. */
static bool begin(struct pass *p, const char *name, const ProtobufCMessage *request)
{
	const struct ttrpc_method *method = ttrpc_call_method(p->call);
	struct ttrpc_rpc rpc = {
	    .service = p->service,
	    .method = method->name,
	    .request = request,
	    .output = method->output,
	    .server_stream = method->flags & TTRPC_SERVER_STREAM,
	    .message = message_came,
	    .done = vm_done,
	    .ctx = p,
	};
	struct err err = ERR_INIT;
	int res = connect_to(p, name, &err);

	if (!res)
		res = ttrpc_client_start(p->client, &rpc, &p->vm_call);
	switch (res) {
	case 0:
		return true;
	case -EINVAL:
		pass_fail(p, TTRPC_INVALID_ARGUMENT, err.msg);
		break;
	case -ENOENT:
		pass_fail(p, TTRPC_NOT_FOUND, err.msg);
		break;
	case -EAGAIN:
		pass_fail(p, TTRPC_FAILED_PRECONDITION, err.msg);
		break;
	default:
		pass_fail(p, TTRPC_UNAVAILABLE,
			  err.code ? err.msg : "the VM's process cannot be reached");
		break;
	}
	return false;
}

void pass_start(struct passes *passes, const char *service, struct ttrpc_call *call,
		const ProtobufCMessage *request)
{
	struct pass *p = pass_new(passes, call);

	if (!p)
		return;
	p->service = service;
	if (request)
		begin(p, name_of(request), request);
}

void pass_data(struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct pass *p = ttrpc_call_user(call);

	if (!p->client && !begin(p, name_of(message), NULL))
		return;
	if (ttrpc_client_send(p->vm_call, message))
		pass_fail(p, TTRPC_UNAVAILABLE, "the VM has ended");
	else if (ttrpc_client_queued(p->client) > QUEUE_MAX)
		pass_fail(p, TTRPC_RESOURCE_EXHAUSTED, "more was sent than the VM's process takes");
}

void pass_data_end(struct ttrpc_call *call)
{
	struct pass *p = ttrpc_call_user(call);

	if (!p->client)
		pass_fail(p, TTRPC_INVALID_ARGUMENT, "the first message must name the VM");
	else if (ttrpc_client_send_end(p->vm_call))
		pass_fail(p, TTRPC_UNAVAILABLE, "the VM has ended");
}
