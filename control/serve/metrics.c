/* Metrics of many VMs. See control/serve/metrics.h. */
#include "control/serve/metrics.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/metrics_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VM_NS  UINT64_C(1000000000)
#define ALL_NS UINT64_C(5000000000)

struct round {
	const struct vm_table *table;
	struct ttrpc_call *call;
	char **names; /* of the VMs that are asked */
	size_t nnames, at;
	ProtobufCMessage **answers; /* GetMetricsResponse */
	size_t nanswers;
	struct ttrpc_client *client;
	struct loop_msg next; /* outside the client's own callback */
	bool is_over;
	uint64_t deadline_ns;
};

static void round_free(struct round *r)
{
	ttrpc_client_close(r->client);
	for (size_t i = 0; i < r->nnames; i++)
		free(r->names[i]);
	for (size_t i = 0; i < r->nanswers; i++)
		pb_free(r->answers[i]);
	free(r->names);
	free(r->answers);
	free(r);
}

/* As messages, or as the text that they make. */
static void reply_all(struct ttrpc_call *call, const Lodge__V1__GetMetricsResponse *all)
{
	Lodge__V1__GetMetricsTextResponse r = LODGE__V1__GET_METRICS_TEXT_RESPONSE__INIT;
	autofree char *text = NULL;

	if (ttrpc_call_method(call)->output == all->base.descriptor) {
		ttrpc_call_reply(call, &all->base);
		return;
	}
	text = metrics_text(all->vms, all->n_vms);
	r.text = text;
	if (text)
		ttrpc_call_reply(call, &r.base);
	else
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
}

/* All answers in one, which borrows from them. */
static void reply(struct round *r)
{
	Lodge__V1__GetMetricsResponse all = LODGE__V1__GET_METRICS_RESPONSE__INIT;
	autofree Lodge__V1__VmMetrics **list = NULL;
	size_t n = 0;

	for (size_t i = 0; i < r->nanswers; i++)
		n += ((Lodge__V1__GetMetricsResponse *)r->answers[i])->n_vms;
	list = calloc(n + 1, sizeof(*list));
	if (!list) {
		ttrpc_call_fail(r->call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	all.vms = list;
	for (size_t i = 0; i < r->nanswers; i++) {
		const Lodge__V1__GetMetricsResponse *one =
		    (const Lodge__V1__GetMetricsResponse *)r->answers[i];

		for (size_t k = 0; k < one->n_vms; k++)
			list[all.n_vms++] = one->vms[k];
	}
	reply_all(r->call, &all);
}

static void round_next(struct loop_msg *m);

static void answered(void *ctx, int code, const char *text, const ProtobufCMessage *message)
{
	struct round *r = ctx;
	size_t len;
	uint8_t *wire;

	(void)text;
	if (code == TTRPC_OK && message) {
		len = protobuf_c_message_get_packed_size(message);
		wire = malloc(len ? len : 1);
		if (wire) {
			protobuf_c_message_pack(message, wire);
			r->answers[r->nanswers] =
			    protobuf_c_message_unpack(message->descriptor, NULL, len, wire);
			r->nanswers += r->answers[r->nanswers] != NULL;
			free(wire);
		}
	}
	loop_defer(r->table->loop, &r->next);
}

/* Asks one VM. False: it cannot be asked. */
static bool ask(struct round *r, char *name)
{
	Lodge__V1__GetMetricsRequest request = LODGE__V1__GET_METRICS_REQUEST__INIT;
	const struct ttrpc_rpc rpc = {
	    .service = SERVE_VMS,
	    .method = "GetMetrics",
	    .request = &request.base,
	    .output = &lodge__v1__get_metrics_response__descriptor,
	    .timeout_ns = VM_NS,
	    .done = answered,
	    .ctx = r,
	};
	const struct serve_vm *vm = vm_table_find(r->table, name);

	request.name = name;
	return vm && vm->ran && !serve_vm_open(vm, NULL, r, &r->client, NULL) &&
	       !ttrpc_client_start(r->client, &rpc, NULL);
}

static void round_next(struct loop_msg *m)
{
	struct round *r = container_of(m, struct round, next);

	ttrpc_client_close(r->client);
	r->client = NULL;
	while (!r->is_over && r->at < r->nnames && loop_now_ns() < r->deadline_ns) {
		if (ask(r, r->names[r->at++]))
			return;
		ttrpc_client_close(r->client);
		r->client = NULL;
	}
	if (!r->is_over)
		reply(r);
	round_free(r);
}

static struct round *round_new(const struct vm_table *table, const char *name)
{
	size_t max = *name ? 1 : table->nvms;
	struct round *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->table = table;
	r->next.fn = round_next;
	r->deadline_ns = loop_now_ns() + ALL_NS;
	r->names = calloc(max + 1, sizeof(*r->names));
	r->answers = calloc(max + 1, sizeof(ProtobufCMessage *));
	for (const struct serve_vm *vm = table->vms; vm && r->names && r->answers; vm = vm->next) {
		if (!vm->name || (*name && strcmp(name, vm->name) != 0))
			continue;
		r->names[r->nnames] = strdup(vm->name);
		if (!r->names[r->nnames])
			break;
		r->nnames++;
	}
	if (!r->names || !r->answers) {
		round_free(r);
		return NULL;
	}
	return r;
}

void metrics_get(struct metrics *metrics, struct ttrpc_call *call,
		 const Lodge__V1__GetMetricsRequest *request)
{
	struct round *r;

	if (*request->name && !vm_table_find(metrics->table, request->name)) {
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", request->name);
		return;
	}
	r = round_new(metrics->table, request->name);
	if (!r) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	r->call = call;
	ttrpc_call_set_user(call, r);
	loop_defer(metrics->table->loop, &r->next);
}

void metrics_cancelled(struct ttrpc_call *call)
{
	struct round *r = ttrpc_call_user(call);

	ttrpc_call_fail(call, TTRPC_CANCELLED, "nobody waits");
	r->is_over = true;
	loop_defer(r->table->loop, &r->next);
}
