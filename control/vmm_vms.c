/* lodge.v1.Vms of `lodge vmm`: of the one VM that this process is. See control/vmm_service.h. */
#include "base/checked.h"
#include "control/version.h"
#include "control/vmm_service_priv.h"

#include <string.h>
#include <unistd.h>

/* ---- the server, and what it has ----------------------------------------------------------------
 */

static void get_server_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;
	Lodge__V1__GetServerInfoResponse r = LODGE__V1__GET_SERVER_INFO_RESPONSE__INIT;
	char version[] = LODGE_VERSION;

	(void)msg;
	r.version = version;
	r.pid = getpid();
	r.uptime_ns = loop_now_ns() - s->began_ns;
	r.vms = vmm_exists(s);
	r.read_only = access_is_read_only(call);
	ttrpc_call_reply(call, &r.base);
}

static void list_vms(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;
	Lodge__V1__ListVmsResponse r = LODGE__V1__LIST_VMS_RESPONSE__INIT;
	VmTools__Concierge__VmInfo info, *list[] = {&info};
	char *paths[MACHINE_DISKS_MAX];

	(void)msg;
	if (vmm_exists(s)) {
		vmm_fill_info(s, &info, paths);
		r.vms = list;
		r.n_vms = 1;
	}
	ttrpc_call_reply(call, &r.base);
}

/* ---- the end, events ----------------------------------------------------------------------------
 */

static void stop_all_vms(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__StopAllVmsRequest *r = (const Lodge__V1__StopAllVmsRequest *)msg;
	struct vmm_service *s = ctx;
	Lodge__V1__StopAllVmsResponse none = LODGE__V1__STOP_ALL_VMS_RESPONSE__INIT;
	unsigned timeout_ms = r->timeout_ms ? r->timeout_ms : VM_STOP_TIMEOUT_MS;

	if (!vmm_exists(s)) {
		ttrpc_call_reply(call, &none.base);
		return;
	}
	calls_push(&s->stopping_all, call);
	s->stop_called = true;
	vmm_stop(s, r->force ? 0 : timeout_ms);
}

static void stop_all_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct vmm_service *)ctx)->stopping_all, call);
}

static void wait_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__WaitVmRequest *r = (const Lodge__V1__WaitVmRequest *)msg;
	struct vmm_service *s = ctx;

	if (vmm_is_mine(s, r->name))
		calls_push(&s->waiting, call);
	else if (s->ended && !strcmp(s->name, r->name))
		vm_end_reply(call, &s->end);
	else
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", r->name);
}

static void wait_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct vmm_service *)ctx)->waiting, call);
}

static void list_state(void *ctx, struct events_watcher *watcher)
{
	struct vmm_service *s = ctx;

	if (vmm_exists(s))
		events_initial(watcher, s->name, vmm_wire_state(s), getpid());
}

static void watch_events(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;

	events_watch(&s->events, call, (const Lodge__V1__WatchEventsRequest *)msg, list_state, s);
}

static void watch_cancelled(void *ctx, struct ttrpc_call *call)
{
	events_cancelled(&((struct vmm_service *)ctx)->events, call);
}

static void get_disk_image_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_info(&((struct vmm_service *)ctx)->storage, call, msg);
}

static void resize_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_resize(&((struct vmm_service *)ctx)->storage, call, msg);
}

static void check_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_check(&((struct vmm_service *)ctx)->storage, call, msg);
}

/* ---- the table ----------------------------------------------------------------------------------
 */

#define TYPES(name) \
	&lodge__v1__##name##_request__descriptor, &lodge__v1__##name##_response__descriptor

static const struct ttrpc_method vms_methods[] = {
    {"GetServerInfo", TYPES(get_server_info), 0, get_server_info, NULL, NULL, NULL},
    {"ListVms", TYPES(list_vms), 0, list_vms, NULL, NULL, NULL},
    {"StopAllVms", TYPES(stop_all_vms), 0, stop_all_vms, NULL, NULL, stop_all_cancelled},
    {"WaitVm", TYPES(wait_vm), 0, wait_vm, NULL, NULL, wait_cancelled},
    {"WatchEvents", &lodge__v1__watch_events_request__descriptor, &lodge__v1__vm_event__descriptor,
     TTRPC_SERVER_STREAM, watch_events, NULL, NULL, watch_cancelled},
    {"GetDiskImageInfo", TYPES(get_disk_image_info), 0, get_disk_image_info, NULL, NULL,
     storage_service_cancelled},
    {"ResizeDiskImage", TYPES(resize_disk_image), 0, resize_disk_image, NULL, NULL,
     storage_service_cancelled},
    {"CheckDiskImage", TYPES(check_disk_image), 0, check_disk_image, NULL, NULL,
     storage_service_cancelled},
};

const struct ttrpc_service vmm_vms_service = {"lodge.v1.Vms", vms_methods, ARRAY_LEN(vms_methods)};
