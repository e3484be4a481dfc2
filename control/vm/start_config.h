/*
 * A StartVmRequest, checked, as a machine_config: the same that `lodge run` fills.
 *
 * Looks at the files that are named, so it can take as long as their file system does: not for the
 * thread of a loop.
 */
#ifndef CONTROL_VM_START_CONFIG_H
#define CONTROL_VM_START_CONFIG_H

#include "base/err.h"
#include "proto/vm_concierge.pb-c.h"
#include "vmm/config.h"

#define VM_NAME_MAX  64
#define VM_CPUS_MAX  MACHINE_CPUS_MAX
#define VM_DISKS_MAX (MACHINE_DISKS_MAX - 1) /* beside the rootfs */

/* Is this the name of a VM? -EINVAL. Looks at no file. */
int start_config_check_name(const char *name, struct err *err);

/*
 * Fills `config`, which machine_config_init() has prepared and the caller ends, also on failure.
 * Checks come in the order in which clients know them; the message is the failure_reason.
 * `vsock_socket`: of the built-in vsock device; NULL: none. `component_root`: where the kernel and
 * the root of a start_termina are.
 */
int start_config(const VmTools__Concierge__StartVmRequest *request, const char *vsock_socket,
		 const char *component_root, struct machine_config *config, struct err *err);

#endif
