/*
 * What locks the process of a VM in (control/sandbox/sandbox.h).
 */
#include "control/sandbox/sandbox.h"
#include "control/doctor/check.h"

static void doctor_seccomp(struct doctor *doctor)
{
	struct doctor_item *item = doctor_add(doctor, "seccomp");

	item->needed = true;
	if (sandbox_has_seccomp()) {
		doctor_found(item, "system calls of a VM's process are filtered");
		return;
	}
	doctor_found(item, "not in this kernel");
	doctor_cure(item, DOCTOR_MISSING,
		    "a kernel with CONFIG_SECCOMP_FILTER, or --sandbox off for guests that you "
		    "trust");
}

static void doctor_root(struct doctor *doctor)
{
	struct doctor_item *item = doctor_add(doctor, "empty root");

	switch (sandbox_probe_root()) {
	case SANDBOX_ROOT_EMPTY:
		doctor_found(item, "made with this user's privileges");
		return;
	case SANDBOX_ROOT_USERNS:
		doctor_found(item, "made in a user namespace");
		return;
	case SANDBOX_ROOT_LANDLOCK:
		doctor_found(item, "not for this user; Landlock keeps files from VMs in its place");
		return;
	case SANDBOX_ROOT_NONE:
		doctor_found(item,
			     "not for this user, nor Landlock; seccomp alone keeps files from "
			     "VMs");
		doctor_cure(item, DOCTOR_WARN,
			    "allow user namespaces (sysctl user.max_user_namespaces, "
			    "kernel.unprivileged_userns_clone), or boot with lsm=landlock,...");
		return;
	}
}

static void doctor_landlock(struct doctor *doctor)
{
	struct doctor_item *item = doctor_add(doctor, "landlock");
	int abi = sandbox_landlock_abi();

	if (abi)
		doctor_found(item, "ABI %d", abi);
	else
		doctor_found(item, "not in this kernel, or not switched on; used only where there "
				   "can be no empty root");
}

void doctor_sandbox(struct doctor *doctor)
{
	doctor_seccomp(doctor);
	doctor_root(doctor);
	doctor_landlock(doctor);
}
