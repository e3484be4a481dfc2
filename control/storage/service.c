/* The calls for disk images. See control/storage/service.h. */
#include "control/storage/service.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/access/access.h"
#include "proto/lodge.pb-c.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct storage_job {
	struct background_job job;
	struct storage_service *service;
	struct ttrpc_call *call;
	const ProtobufCMessage *request; /* the call's */
	bool has_identity;
	struct identity identity; /* whose rights change the image */
	struct storage_users users;
	struct storage_result result; /* of create and destroy; of the others: */
	struct storage_info info;
	uint64_t old_bytes;
	struct qcow2_check_result checked;
	struct err err;
	_Atomic bool is_cancelled; /* nobody waits: what can be stopped is */
};

static const struct identity *identity_of(const struct storage_job *j)
{
	return j->has_identity ? &j->identity : NULL;
}

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
	identity_fini(&j->identity);
	free(j);
}

/* NULL: the call has been answered. */
static struct storage_job *storage_job_new(struct storage_service *service, struct ttrpc_call *call,
					   const ProtobufCMessage *request)
{
	const struct identity *identity = access_identity(call);
	struct storage_job *j = calloc(1, sizeof(*j));

	if (j && (!identity || !identity_copy(identity, &j->identity))) {
		j->has_identity = identity != NULL;
		service->users(service->ctx, &j->users);
		if (!j->users.failed) {
			j->service = service;
			j->call = call;
			j->request = request;
			ttrpc_call_set_user(call, j);
			return j;
		}
	}
	if (j)
		storage_job_free(j);
	ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
	return NULL;
}

static void storage_job_run(struct storage_service *service, struct ttrpc_call *call,
			    const ProtobufCMessage *request,
			    void (*work)(struct background_job *job),
			    void (*done)(struct background_job *job))
{
	struct storage_job *j = storage_job_new(service, call, request);

	if (!j)
		return;
	j->job.work = work;
	j->job.done = done;
	background_run(service->bg, &j->job);
}

void storage_service_cancelled(void *ctx, struct ttrpc_call *call)
{
	struct storage_job *j = ttrpc_call_user(call);

	(void)ctx;
	j->is_cancelled = true;
}

/* ---- creating and destroying --------------------------------------------------------------------
 */

static void create_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);

	storage_create(&j->service->storage,
		       (const VmTools__Concierge__CreateDiskImageRequest *)j->request,
		       identity_of(j), &j->result);
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
	storage_job_run(service, call, request, create_work, create_done);
}

static void destroy_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);

	storage_destroy(&j->service->storage,
			(const VmTools__Concierge__DestroyDiskImageRequest *)j->request,
			identity_of(j), j->users.users, j->users.n, &j->result);
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
	storage_job_run(service, call, request, destroy_work, destroy_done);
}

/* ---- images that are there ----------------------------------------------------------------------
 */

static enum ttrpc_code code_of(int code)
{
	switch (code) {
	case ENOENT:
		return TTRPC_NOT_FOUND;
	case EBUSY:
	case EAGAIN:
	case ENOTSUP:
		return TTRPC_FAILED_PRECONDITION;
	case EACCES:
	case EPERM:
		return TTRPC_PERMISSION_DENIED;
	case EINVAL:
	case ELOOP:
	case ENAMETOOLONG:
		return TTRPC_INVALID_ARGUMENT;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
	case ENOMEM:
		return TTRPC_RESOURCE_EXHAUSTED;
	case ECANCELED:
		return TTRPC_CANCELLED;
	default:
		return TTRPC_INTERNAL;
	}
}

static void answer(struct storage_job *j, const ProtobufCMessage *reply)
{
	if (j->err.code)
		ttrpc_call_fail(j->call, code_of(j->err.code), "%s", j->err.msg);
	else
		ttrpc_call_reply(j->call, reply);
	storage_job_free(j);
}

/* The three requests begin with the same fields. */
#define NAME_OF(r)                                                                         \
	(struct storage_name)                                                              \
	{                                                                                  \
		.id = (r)->cryptohome_id, .disk_path = (r)->disk_path,                     \
		.location = (int)(r)->storage_location, .image_type = (int)(r)->image_type \
	}

static void info_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	const Lodge__V1__GetDiskImageInfoRequest *r =
	    (const Lodge__V1__GetDiskImageInfoRequest *)j->request;

	storage_info(&j->service->storage, &NAME_OF(r), j->users.users, j->users.n, &j->info,
		     &j->err);
}

static void info_done(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	Lodge__V1__GetDiskImageInfoResponse r = LODGE__V1__GET_DISK_IMAGE_INFO_RESPONSE__INIT;

	pb_text_clean(j->info.path);
	r.path = j->info.path;
	r.size_bytes = j->info.size_bytes;
	r.allocated_bytes = j->info.allocated_bytes;
	r.in_use = j->info.in_use;
	answer(j, &r.base);
}

void storage_service_info(struct storage_service *service, struct ttrpc_call *call,
			  const ProtobufCMessage *request)
{
	storage_job_run(service, call, request, info_work, info_done);
}

static void resize_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	const Lodge__V1__ResizeDiskImageRequest *r =
	    (const Lodge__V1__ResizeDiskImageRequest *)j->request;

	storage_resize(&j->service->storage, &NAME_OF(r), identity_of(j), j->users.users,
		       j->users.n, r->size_bytes, r->shrink, &j->old_bytes, &j->err);
}

static void resize_done(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	Lodge__V1__ResizeDiskImageResponse r = LODGE__V1__RESIZE_DISK_IMAGE_RESPONSE__INIT;

	r.old_size_bytes = j->old_bytes;
	answer(j, &r.base);
}

void storage_service_resize(struct storage_service *service, struct ttrpc_call *call,
			    const ProtobufCMessage *request)
{
	storage_job_run(service, call, request, resize_work, resize_done);
}

static bool check_goes_on(void *ctx, uint64_t done, uint64_t total)
{
	const struct storage_job *j = ctx;

	(void)done;
	(void)total;
	return !j->is_cancelled;
}

static void check_work(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	const Lodge__V1__CheckDiskImageRequest *r =
	    (const Lodge__V1__CheckDiskImageRequest *)j->request;
	const struct qcow2_check_ops ops = {.progress = check_goes_on, .ctx = j};

	storage_check(&j->service->storage, &NAME_OF(r), identity_of(j), j->users.users, j->users.n,
		      r->repair, &ops, &j->checked, &j->err);
}

static void check_done(struct background_job *job)
{
	struct storage_job *j = container_of(job, struct storage_job, job);
	Lodge__V1__CheckDiskImageResponse r = LODGE__V1__CHECK_DISK_IMAGE_RESPONSE__INIT;

	r.corruptions = j->checked.corruptions;
	r.leaks = j->checked.leaks;
	r.corruptions_fixed = j->checked.corruptions_fixed;
	r.leaks_fixed = j->checked.leaks_fixed;
	r.clusters = j->checked.total_clusters;
	r.allocated_clusters = j->checked.allocated_clusters;
	answer(j, &r.base);
}

void storage_service_check(struct storage_service *service, struct ttrpc_call *call,
			   const ProtobufCMessage *request)
{
	storage_job_run(service, call, request, check_work, check_done);
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
