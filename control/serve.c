/* The calls of `lodge serve`. See control/serve.h. */
#include "control/serve.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/serve_run.h"
#include "control/unix_socket.h"
#include "control/vm.h"
#include "proto/lodge.pb-c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* For files that hang. */
#define DRAIN_MS 3000
/* For clients that do not read their last answer. */
#define LEAVE_NS UINT64_C(1000000000)

/* ---- the concierge's calls ----------------------------------------------------------------------
 */

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
	vm = serve_vm_find(s, r->name);
	if (!vm && s->ending) {
		reply_start_failed(call, "the server is about to end");
	} else if (!vm && s->nvms >= SERVE_VMS_MAX) {
		reply_start_failed(call, "there are too many VMs; stop some first");
	} else if (!vm) {
		serve_vm_start(s, call, r);
	} else if (vm->state == VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STARTING ||
		   vm->failed.code) {
		calls_push(&vm->starting, call);
	} else if (vm->state == VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_RUNNING) {
		serve_vm_info(vm, &info);
		reply_started(call, &info);
	} else {
		err_set(&err, EBUSY, "the VM '%s' is about to end; try again then", r->name);
		reply_start_failed(call, err.msg);
	}
}

static void stop_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__StopVmRequest *r = (const VmTools__Concierge__StopVmRequest *)msg;
	unsigned timeout_ms = r->timeout_ms ? r->timeout_ms : VM_STOP_TIMEOUT_MS;
	struct serve_vm *vm = serve_vm_find(ctx, r->name);
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
	const struct serve_vm *vm = serve_vm_find(ctx, r->name);
	VmTools__Concierge__VmInfo info;

	if (vm)
		serve_vm_info(vm, &info);
	reply_info(call, vm ? &info : NULL);
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
	for (const struct serve_vm *vm = ((struct serve *)ctx)->vms; vm; vm = vm->next) {
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
	VmTools__Concierge__VmInfo *infos = calloc(s->nvms + 1, sizeof(*infos));
	VmTools__Concierge__VmInfo **list =
	    calloc(s->nvms + 1, sizeof(VmTools__Concierge__VmInfo *));

	(void)msg;
	if (!infos || !list) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
	} else {
		for (const struct serve_vm *vm = s->vms; vm; vm = vm->next) {
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
	struct serve *s = ctx;

	(void)msg;
	calls_push(&s->stop_all, call);
	for (struct serve_vm *vm = s->vms; vm; vm = vm->next)
		serve_vm_stop(vm, VM_STOP_TIMEOUT_MS);
	serve_progress(s);
}

#define TYPES(name)                                         \
	&vm_tools__concierge__##name##_request__descriptor, \
	    &vm_tools__concierge__##name##_response__descriptor

static const struct ttrpc_method concierge_methods[] = {
    {"StartVm", TYPES(start_vm), 0, start_vm, NULL, NULL, NULL},
    {"StopVm", TYPES(stop_vm), 0, stop_vm, NULL, NULL, NULL},
    {"GetVmInfo", TYPES(get_vm_info), 0, get_vm_info, NULL, NULL, NULL},
    {"CreateDiskImage", TYPES(create_disk_image), 0, create_disk_image, NULL, NULL, NULL},
    {"DestroyDiskImage", TYPES(destroy_disk_image), 0, destroy_disk_image, NULL, NULL, NULL},
};

static const struct ttrpc_method vms_methods[] = {
    {"ListVms", &lodge__v1__list_vms_request__descriptor, &lodge__v1__list_vms_response__descriptor,
     0, list_vms, NULL, NULL, NULL},
    {"StopAllVms", &lodge__v1__stop_all_vms_request__descriptor,
     &lodge__v1__stop_all_vms_response__descriptor, 0, stop_all_vms, NULL, NULL, NULL},
};

static const struct ttrpc_service concierge = {"vm_tools.concierge.VmConcierge", concierge_methods,
					       ARRAY_LEN(concierge_methods)};
static const struct ttrpc_service vms = {"lodge.v1.Vms", vms_methods, ARRAY_LEN(vms_methods)};
static const struct ttrpc_service *const services[] = {&concierge, &vms, NULL};

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

/* Does any VM still climb down? One that the kernel does not end is not waited for. */
static bool stopping(const struct serve *s)
{
	for (const struct serve_vm *vm = s->vms; vm; vm = vm->next) {
		if (vm->ladder != LADDER_NONE && vm->ladder != LADDER_STUCK)
			return true;
	}
	return false;
}

void serve_progress(struct serve *s)
{
	Lodge__V1__StopAllVmsResponse r = LODGE__V1__STOP_ALL_VMS_RESPONSE__INIT;
	struct ttrpc_call *call;

	/* before, a StartVm could make a second VM of a name */
	if (!s->finding && s->listen_fd >= 0 && !s->ending) {
		ttrpc_server_listen(s->server, s->listen_fd);
		s->listen_fd = -1;
	}
	if (stopping(s))
		return;
	while ((call = calls_pop(&s->stop_all)))
		ttrpc_call_reply(call, &r.base);
	if (!s->ending)
		return;
	ttrpc_server_drain(s->server, serve_leave);
	loop_timer_arm(s->loop, &s->leave, loop_now_ns() + LEAVE_NS);
}

void serve_end(struct serve *s)
{
	unsigned timeout_ms = s->ending ? 0 : VM_STOP_TIMEOUT_MS;

	s->ending = true;
	for (struct serve_vm *vm = s->vms; vm && !s->leave_vms; vm = vm->next)
		serve_vm_stop(vm, timeout_ms);
	serve_progress(s);
}

static bool admit(void *ctx, int fd)
{
	(void)ctx;
	return unix_peer_allowed(fd);
}

int serve_new(const struct serve_setup *setup, struct serve **ret_serve, struct err *err)
{
	struct serve *s = calloc(1, sizeof(*s));
	struct ttrpc_server_config config = {
	    .loop = setup->loop, .services = services, .ctx = s, .admit = admit};
	int res = 0;

	if (!s) {
		loop_free(setup->loop);
		return err_set(err, ENOMEM, "out of memory");
	}
	s->loop = setup->loop;
	s->runtime_dir = setup->runtime_dir;
	s->log_level = setup->log_level;
	s->sandbox = setup->sandbox;
	s->leave_vms = setup->leave_vms;
	s->listen_fd = setup->listen_fd;
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
		res = serve_find(s, err);
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
	for (struct serve_vm *vm = s->vms, *next; vm; vm = next) {
		next = vm->next;
		serve_vm_leave(vm);
	}
	loop_free(s->loop);
	ttrpc_server_free(s->server);
	while (s->vms)
		serve_vm_free(s->vms);
	storage_close(&s->storage.storage);
	cleanup_fd(&s->lock_fd);
	free(s);
}
