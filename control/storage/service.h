/*
 * The calls for disk images, as `lodge vmm` and `lodge serve` answer them: in the background.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_STORAGE_SERVICE_H
#define CONTROL_STORAGE_SERVICE_H

#include "control/background.h"
#include "control/storage/storage.h"
#include "control/ttrpc/server.h"

/* The disks of VMs, as copies. Zeroed: none. */
struct storage_users {
	struct storage_user *users;
	size_t n;
	bool failed; /* out of memory */
};

void storage_users_add(struct storage_users *users, const char *vm, const char *path);

struct storage_service {
	struct background *bg;
	struct storage storage;
	/* Adds every disk of every VM. */
	void (*users)(void *ctx, struct storage_users *users);
	void *ctx;
};

void storage_service_create(struct storage_service *service, struct ttrpc_call *call,
			    const ProtobufCMessage *request);
void storage_service_destroy(struct storage_service *service, struct ttrpc_call *call,
			     const ProtobufCMessage *request);
void storage_service_info(struct storage_service *service, struct ttrpc_call *call,
			  const ProtobufCMessage *request);
void storage_service_resize(struct storage_service *service, struct ttrpc_call *call,
			    const ProtobufCMessage *request);
void storage_service_check(struct storage_service *service, struct ttrpc_call *call,
			   const ProtobufCMessage *request);

/* The `cancelled` of all these. */
void storage_service_cancelled(void *ctx, struct ttrpc_call *call);

/* Answers that it failed. */
void storage_service_refuse_create(struct ttrpc_call *call, const char *reason);
void storage_service_refuse_destroy(struct ttrpc_call *call, const char *reason);

#endif
