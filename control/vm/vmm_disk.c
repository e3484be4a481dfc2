/* ResizeVmDisk of `lodge vmm`. See control/vm/vmm_service.h. */
#include "base/checked.h"
#include "control/vm/vmm_service_priv.h"

#include <errno.h>
#include <inttypes.h>

static enum ttrpc_code code_of(int code)
{
	switch (code) {
	case EINVAL:
	case EFBIG:
		return TTRPC_INVALID_ARGUMENT;
	case ENOSPC:
	case EDQUOT:
	case ENOMEM:
		return TTRPC_RESOURCE_EXHAUSTED;
	case EROFS:
	case EBUSY:
	case ENOTSUP:
		return TTRPC_FAILED_PRECONDITION;
	default:
		return TTRPC_UNKNOWN;
	}
}

static void resized(void *ctx, uint64_t old_bytes, const struct err *err)
{
	Lodge__V1__ResizeVmDiskResponse r = LODGE__V1__RESIZE_VM_DISK_RESPONSE__INIT;
	struct ttrpc_call *call = ctx;

	r.old_size_bytes = old_bytes;
	if (err->code)
		ttrpc_call_fail(call, code_of(err->code), "%s", err->msg);
	else
		ttrpc_call_reply(call, &r.base);
}

void vmm_resize_disk(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__ResizeVmDiskRequest *r = (const Lodge__V1__ResizeVmDiskRequest *)msg;
	struct vmm_service *s = ctx;
	struct machine *machine;
	int res;

	if (!vmm_is_mine(s, r->name)) {
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", r->name);
		return;
	}
	machine = vm_state(s->vm) == VM_STARTING ? NULL : vm_machine(s->vm);
	if (!machine) {
		ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "VM '%s' does not run", r->name);
		return;
	}
	if (r->disk >= vm_config(s->vm)->ndisks) {
		ttrpc_call_fail(call, TTRPC_NOT_FOUND,
				"VM '%s' has %u disks, counted from 0 (vda), and no disk %" PRIu32,
				r->name, vm_config(s->vm)->ndisks, r->disk);
		return;
	}
	if (r->size_bytes % IMAGE_SECTOR_BYTES) {
		ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
				"%" PRIu64 " bytes are no whole number of sectors of %d",
				r->size_bytes, IMAGE_SECTOR_BYTES);
		return;
	}
	res = machine_resize_disk(machine, r->disk, r->size_bytes, resized, call);
	if (res == -EBUSY)
		ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION,
				"disk %" PRIu32 " is being resized already", r->disk);
	else if (res)
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
}
