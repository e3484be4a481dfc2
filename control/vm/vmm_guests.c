/* lodge.v1.Guests of `lodge vmm`: passed on to the agent in the guest. See control/agent/relay.h.
 */
#include "base/checked.h"
#include "control/vm/vmm_service_priv.h"

#include <errno.h>

static bool is_mine(void *ctx, const char *name)
{
	return vmm_is_mine(ctx, name);
}

static struct ttrpc_client *client(void *ctx, struct err *err)
{
	const struct vmm_service *s = ctx;

	if (vm_state(s->vm) != VM_PAUSED)
		return guest_client(vm_guest(s->vm), err);
	err_set(err, EAGAIN, "the VM '%s' is paused; `lodge resume %s` lets it go on", s->name,
		s->name);
	return NULL;
}

void vmm_guests_init(struct vmm_service *s)
{
	static const struct relay_ops ops = {.is_mine = is_mine, .client = client};

	s->relay = (struct relay){.ops = &ops, .ctx = s};
}

void vmm_guest_leaving(void *ctx)
{
	relay_end(&((struct vmm_service *)ctx)->relay, "the VM has ended");
}

static void start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	relay_start(&((struct vmm_service *)ctx)->relay, call, request);
}

static const struct ttrpc_method methods[] = {
    GUESTS_METHODS(start, relay_data, relay_data_end, relay_cancelled)};

const struct ttrpc_service vmm_guests_service = {GUESTS_SERVICE, methods, ARRAY_LEN(methods)};
