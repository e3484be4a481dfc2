/* The calls of `lodge serve`. See control/serve/serve.h. */
#include "control/serve/serve.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/agent/guests.h"
#include "control/events.h"
#include "control/serve/find.h"
#include "control/serve/metrics.h"
#include "control/serve/pass.h"
#include "control/serve/vm.h"
#include "control/storage/service.h"
#include "control/version.h"
#include "control/vm/start_config.h"
#include "control/vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* For files that hang. */
#define DRAIN_MS 3000
/* For clients that do not read their last answer. */
#define LEAVE_NS UINT64_C(1000000000)

#define VMS_MAX 4096

struct serve {
	struct serve_setup setup;
	struct loop *loop;
	struct background bg;
	struct ttrpc_server *server;
	struct storage_service storage;
	struct vm_table table;
	struct passes passes;
	struct metrics metrics;
	int lock_fd;
	uint64_t began_ns;
	struct events events;
	struct calls stop_all;
	struct loop_timer leave;
	bool is_listening;
	bool is_ending;
};

/* ---- the concierge's calls ----------------------------------------------------------------------
 */

static void serve_progress(void *ctx);

/* The request, with what it does not say. */
static VmTools__Concierge__StartVmRequest
with_defaults(const VmTools__Concierge__StartVmRequest *request, struct serve_defaults *d)
{
	VmTools__Concierge__StartVmRequest r = *request;

	if (!r.cpus)
		r.cpus = d->cpus;
	if (!r.memory_bytes)
		r.memory_bytes = d->memory_bytes;
	if (d->mmio && r.transport == VM_TOOLS__CONCIERGE__VM_TRANSPORT__VM_TRANSPORT_PCI)
		r.transport = VM_TOOLS__CONCIERGE__VM_TRANSPORT__VM_TRANSPORT_MMIO;
	if (d->share_user && !*r.share_user)
		r.share_user = d->share_user;
	if (d->net && !r.n_networks) {
		r.networks = &d->net;
		r.n_networks = 1;
	}
	return r;
}

static void start_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__StartVmRequest *r =
	    (const VmTools__Concierge__StartVmRequest *)msg;
	struct serve *s = ctx;
	struct err err = ERR_INIT;
	VmTools__Concierge__VmInfo info;
	struct serve_vm *vm;

	if (start_config_check_name(r->name, &err)) {
		reply_start_failed(call, err.msg);
		return;
	}
	vm = vm_table_find(&s->table, r->name);
	if (!vm && s->is_ending) {
		reply_start_failed(call, "the server is about to end");
	} else if (!vm && s->table.nvms >= VMS_MAX) {
		reply_start_failed(call, "there are too many VMs; stop some first");
	} else if (!vm) {
		VmTools__Concierge__StartVmRequest full = with_defaults(r, &s->setup.defaults);

		serve_vm_start(&s->table, call, &full, access_identity(call));
	} else if (!vm->ran) {
		calls_push(&vm->starting, call);
	} else if (vm->state == VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STOPPING ||
		   vm->has_exited) {
		err_set(&err, EBUSY, "the VM '%s' is about to end; try again then", r->name);
		reply_start_failed(call, err.msg);
	} else {
		serve_vm_info(vm, &info);
		reply_started(call, &info);
	}
}

static void stop_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__StopVmRequest *r = (const VmTools__Concierge__StopVmRequest *)msg;
	unsigned timeout_ms = r->timeout_ms ? r->timeout_ms : VM_STOP_TIMEOUT_MS;
	struct serve_vm *vm = vm_table_find(&((struct serve *)ctx)->table, r->name);
	struct err err = ERR_INIT;

	if (!vm) {
		err_set(&err, ENOENT, "there is no VM '%s'", r->name);
		reply_stop(call, err.msg);
		return;
	}
	calls_push(&vm->stopping, call);
	serve_vm_stop(vm, r->force ? 0 : timeout_ms);
}

static void get_vm_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__GetVmInfoRequest *r =
	    (const VmTools__Concierge__GetVmInfoRequest *)msg;
	const struct serve_vm *vm = vm_table_find(&((struct serve *)ctx)->table, r->name);
	VmTools__Concierge__VmInfo info;

	if (vm)
		serve_vm_info(vm, &info);
	reply_info(call, vm ? &info : NULL);
}

static void start_cancelled(void *ctx, struct ttrpc_call *call)
{
	for (struct serve_vm *vm = ((struct serve *)ctx)->table.vms; vm; vm = vm->next)
		calls_cancelled(&vm->starting, call);
}

static void stop_cancelled(void *ctx, struct ttrpc_call *call)
{
	for (struct serve_vm *vm = ((struct serve *)ctx)->table.vms; vm; vm = vm->next)
		calls_cancelled(&vm->stopping, call);
}

static void create_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_create(&((struct serve *)ctx)->storage, call, msg);
}

static void destroy_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_destroy(&((struct serve *)ctx)->storage, call, msg);
}

static void add_users(void *ctx, struct storage_users *users)
{
	for (const struct serve_vm *vm = ((struct serve *)ctx)->table.vms; vm; vm = vm->next) {
		for (size_t i = 0; vm->info && i < vm->info->n_disk_paths; i++)
			storage_users_add(users, vm->name, vm->info->disk_paths[i]);
	}
}

/* ---- ours ---------------------------------------------------------------------------------------
 */

static void list_vms(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Lodge__V1__ListVmsResponse r = LODGE__V1__LIST_VMS_RESPONSE__INIT;
	struct serve *s = ctx;
	VmTools__Concierge__VmInfo *infos = calloc(s->table.nvms + 1, sizeof(*infos));
	VmTools__Concierge__VmInfo **list =
	    calloc(s->table.nvms + 1, sizeof(VmTools__Concierge__VmInfo *));

	(void)msg;
	if (!infos || !list) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
	} else {
		for (const struct serve_vm *vm = s->table.vms; vm; vm = vm->next) {
			serve_vm_info(vm, &infos[r.n_vms]);
			list[r.n_vms] = &infos[r.n_vms];
			r.n_vms++;
		}
		r.vms = list;
		ttrpc_call_reply(call, &r.base);
	}
	free(infos);
	free(list);
}

static void stop_all_vms(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__StopAllVmsRequest *r = (const Lodge__V1__StopAllVmsRequest *)msg;
	unsigned timeout_ms = r->timeout_ms ? r->timeout_ms : VM_STOP_TIMEOUT_MS;
	struct serve *s = ctx;

	calls_push(&s->stop_all, call);
	for (struct serve_vm *vm = s->table.vms; vm; vm = vm->next)
		serve_vm_stop(vm, r->force ? 0 : timeout_ms);
	serve_progress(s);
}

static void stop_all_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct serve *)ctx)->stop_all, call);
}

static void get_server_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Lodge__V1__GetServerInfoResponse r = LODGE__V1__GET_SERVER_INFO_RESPONSE__INIT;
	const struct serve *s = ctx;
	char version[] = LODGE_VERSION;

	(void)msg;
	r.version = version;
	r.pid = getpid();
	r.uptime_ns = loop_now_ns() - s->began_ns;
	r.vms = s->table.nvms;
	r.read_only = access_is_read_only(call);
	ttrpc_call_reply(call, &r.base);
}

static void wait_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Lodge__V1__WaitVmRequest *r = (const Lodge__V1__WaitVmRequest *)msg;
	struct serve_vm *vm = vm_table_find(&((struct serve *)ctx)->table, r->name);

	if (vm)
		calls_push(&vm->waiting, call);
	else
		ttrpc_call_fail(call, TTRPC_NOT_FOUND, "there is no VM '%s'", r->name);
}

static void wait_cancelled(void *ctx, struct ttrpc_call *call)
{
	for (struct serve_vm *vm = ((struct serve *)ctx)->table.vms; vm; vm = vm->next)
		calls_cancelled(&vm->waiting, call);
}

static void list_states(void *ctx, struct events_watcher *watcher)
{
	const struct serve *s = ctx;

	for (const struct serve_vm *vm = s->table.vms; vm; vm = vm->next) {
		if (vm->name)
			events_initial(watcher, vm->name, vm->state, vm->pid);
	}
}

static void watch_events(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct serve *s = ctx;

	events_watch(&s->events, call, (const Lodge__V1__WatchEventsRequest *)msg, list_states, s);
}

static void watch_cancelled(void *ctx, struct ttrpc_call *call)
{
	events_cancelled(&((struct serve *)ctx)->events, call);
}

static void get_disk_image_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_info(&((struct serve *)ctx)->storage, call, msg);
}

static void resize_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_resize(&((struct serve *)ctx)->storage, call, msg);
}

static void check_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	storage_service_check(&((struct serve *)ctx)->storage, call, msg);
}

/* ---- passed on ----------------------------------------------------------------------------------
 */

static void pass_on(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	pass_start(&((struct serve *)ctx)->passes, SERVE_VMS, call, msg);
}

static void pass_to_guest(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	pass_start(&((struct serve *)ctx)->passes, GUESTS_SERVICE, call, msg);
}

static void pass_on_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	(void)ctx;
	pass_data(call, msg);
}

static void pass_on_end(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	pass_data_end(call);
}

static void pass_on_cancelled(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	pass_cancelled(call);
}

static void get_metrics(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	metrics_get(&((struct serve *)ctx)->metrics, call,
		    (const Lodge__V1__GetMetricsRequest *)msg);
}

static void metrics_given_up(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	metrics_cancelled(call);
}

/* ---- the tables ---------------------------------------------------------------------------------
 */

#define TYPES(package, name) \
	&package##__##name##_request__descriptor, &package##__##name##_response__descriptor
#define CONCIERGE(name) TYPES(vm_tools__concierge, name)
#define VMS(name)	TYPES(lodge__v1, name)

static const struct ttrpc_method concierge_methods[] = {
    {"StartVm", CONCIERGE(start_vm), 0, start_vm, NULL, NULL, start_cancelled},
    {"StopVm", CONCIERGE(stop_vm), 0, stop_vm, NULL, NULL, stop_cancelled},
    {"GetVmInfo", CONCIERGE(get_vm_info), 0, get_vm_info, NULL, NULL, NULL},
    {"CreateDiskImage", CONCIERGE(create_disk_image), 0, create_disk_image, NULL, NULL,
     storage_service_cancelled},
    {"DestroyDiskImage", CONCIERGE(destroy_disk_image), 0, destroy_disk_image, NULL, NULL,
     storage_service_cancelled},
};

static const struct ttrpc_method vms_methods[] = {
    {"GetServerInfo", VMS(get_server_info), 0, get_server_info, NULL, NULL, NULL},
    {"ListVms", VMS(list_vms), 0, list_vms, NULL, NULL, NULL},
    {"StopAllVms", VMS(stop_all_vms), 0, stop_all_vms, NULL, NULL, stop_all_cancelled},
    {"WaitVm", VMS(wait_vm), 0, wait_vm, NULL, NULL, wait_cancelled},
    {"WatchEvents", &lodge__v1__watch_events_request__descriptor, &lodge__v1__vm_event__descriptor,
     TTRPC_SERVER_STREAM, watch_events, NULL, NULL, watch_cancelled},
    {"ReadConsole", &lodge__v1__read_console_request__descriptor,
     &lodge__v1__console_output__descriptor, TTRPC_SERVER_STREAM, pass_on, NULL, NULL,
     pass_on_cancelled},
    {"AttachConsole", &lodge__v1__console_input__descriptor, &lodge__v1__console_output__descriptor,
     TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM, pass_on, pass_on_data, pass_on_end,
     pass_on_cancelled},
    {"PauseVm", VMS(pause_vm), 0, pass_on, NULL, NULL, pass_on_cancelled},
    {"ResumeVm", VMS(resume_vm), 0, pass_on, NULL, NULL, pass_on_cancelled},
    {"ResizeVmDisk", VMS(resize_vm_disk), 0, pass_on, NULL, NULL, pass_on_cancelled},
    {"SetVmLink", VMS(set_vm_link), 0, pass_on, NULL, NULL, pass_on_cancelled},
    {"GetMetrics", VMS(get_metrics), 0, get_metrics, NULL, NULL, metrics_given_up},
    {"GetMetricsText", &lodge__v1__get_metrics_request__descriptor,
     &lodge__v1__get_metrics_text_response__descriptor, 0, get_metrics, NULL, NULL,
     metrics_given_up},
    {"GetDiskImageInfo", VMS(get_disk_image_info), 0, get_disk_image_info, NULL, NULL,
     storage_service_cancelled},
    {"ResizeDiskImage", VMS(resize_disk_image), 0, resize_disk_image, NULL, NULL,
     storage_service_cancelled},
    {"CheckDiskImage", VMS(check_disk_image), 0, check_disk_image, NULL, NULL,
     storage_service_cancelled},
};

static const struct ttrpc_method guests_methods[] = {
    GUESTS_METHODS(pass_to_guest, pass_on_data, pass_on_end, pass_on_cancelled),
};

static const struct ttrpc_service concierge = {"vm_tools.concierge.VmConcierge", concierge_methods,
					       ARRAY_LEN(concierge_methods)};
static const struct ttrpc_service vms = {"lodge.v1.Vms", vms_methods, ARRAY_LEN(vms_methods)};
static const struct ttrpc_service guests = {GUESTS_SERVICE, guests_methods,
					    ARRAY_LEN(guests_methods)};
static const struct ttrpc_service *const services[] = {&concierge, &vms, &guests, NULL};

/* ---- from start to end --------------------------------------------------------------------------
 */

static void serve_leave(void *ctx)
{
	loop_stop(((struct serve *)ctx)->loop);
}

static void serve_leave_late(struct loop_timer *t)
{
	serve_leave(container_of(t, struct serve, leave));
}

static void serve_progress(void *ctx)
{
	struct serve *s = ctx;
	Lodge__V1__StopAllVmsResponse r = LODGE__V1__STOP_ALL_VMS_RESPONSE__INIT;
	struct ttrpc_call *call;

	/* before, a StartVm could make a second VM of a name */
	if (!s->table.finding && !s->is_listening && !s->is_ending) {
		s->is_listening = true;
		ttrpc_server_listen(s->server, s->setup.listen_fd);
		if (s->setup.ready)
			s->setup.ready(s->setup.ctx);
	}
	if (vm_table_stopping(&s->table))
		return;
	while ((call = calls_pop(&s->stop_all)))
		ttrpc_call_reply(call, &r.base);
	if (!s->is_ending)
		return;
	events_end(&s->events);
	ttrpc_server_drain(s->server, serve_leave);
	loop_timer_arm(s->loop, &s->leave, loop_now_ns() + LEAVE_NS);
}

void serve_end(struct serve *s)
{
	unsigned timeout_ms = s->is_ending ? 0 : VM_STOP_TIMEOUT_MS;

	s->is_ending = true;
	for (struct serve_vm *vm = s->table.vms; vm && !s->setup.leave_vms; vm = vm->next)
		serve_vm_stop(vm, timeout_ms);
	serve_progress(s);
}

static void *admit(void *ctx, int fd)
{
	return access_admit(((struct serve *)ctx)->setup.access, fd);
}

static void leave(void *ctx, void *peer)
{
	(void)ctx;
	access_leave(peer);
}

static bool permit(void *ctx, const void *peer, const struct ttrpc_method *method,
		   const ProtobufCMessage *request, struct err *err)
{
	(void)ctx;
	return access_permits(peer, method, request, err);
}

static void vm_changed(void *ctx, const struct serve_vm *vm)
{
	events_publish(&((struct serve *)ctx)->events, vm->name, vm->state, vm->pid, NULL);
}

static void vm_gone(void *ctx, struct serve_vm *vm)
{
	struct ttrpc_call *call;

	while ((call = calls_pop(&vm->waiting)))
		vm_end_reply(call, &vm->end);
	events_publish(&((struct serve *)ctx)->events, vm->name,
		       VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_UNKNOWN, vm->pid, &vm->end);
}

static const struct vm_table_ops table_ops = {
    .changed = vm_changed, .gone = vm_gone, .progress = serve_progress};

int serve_new(const struct serve_setup *setup, struct serve **ret_serve, struct err *err)
{
	struct serve *s = calloc(1, sizeof(*s));
	struct ttrpc_server_config config = {.loop = setup->loop,
					     .services = services,
					     .ctx = s,
					     .admit = admit,
					     .leave = leave,
					     .permit = permit};
	int res = 0;

	if (!s) {
		loop_free(setup->loop);
		return err_set(err, ENOMEM, "out of memory");
	}
	s->setup = *setup;
	s->loop = setup->loop;
	s->began_ns = loop_now_ns();
	s->table = (struct vm_table){.loop = s->loop,
				     .ops = &table_ops,
				     .ctx = s,
				     .runtime_dir = setup->runtime_dir,
				     .component_root = setup->component_root,
				     .log_level = setup->log_level,
				     .sandbox = setup->sandbox};
	s->passes.table = &s->table;
	s->metrics.table = &s->table;
	s->lock_fd = -1;
	s->leave.fn = serve_leave_late;
	s->storage = (struct storage_service){
	    .bg = &s->bg, .storage = STORAGE_INIT, .users = add_users, .ctx = s};
	background_init(&s->bg, s->loop);
	if (setup->storage_root)
		res = storage_open(&s->storage.storage, setup->storage_root, err);
	if (!res)
		res = ttrpc_server_new(&config, &s->server, err);
	if (!res)
		res = serve_find(&s->table, &s->lock_fd, err);
	if (res) {
		serve_free(s);
		return res;
	}
	serve_progress(s);
	*ret_serve = s;
	return 0;
}

void serve_free(struct serve *s)
{
	struct ttrpc_call *call;

	ttrpc_server_close(s->server);
	if (!background_drain(&s->bg, DRAIN_MS)) {
		log_warn("control: a file system does not answer; ending without it");
		return;
	}
	while ((call = calls_pop(&s->stop_all)))
		ttrpc_call_fail(call, TTRPC_UNAVAILABLE, "the server ends");
	events_end(&s->events);
	vm_table_leave(&s->table);
	loop_free(s->loop);
	ttrpc_server_free(s->server);
	vm_table_free(&s->table);
	storage_close(&s->storage.storage);
	cleanup_fd(&s->lock_fd);
	free(s);
}
