/* What the three services of `lodge vmm` share. For vmm_*.c only. Threads: the loop's. */
#ifndef CONTROL_VM_VMM_SERVICE_PRIV_H
#define CONTROL_VM_VMM_SERVICE_PRIV_H

#include "control/vm/vmm_service.h"

/* vmm_vms.c */
extern const struct ttrpc_service vmm_vms_service;

/* vmm_guests.c */
extern const struct ttrpc_service vmm_guests_service;
void vmm_guests_init(struct vmm_service *s);
/* For vm_callbacks. */
void vmm_guest_leaving(void *ctx);

/* vmm_vms.c: `paused` of vm_callbacks, and the end of calls that wait for it, with why. */
void vmm_paused(void *ctx);
void vmm_refuse_pause(struct vmm_service *s, const char *why);

/* vmm_link.c: the method SetVmLink */
void vmm_set_link(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg);

/* vmm_disk.c: the method ResizeVmDisk */
void vmm_resize_disk(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *msg);

/* Is there a VM, and is this its name? */
bool vmm_exists(const struct vmm_service *s);
bool vmm_is_mine(const struct vmm_service *s, const char *name);

VmTools__Concierge__VmState vmm_wire_state(const struct vmm_service *s);

/* Fills a VmInfo that borrows its strings; `paths` has room for every disk. */
void vmm_fill_info(const struct vmm_service *s, VmTools__Concierge__VmInfo *info,
		   char *paths[MACHINE_DISKS_MAX]);

/* From the start of a VM on, this process opens no more files: then `err` says so. */
bool vmm_locked_in(const struct vmm_service *s, struct err *err);

/* As vm_stop(). There is a VM. */
void vmm_stop(struct vmm_service *s, unsigned timeout_ms);

/* The VM's state has changed. */
void vmm_say_state(struct vmm_service *s);

/* From the start of a VM on, this process is to open no more files. True with the reason. */
bool vmm_locked_in(const struct vmm_service *s, struct err *err);

#endif
