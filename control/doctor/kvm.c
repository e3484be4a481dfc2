/*
 * KVM: the device, what stands behind it, nested guests, and whether guest kernel code runs in
 * hardware. The last cannot be read anywhere, so it is measured.
 */
#include "vmm/kvm.h"
#include "base/checked.h"
#include "control/doctor/check.h"
#include "vmm/arch.h"
#include "vmm/config.h"
#include "vmm/speed.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* KVM's flavour, by its module under /sys/module; built in it stands there as well. */
static const struct arch_flavour *flavour_find(const struct doctor *doctor)
{
	const struct arch_flavour *flavours;
	char path[PATH_MAX];
	size_t n;

	flavours = arch_flavours(&n);
	for (size_t i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/sys/module/%s", doctor->root, flavours[i].module);
		if (access(path, F_OK) == 0)
			return &flavours[i];
	}
	return NULL;
}

static void doctor_nested(struct doctor *doctor, const struct arch_flavour *flavour)
{
	struct doctor_item *item = doctor_add(doctor, "nested");
	char text[16];

	if (!flavour || !flavour->nested) {
		doctor_found(item, "this KVM has no nested guests");
		doctor_cure(item, DOCTOR_WARN, "only needed to run virtual machines in a guest");
	} else if (doctor_read(doctor, flavour->nested, text, sizeof(text))) {
		doctor_found(item, "unknown: %s cannot be read", flavour->nested);
	} else if (*text == 'Y' || *text == '1') {
		doctor_found(item, "on: guests can run virtual machines");
	} else {
		doctor_found(item, "off");
		doctor_cure(item, DOCTOR_WARN, "to run virtual machines in a guest: %s",
			    flavour->nested_cure);
	}
}

void doctor_speed(struct doctor *doctor, uint64_t insns_per_s)
{
	struct doctor_item *item = doctor_add(doctor, "guest code");

	item->needed = true;
	if (insns_per_s >= DOCTOR_NATIVE_INSNS_PER_S) {
		doctor_found(item, "in hardware: %" PRIu64 " million instructions/s",
			     insns_per_s / 1000000);
		return;
	}
	doctor_found(item,
		     "emulated: %" PRIu64 ".%" PRIu64
		     " million instructions/s of guest kernel code, "
		     "about a thousandth of hardware",
		     insns_per_s / 1000000, insns_per_s / 100000 % 10);
	doctor_cure(item, DOCTOR_MISSING,
		    "a kernel takes minutes to hours to boot here; use a host whose KVM has the "
		    "processor's help, or "
		    "run tests in the lab: tests/lab/lab -- COMMAND");
}

static void doctor_irqchip(struct doctor *doctor, const struct kvm *kvm)
{
	char found[DOCTOR_TEXT_MAX], cure[DOCTOR_TEXT_MAX];
	bool all = arch_irqchip_probe(kvm, found, cure, sizeof(found));
	struct doctor_item *item;

	if (!*found)
		return;
	item = doctor_add(doctor, "interrupts");
	doctor_found(item, "%s", found);
	if (!all)
		doctor_cure(item, DOCTOR_WARN, "%s", cure);
}

void doctor_kvm(struct doctor *doctor)
{
	const struct arch_flavour *flavour = flavour_find(doctor);
	struct doctor_item *item = doctor_add(doctor, "kvm");
	struct kvm kvm = KVM_INIT;
	struct err err = ERR_INIT;
	char path[PATH_MAX];
	uint64_t speed = 0;
	unsigned cpus;

	item->needed = true;
	snprintf(path, sizeof(path), "%s%s", doctor->root, KVM_DEVICE);
	if (kvm_open(&kvm, path, &err)) {
		char *cure = strstr(err.msg, ": ");

		/* the message of the machine itself: "what is wrong: what to do" */
		if (cure)
			*cure = '\0';
		doctor_found(item, "%s", err.msg);
		doctor_cure(item, DOCTOR_MISSING, "%s",
			    cure ? cure + 2 : "this host's KVM cannot be used");
		return;
	}
	cpus = MIN(kvm_vcpus_max(&kvm), MACHINE_CPUS_MAX);
	doctor_found(item, "%s, %s; up to %u CPUs for a guest", KVM_DEVICE,
		     flavour ? flavour->name : "flavour unknown", cpus);

	if (speed_measure(&kvm, &speed, &err)) {
		item = doctor_add(doctor, "guest code");
		item->needed = true;
		doctor_found(item, "a test guest does not run: %s", err.msg);
		doctor_cure(item, DOCTOR_MISSING,
			    "end other hypervisors on this host, and switch virtualisation on in "
			    "the firmware (or, in a virtual machine, nesting on its host)");
	} else {
		doctor_speed(doctor, speed);
	}
	doctor_irqchip(doctor, &kvm);
	kvm_close(&kvm);
	doctor_nested(doctor, flavour);
}
