/* SetVmLink of `lodge vmm`. See control/vm/vmm_service.h. */
#include "control/network/networks.h"
#include "control/vm/vmm_service_priv.h"

#include <inttypes.h>

void vmm_set_link(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__SetVmLinkRequest *r = (const Lodge__V1__SetVmLinkRequest *)msg;
	Lodge__V1__SetVmLinkResponse done = LODGE__V1__SET_VM_LINK_RESPONSE__INIT;
	struct vmm_service *s = ctx;

	if (!vmm_is_mine(s, r->name)) {
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", r->name);
	} else if (vm_state(s->vm) == VM_STARTING || !vm_machine(s->vm)) {
		ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "VM '%s' does not run", r->name);
	} else if (r->network >= vm_config(s->vm)->nnets) {
		ttrpc_call_fail(call, TTRPC_NOT_FOUND,
				"VM '%s' has %u interfaces, counted from 0, and none %" PRIu32,
				r->name, vm_config(s->vm)->nnets, r->network);
	} else {
		networks_set_link(vm_networks(s->vm), r->network, r->up);
		ttrpc_call_reply(call, &done.base);
	}
}
