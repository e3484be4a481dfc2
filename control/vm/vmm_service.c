/* The calls of `lodge vmm`. See control/vm/vmm_service.h. */
#include "control/vm/vmm_service_priv.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/vm/start_config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* For those who wait for the end of the VM to read their answer. */
#define LEAVE_NS UINT64_C(1000000000)
/* For files that hang. */
#define DRAIN_MS 3000

/* ---- what is known of the VM --------------------------------------------------------------------
 */

VmTools__Concierge__VmState vmm_wire_state(const struct vmm_service *s)
{
	static const VmTools__Concierge__VmState states[] = {
	    [VM_IDLE] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_UNKNOWN,
	    [VM_STARTING] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STARTING,
	    [VM_BOOTING] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STARTING,
	    [VM_RUNNING] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_RUNNING,
	    [VM_PAUSED] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_PAUSED,
	    [VM_STOPPING] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STOPPING,
	    [VM_ENDED] = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_UNKNOWN,
	};

	return states[vm_state(s->vm)];
}

void vmm_fill_info(const struct vmm_service *s, VmTools__Concierge__VmInfo *info,
		   char *paths[MACHINE_DISKS_MAX])
{
	const struct machine_config *config = vm_config(s->vm);

	vm_tools__concierge__vm_info__init(info);
	info->pid = getpid();
	info->state = vmm_wire_state(s);
	info->name = s->name;
	if (vm_state(s->vm) == VM_STARTING) /* the config is another thread's */
		return;
	info->cid = vm_cid(s->vm);
	info->agent_ready = vm_guest(s->vm)->state == GUEST_THERE;
	info->cpus = config->cpus;
	info->memory_bytes = config->memory_bytes;
	if (config->nnets)
		info->ipv4_address = htonl(config->nets[0].addresses.guest);
	if (*s->container_subnet) {
		const char *text = s->container_subnet;

		memcpy(&info->container_subnet, &text, sizeof(text));
	}
	for (unsigned i = 0; i < config->ndisks; i++)
		memcpy(&paths[i], &config->disks[i].image.path, sizeof(paths[i]));
	info->disk_paths = paths;
	info->n_disk_paths = config->ndisks;
}

bool vmm_exists(const struct vmm_service *s)
{
	enum vm_state state = vm_state(s->vm);

	return state != VM_IDLE && state != VM_ENDED && s->name;
}

bool vmm_is_mine(const struct vmm_service *s, const char *name)
{
	return vmm_exists(s) && !strcmp(s->name, name);
}

static void add_users(void *ctx, struct storage_users *users)
{
	struct vmm_service *s = ctx;
	const struct machine_config *config = vm_config(s->vm);

	if (vm_state(s->vm) == VM_STARTING || !vmm_exists(s))
		return;
	for (unsigned i = 0; i < config->ndisks; i++)
		storage_users_add(users, s->name, config->disks[i].image.path);
}

void vmm_say_state(struct vmm_service *s)
{
	events_publish(&s->events, s->name, vmm_wire_state(s), getpid(), NULL);
}

static void say_end(struct vmm_service *s)
{
	struct ttrpc_call *call;

	while ((call = calls_pop(&s->waiting)))
		vm_end_reply(call, &s->end);
	events_publish(&s->events, s->name, VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_UNKNOWN,
		       getpid(), &s->end);
}

/* ---- StartVm ------------------------------------------------------------------------------------
 */

static void reply_running(struct vmm_service *s, struct ttrpc_call *call)
{
	VmTools__Concierge__VmInfo info;
	char *paths[MACHINE_DISKS_MAX];

	vmm_fill_info(s, &info, paths);
	reply_started(call, &info);
}

/* Of the first interface that has one. */
static void name_containers(struct vmm_service *s)
{
	const struct machine_config *config = vm_config(s->vm);

	s->container_subnet[0] = '\0';
	for (unsigned i = 0; i < config->nnets && !*s->container_subnet; i++) {
		const uint32_t a = config->nets[i].addresses.containers;

		if (a)
			snprintf(s->container_subnet, sizeof(s->container_subnet), "%u.%u.%u.%u/%d",
				 a >> 24, a >> 16 & 0xff, a >> 8 & 0xff, a & 0xff,
				 NET_CONTAINERS_PREFIX);
	}
}

static void vmm_booting(void *ctx)
{
	struct vmm_service *s = ctx;

	s->booted = true;
	name_containers(s);
	vm_console_connect(s->console, machine_uart(vm_machine(s->vm)));
}

static void vmm_started(void *ctx, const struct err *err)
{
	struct vmm_service *s = ctx;
	Lodge__V1__StopAllVmsResponse none = LODGE__V1__STOP_ALL_VMS_RESPONSE__INIT;
	struct ttrpc_call *call;

	calls_push(&s->starting, s->first);
	s->first = NULL;
	while ((call = calls_pop(&s->starting))) {
		if (err->code)
			reply_start_failed(call, err->msg);
		else
			reply_running(s, call);
	}
	if (!err->code) {
		vmm_say_state(s);
	} else {
		vm_console_connect(s->console, NULL);
		vm_console_end(s->console);
		vm_end_failed(&s->end, LODGE__V1__VM_END__VM_END_START_FAILED, err->msg);
		say_end(s);
		while ((call = calls_pop(&s->stopping)))
			reply_stop(call, NULL);
		while ((call = calls_pop(&s->stopping_all)))
			ttrpc_call_reply(call, &none.base);
		s->stop_called = false;
		free(steal_ptr(&s->name));
		if (s->asked)
			loop_stop(s->loop);
	}
}

/* Whatever opens files is over before this process is locked in, and does not begin after. */
static int cannot_start(const struct vmm_service *s, struct err *err)
{
	if (sandbox_entered(s->sandbox))
		return err_set(err, EPERM,
			       "this process locked itself in for an earlier start that failed; "
			       "start the VM in another one");
	if (s->sandbox->on && (s->bg.running || s->bg.waiting))
		return err_set(err, EBUSY,
			       "this process is making or removing a disk image; start the VM when "
			       "that is done");
	return 0;
}

static void start_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__StartVmRequest *r =
	    (const VmTools__Concierge__StartVmRequest *)msg;
	const struct identity *identity = access_identity(call);
	struct vmm_service *s = ctx;
	struct err err = ERR_INIT;

	if (start_config_check_name(r->name, &err)) {
		reply_start_failed(call, err.msg);
		return;
	}
	switch (vm_state(s->vm)) {
	case VM_IDLE:
		if (cannot_start(s, &err)) {
			reply_start_failed(call, err.msg);
			return;
		}
		s->name = strdup(r->name);
		if (!s->name) {
			reply_start_failed(call, "out of memory");
			return;
		}
		s->first = call;
		vm_console_begin(s->console);
		vm_start(s->vm, r, identity ? identity : s->files_of);
		vmm_say_state(s);
		return;
	case VM_STARTING:
	case VM_BOOTING:
		if (!vmm_is_mine(s, r->name))
			break;
		calls_push(&s->starting, call);
		return;
	case VM_RUNNING:
	case VM_PAUSED:
		if (!vmm_is_mine(s, r->name))
			break;
		reply_running(s, call);
		return;
	case VM_STOPPING:
	case VM_ENDED:
		reply_start_failed(call, "the VM of this process is about to end; try again then");
		return;
	}
	err_set(&err, EBUSY, "this process is the VM '%s'; each VM has a process of its own",
		s->name);
	reply_start_failed(call, err.msg);
}

static void start_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct vmm_service *)ctx)->starting, call);
}

/* ---- the other calls ----------------------------------------------------------------------------
 */

static void get_vm_info(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__GetVmInfoRequest *r =
	    (const VmTools__Concierge__GetVmInfoRequest *)msg;
	struct vmm_service *s = ctx;
	VmTools__Concierge__VmInfo info;
	char *paths[MACHINE_DISKS_MAX];

	if (!vmm_is_mine(s, r->name)) {
		reply_info(call, NULL);
		return;
	}
	vmm_fill_info(s, &info, paths);
	reply_info(call, &info);
}

void vmm_stop(struct vmm_service *s, unsigned timeout_ms)
{
	enum vm_state before = vm_state(s->vm);

	vm_stop(s->vm, timeout_ms);
	vmm_refuse_pause(s, "is being stopped");
	if (vm_state(s->vm) != before)
		vmm_say_state(s);
}

static void stop_vm(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__StopVmRequest *r = (const VmTools__Concierge__StopVmRequest *)msg;
	struct vmm_service *s = ctx;
	unsigned timeout_ms = r->timeout_ms ? r->timeout_ms : VM_STOP_TIMEOUT_MS;
	struct err err = ERR_INIT;

	if (!vmm_is_mine(s, r->name)) {
		err_set(&err, ENOENT, "there is no VM '%s'", r->name);
		reply_stop(call, err.msg);
		return;
	}
	calls_push(&s->stopping, call);
	s->stop_called = true;
	vmm_stop(s, r->force ? 0 : timeout_ms);
}

static void stop_cancelled(void *ctx, struct ttrpc_call *call)
{
	calls_cancelled(&((struct vmm_service *)ctx)->stopping, call);
}

bool vmm_locked_in(const struct vmm_service *s, struct err *err)
{
	if (!s->sandbox->on || (vm_state(s->vm) == VM_IDLE && !sandbox_entered(s->sandbox)))
		return false;
	err_set(err, EPERM,
		"this process is locked in for the VM '%s' and opens no more files; ask lodge "
		"serve, or a lodge vmm that is idle",
		s->name ? s->name : "");
	return true;
}

static void create_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;
	struct err err = ERR_INIT;

	if (vmm_locked_in(s, &err))
		storage_service_refuse_create(call, err.msg);
	else
		storage_service_create(&s->storage, call, msg);
}

static void destroy_disk_image(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct vmm_service *s = ctx;
	struct err err = ERR_INIT;

	if (vmm_locked_in(s, &err))
		storage_service_refuse_destroy(call, err.msg);
	else
		storage_service_destroy(&s->storage, call, msg);
}

#define TYPES(name)                                         \
	&vm_tools__concierge__##name##_request__descriptor, \
	    &vm_tools__concierge__##name##_response__descriptor

static const struct ttrpc_method concierge_methods[] = {
    {"StartVm", TYPES(start_vm), 0, start_vm, NULL, NULL, start_cancelled},
    {"StopVm", TYPES(stop_vm), 0, stop_vm, NULL, NULL, stop_cancelled},
    {"GetVmInfo", TYPES(get_vm_info), 0, get_vm_info, NULL, NULL, NULL},
    {"CreateDiskImage", TYPES(create_disk_image), 0, create_disk_image, NULL, NULL,
     storage_service_cancelled},
    {"DestroyDiskImage", TYPES(destroy_disk_image), 0, destroy_disk_image, NULL, NULL,
     storage_service_cancelled},
};

static const struct ttrpc_service concierge = {"vm_tools.concierge.VmConcierge", concierge_methods,
					       ARRAY_LEN(concierge_methods)};
static const struct ttrpc_service *const services[] = {&concierge, &vmm_vms_service,
						       &vmm_guests_service, NULL};

/* ---- the end ------------------------------------------------------------------------------------
 */

static void vmm_leave(void *ctx)
{
	loop_stop(((struct vmm_service *)ctx)->loop);
}

static void vmm_leave_late(struct loop_timer *t)
{
	vmm_leave(container_of(t, struct vmm_service, leave));
}

static void vmm_ended(void *ctx, enum machine_event event, const char *reason)
{
	struct vmm_service *s = ctx;
	Lodge__V1__StopAllVmsResponse none = LODGE__V1__STOP_ALL_VMS_RESPONSE__INIT;
	struct ttrpc_call *call;

	vm_console_connect(s->console, NULL);
	vm_console_end(s->console);
	s->ended = true;
	s->asked = s->asked || s->stop_called;
	vm_end_of_machine(&s->end, event, s->asked, reason);
	say_end(s);
	vmm_refuse_pause(s, "has ended");
	while ((call = calls_pop(&s->stopping)))
		reply_stop(call, NULL);
	while ((call = calls_pop(&s->stopping_all)))
		ttrpc_call_reply(call, &none.base);
	events_end(&s->events);
	ttrpc_server_drain(s->server, vmm_leave);
	s->leave.fn = vmm_leave_late;
	loop_timer_arm(s->loop, &s->leave, loop_now_ns() + LEAVE_NS);
}

void vmm_service_stop(struct vmm_service *s)
{
	switch (vm_state(s->vm)) {
	case VM_STARTING:
	case VM_BOOTING:
	case VM_RUNNING:
	case VM_PAUSED:
	case VM_STOPPING:
		vmm_stop(s, s->asked ? 0 : VM_STOP_TIMEOUT_MS);
		break;
	case VM_IDLE:
	case VM_ENDED:
		loop_stop(s->loop);
		break;
	}
	s->asked = true;
}

static void vmm_idle(struct loop_timer *t)
{
	struct vmm_service *s = container_of(t, struct vmm_service, idle);

	if (vm_state(s->vm) == VM_IDLE)
		loop_stop(s->loop);
}

void vmm_service_idle_timeout(struct vmm_service *s, unsigned seconds)
{
	s->idle.fn = vmm_idle;
	if (seconds)
		loop_timer_arm(s->loop, &s->idle, loop_now_ns() + seconds * UINT64_C(1000000000));
}

/* ---- life ---------------------------------------------------------------------------------------
 */

static void *admit(void *ctx, int fd)
{
	return access_admit(((struct vmm_service *)ctx)->access, fd);
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

int vmm_service_new(const struct vmm_setup *setup, struct vmm_service **ret_service,
		    struct err *err)
{
	struct vmm_service *s = calloc(1, sizeof(*s));
	struct vm_callbacks callbacks = {.booting = vmm_booting,
					 .guest_leaving = vmm_guest_leaving,
					 .started = vmm_started,
					 .paused = vmm_paused,
					 .ended = vmm_ended,
					 .ctx = s};
	struct loop *loop = setup->loop;
	struct ttrpc_server_config config = {.loop = loop,
					     .services = services,
					     .ctx = s,
					     .admit = admit,
					     .leave = leave,
					     .permit = permit};
	int res;

	if (!s) {
		loop_free(loop);
		return err_set(err, ENOMEM, "out of memory");
	}
	s->loop = loop;
	s->access = setup->access;
	s->files_of = setup->files_of;
	s->sandbox = setup->sandbox;
	s->began_ns = loop_now_ns();
	s->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	s->storage = (struct storage_service){
	    .bg = &s->bg, .storage = STORAGE_INIT, .users = add_users, .ctx = s};
	background_init(&s->bg, loop);
	res = vm_console_new(loop, &s->console);
	if (!res)
		res = vm_new(&(struct vm_setup){.loop = loop,
						.bg = &s->bg,
						.sandbox = s->sandbox,
						.console = vm_console_sink(s->console),
						.vsock_socket = setup->vsock_socket,
						.component_root = setup->component_root},
			     &callbacks, &s->vm);
	if (res)
		err_set(err, ENOMEM, "out of memory");
	else
		vmm_guests_init(s);
	if (!res && setup->storage_root)
		res = storage_open(&s->storage.storage, setup->storage_root, err);
	if (!res)
		res = ttrpc_server_new(&config, &s->server, err);
	if (res) {
		vmm_service_free(s);
		return res;
	}
	*ret_service = s;
	return 0;
}

void vmm_service_free(struct vmm_service *s)
{
	ttrpc_server_close(s->server);
	if (s->vm)
		vm_stop(s->vm, 0);
	/* what cannot be ended is left to the end of the process */
	if (!background_drain(&s->bg, DRAIN_MS)) {
		log_warn("control: a file system does not answer; ending without it");
		return;
	}
	if (s->vm && vm_state(s->vm) != VM_IDLE && vm_state(s->vm) != VM_ENDED)
		return; /* the loop has failed */
	loop_free(s->loop);
	ttrpc_server_free(s->server);
	vm_free(s->vm);
	vm_console_free(s->console);
	cleanup_fd(&s->statm_fd);
	storage_close(&s->storage.storage);
	free(s->name);
	free(s);
}
