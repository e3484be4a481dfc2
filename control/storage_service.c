/* The calls for disk images. See control/storage_service.h. */
#include "control/storage_service.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <stdlib.h>
#include <string.h>

struct storage_job {
	struct background_job job;
	struct storage_service *service;
	struct ttrpc_call *call;
	const ProtobufCMessage *request; /* the call's */
	struct storage_users users;
	struct storage_result result;
};

void storage_users_add(struct storage_users *u, const char *vm, const char *path)
{
	struct storage_user *grown = realloc(u->users, (u->n + 1) * sizeof(*grown));
	char *name = strdup(vm), *file = strdup(path);

	if (grown)
		u->users = grown;
	if (!grown || !name || !file) {
		free(name);
		free(file);
		u->failed = true;
		return;
	}
	u->users[u->n++] = (struct storage_user){.vm = name, .path = file};
}

/* The strings are this list's own, though others only read them. */
static void free_text(const char *text)
{
	union {
		const char *in;
		char *out;
	} u = {.in = text};

	free(u.out);
}

static void storage_job_free(struct storage_job *j)
{
	for (size_t i = 0; i < j->users.n; i++) {
		free_text(j->users.users[i].vm);
		free_text(j->users.users[i].path);
	}
	free(j->users.users);
	free(j);
}

/* NULL: the call has been answered. */
static struct storage_job *storage_job_new(struct storage_service *service, struct ttrpc_call *call,
					   const ProtobufCMessage *request)
{
	struct storage_job *j = calloc(1, sizeof(*j));

	if (!j) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	j->service = service;
	j->call = call;
	j->request = request;
	return j;
}

static void create_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);

	storage_create(&j->service->storage,
		       (const VmTools__Concierge__CreateDiskImageRequest *)j->request, &j->result);
}

static void create_done(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	VmTools__Concierge__CreateDiskImageResponse r =
	    VM_TOOLS__CONCIERGE__CREATE_DISK_IMAGE_RESPONSE__INIT;

	r.status = j->result.status;
	if (j->result.err.code) {
		pb_text_clean(j->result.err.msg);
		r.failure_reason = j->result.err.msg;
	} else {
		pb_text_clean(j->result.path);
		r.disk_path = j->result.path;
	}
	ttrpc_call_reply(j->call, &r.base);
	storage_job_free(j);
}

void storage_service_create(struct storage_service *service, struct ttrpc_call *call,
			    const ProtobufCMessage *request)
{
	struct storage_job *j = storage_job_new(service, call, request);

	if (!j)
		return;
	j->job.work = create_work;
	j->job.done = create_done;
	background_run(service->bg, &j->job);
}

static void destroy_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);

	storage_destroy(&j->service->storage,
			(const VmTools__Concierge__DestroyDiskImageRequest *)j->request,
			j->users.users, j->users.n, &j->result);
}

static void destroy_done(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	VmTools__Concierge__DestroyDiskImageResponse r =
	    VM_TOOLS__CONCIERGE__DESTROY_DISK_IMAGE_RESPONSE__INIT;

	r.status = j->result.status;
	if (j->result.err.code) {
		pb_text_clean(j->result.err.msg);
		r.failure_reason = j->result.err.msg;
	}
	ttrpc_call_reply(j->call, &r.base);
	storage_job_free(j);
}

void storage_service_destroy(struct storage_service *service, struct ttrpc_call *call,
			     const ProtobufCMessage *request)
{
	struct storage_job *j = storage_job_new(service, call, request);

	if (!j)
		return;
	service->users(service->ctx, &j->users);
	if (j->users.failed) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
		storage_job_free(j);
		return;
	}
	j->job.work = destroy_work;
	j->job.done = destroy_done;
	background_run(service->bg, &j->job);
}

/* The message only borrows the text. */
static char *borrow(const char *text)
{
	char *borrowed;

	memcpy(&borrowed, &text, sizeof(borrowed));
	return borrowed;
}

void storage_service_refuse_create(struct ttrpc_call *call, const char *reason)
{
	VmTools__Concierge__CreateDiskImageResponse r =
	    VM_TOOLS__CONCIERGE__CREATE_DISK_IMAGE_RESPONSE__INIT;

	r.status = VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_FAILED;
	r.failure_reason = borrow(reason);
	ttrpc_call_reply(call, &r.base);
}

void storage_service_refuse_destroy(struct ttrpc_call *call, const char *reason)
{
	VmTools__Concierge__DestroyDiskImageResponse r =
	    VM_TOOLS__CONCIERGE__DESTROY_DISK_IMAGE_RESPONSE__INIT;

	r.status = VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_FAILED;
	r.failure_reason = borrow(reason);
	ttrpc_call_reply(call, &r.base);
}
