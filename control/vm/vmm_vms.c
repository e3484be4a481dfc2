/* lodge.v1.Vms of `lodge vmm`: of the one VM that this process is. See control/vm/vmm_service.h. */
#include "base/checked.h"
#include "control/metrics_text.h"
#include "control/version.h"
#include "control/vm/metrics.h"
#include "control/vm/vmm_service_priv.h"

#include <stdlib.h>
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

/* ---- disk images --------------------------------------------------------------------------------
 */

/* False: the call has been answered. */
static bool may_open_files(const struct vmm_service *s, struct ttrpc_call *call)
{
	struct err err = ERR_INIT;

	if (!vmm_locked_in(s, &err))
		return true;
	ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "%s", err.msg);
	return false;
}

static void get_disk_image_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;

	if (may_open_files(s, call))
		storage_service_info(&s->storage, call, msg);
}

static void resize_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;

	if (may_open_files(s, call))
		storage_service_resize(&s->storage, call, msg);
}

static void check_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;

	if (may_open_files(s, call))
		storage_service_check(&s->storage, call, msg);
}

/* ---- pause, resume ------------------------------------------------------------------------------
 */

static void reply_paused(struct ttrpc_call *call)
{
	Lodge__V1__PauseVmResponse r = LODGE__V1__PAUSE_VM_RESPONSE__INIT;

	ttrpc_call_reply(call, &r.base);
}

static void reply_resumed(struct ttrpc_call *call)
{
	Lodge__V1__ResumeVmResponse r = LODGE__V1__RESUME_VM_RESPONSE__INIT;

	ttrpc_call_reply(call, &r.base);
}

/* Those that came while it was being paused want it to run in the end. */
static void resume_all(struct vmm_service *s)
{
	struct ttrpc_call *call;

	vm_resume(s->vm);
	vmm_say_state(s);
	while ((call = calls_pop(&s->resuming)))
		reply_resumed(call);
}

void vmm_paused(void *ctx)
{
	struct vmm_service *s = ctx;
	struct ttrpc_call *call;

	vmm_say_state(s);
	while ((call = calls_pop(&s->pausing)))
		reply_paused(call);
	if (s->resuming.first)
		resume_all(s);
}

void vmm_refuse_pause(struct vmm_service *s, const char *why)
{
	struct ttrpc_call *call;

	while ((call = calls_pop(&s->pausing)) || (call = calls_pop(&s->resuming)))
		ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "VM '%s' %s", s->name, why);
}

/* Is this the VM, and running or paused? False: answered. */
static bool can_pause(struct vmm_service *s, struct ttrpc_call *call, const char *name)
{
	enum vm_state state = vm_state(s->vm);

	if (!vmm_is_mine(s, name))
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", name);
	else if (state != VM_RUNNING && state != VM_PAUSED)
		ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "VM '%s' is %s", name,
				state == VM_STARTING || state == VM_BOOTING ? "starting"
									    : "being stopped");
	else
		return true;
	return false;
}

static void pause_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;

	if (!can_pause(s, call, ((const Lodge__V1__PauseVmRequest *)msg)->name))
		return;
	if (vm_state(s->vm) == VM_PAUSED) {
		reply_paused(call);
		return;
	}
	calls_push(&s->pausing, call);
	vm_pause(s->vm);
}

static void pause_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct vmm_service *)ctx)->pausing, call);
}

static void resume_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;

	if (!can_pause(s, call, ((const Lodge__V1__ResumeVmRequest *)msg)->name))
		return;
	calls_push(&s->resuming, call);
	if (vm_state(s->vm) == VM_PAUSED)
		resume_all(s);
	else if (!vm_pausing(s->vm))
		reply_resumed(calls_pop(&s->resuming));
}

static void resume_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct vmm_service *)ctx)->resuming, call);
}

/* ---- metrics ------------------------------------------------------------------------------------
 */

/* False: answered. NULL: there is no VM, which is no error where none is named. Freed by free(). */
static bool metrics_of(struct vmm_service *s, struct ttrpc_call *call, const char *name,
		       Lodge__V1__VmMetrics **ret_metrics)
{
	struct vm_metrics_sources sources = {s->vm, s->console, s->name, s->statm_fd};

	*ret_metrics = NULL;
	if (*name && !vmm_is_mine(s, name)) {
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", name);
		return false;
	}
	if (!vmm_exists(s))
		return true;
	*ret_metrics = vm_metrics_new(&sources);
	if (!*ret_metrics)
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
	return *ret_metrics;
}

static void get_metrics(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Lodge__V1__GetMetricsResponse r = LODGE__V1__GET_METRICS_RESPONSE__INIT;
	Lodge__V1__VmMetrics *metrics;

	if (!metrics_of(ctx, call, ((const Lodge__V1__GetMetricsRequest *)msg)->name, &metrics))
		return;
	r.vms = &metrics;
	r.n_vms = metrics != NULL;
	ttrpc_call_reply(call, &r.base);
	free(metrics);
}

static void get_metrics_text(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Lodge__V1__GetMetricsTextResponse r = LODGE__V1__GET_METRICS_TEXT_RESPONSE__INIT;
	Lodge__V1__VmMetrics *metrics;

	if (!metrics_of(ctx, call, ((const Lodge__V1__GetMetricsRequest *)msg)->name, &metrics))
		return;
	r.text = metrics_text(&metrics, metrics != NULL);
	if (r.text)
		ttrpc_call_reply(call, &r.base);
	else
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the server is out of memory");
	free(r.text);
	free(metrics);
}

/* ---- console ------------------------------------------------------------------------------------
 */

/* The console of a VM that has ended is there until this process is. False: answered. */
static bool console_of(struct vmm_service *s, struct ttrpc_call *call, const char *name)
{
	if (vmm_is_mine(s, name) || (s->ended && !strcmp(s->name, name)))
		return true;
	ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", name);
	return false;
}

static void read_console(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__ReadConsoleRequest *r = (const Lodge__V1__ReadConsoleRequest *)msg;
	struct vmm_service *s = ctx;

	if (console_of(s, call, r->name))
		vm_console_read(s->console, call, r);
}

static void attach_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	(void)ctx;
	(void)call;
	(void)msg;
}

static void attach_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__ConsoleInput *input = (const Lodge__V1__ConsoleInput *)msg;
	struct vmm_service *s = ctx;
	bool opened = ttrpc_call_user(call);

	if (opened == (input->open != NULL)) {
		vm_console_close(call);
		ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
				"`open` is to be in the first message, and in no other");
		return;
	}
	if (!opened && (!console_of(s, call, input->open->name) ||
			!vm_console_open(s->console, call, input->open)))
		return;
	vm_console_input(call, input);
}

/* A client that types no more still reads. */
static void attach_end(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	if (!ttrpc_call_user(call))
		ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT, "the first message is missing");
}

static void console_cancelled(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	vm_console_close(call);
	ttrpc_call_fail(call, TTRPC_CANCELLED, "nobody waits");
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
    {"PauseVm", TYPES(pause_vm), 0, pause_vm, NULL, NULL, pause_cancelled},
    {"ResumeVm", TYPES(resume_vm), 0, resume_vm, NULL, NULL, resume_cancelled},
    {"ResizeVmDisk", TYPES(resize_vm_disk), 0, vmm_resize_disk, NULL, NULL, NULL},
    {"SetVmLink", TYPES(set_vm_link), 0, vmm_set_link, NULL, NULL, NULL},
    {"GetMetrics", TYPES(get_metrics), 0, get_metrics, NULL, NULL, NULL},
    {"GetMetricsText", &lodge__v1__get_metrics_request__descriptor,
     &lodge__v1__get_metrics_text_response__descriptor, 0, get_metrics_text, NULL, NULL, NULL},
    {"ReadConsole", &lodge__v1__read_console_request__descriptor,
     &lodge__v1__console_output__descriptor, TTRPC_SERVER_STREAM, read_console, NULL, NULL,
     console_cancelled},
    {"AttachConsole", &lodge__v1__console_input__descriptor, &lodge__v1__console_output__descriptor,
     TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM, attach_start, attach_data, attach_end,
     console_cancelled},
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
