/*
 * The interrupt controller, in KVM: GICv3 with its ITS, which takes PCI's messages; GICv2 where the
 * host has no other.
 *
 * Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst, arm-vgic-its.rst, arm-vgic.rst; GIC
 * architecture specification (ARM IHI 0069) for the registers' sizes.
 */
#include "base/log.h"
#include "vmm/arm64/layout.h"
#include "vmm/arm64/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PRIVATE_IRQS 32 /* numbers of SPIs begin there */

/* Descriptor of a new device, or -errno; `vm_fd` may be a machine that is only asked. */
static int device_new(int vm_fd, uint32_t type, bool only_ask)
{
	struct kvm_create_device req = {.type = type,
					.flags = only_ask ? KVM_CREATE_DEVICE_TEST : 0};

	if (ioctl(vm_fd, KVM_CREATE_DEVICE, &req))
		return -errno;
	return only_ask ? 0 : (int)req.fd;
}

static int device_set(int fd, uint32_t group, uint64_t attr, const void *value, struct err *err)
{
	struct kvm_device_attr req = {.group = group, .attr = attr, .addr = (uintptr_t)value};

	if (ioctl(fd, KVM_SET_DEVICE_ATTR, &req))
		return err_sys(err, errno, "KVM refuses attribute %u/%llu of the GIC", group,
			       (unsigned long long)attr);
	return 0;
}

static int set_address(int fd, uint64_t which, uint64_t gpa, struct err *err)
{
	return device_set(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, which, &gpa, err);
}

static int make_v3(int vm_fd, struct arm64_gic *gic, struct err *err)
{
	int res = set_address(gic->fd, KVM_VGIC_V3_ADDR_TYPE_DIST, ARM64_GICD, err);

	gic->version = 3;
	if (!res)
		res = set_address(gic->fd, KVM_VGIC_V3_ADDR_TYPE_REDIST, ARM64_GICR, err);
	if (res)
		return res;
	gic->its_fd = device_new(vm_fd, KVM_DEV_TYPE_ARM_VGIC_ITS, false);
	gic->its = gic->its_fd >= 0;
	return gic->its ? set_address(gic->its_fd, KVM_VGIC_ITS_ADDR_TYPE, ARM64_ITS, err) : 0;
}

static int make_v2(struct arm64_gic *gic, const struct machine_config *config, struct err *err)
{
	int res;

	gic->version = 2;
	if (config->cpus > ARM64_GICV2_CPUS)
		return err_set(err, EINVAL,
			       "this host has no GICv3, and a GICv2 serves %d CPUs, not %u: --cpus "
			       "%d",
			       ARM64_GICV2_CPUS, config->cpus, ARM64_GICV2_CPUS);
	res = set_address(gic->fd, KVM_VGIC_V2_ADDR_TYPE_DIST, ARM64_GICD, err);
	return res ? res : set_address(gic->fd, KVM_VGIC_V2_ADDR_TYPE_CPU, ARM64_GICC, err);
}

int arm64_gic_new(const struct kvm *kvm, const struct machine_config *config,
		  struct arm64_gic *ret_gic, struct err *err)
{
	struct arm64_gic gic = {.its_fd = -1};
	uint32_t nirqs = PRIVATE_IRQS + ARM64_SPIS;
	int res;

	gic.fd = device_new(kvm->vm_fd, KVM_DEV_TYPE_ARM_VGIC_V3, false);
	if (gic.fd >= 0) {
		res = make_v3(kvm->vm_fd, &gic, err);
	} else {
		gic.fd = device_new(kvm->vm_fd, KVM_DEV_TYPE_ARM_VGIC_V2, false);
		if (gic.fd < 0)
			return err_set(
			    err, EOPNOTSUPP,
			    "KVM of this host has neither GICv3 nor GICv2 for guests, so "
			    "no machine runs here; `lodge disk` does");
		res = make_v2(&gic, config, err);
	}
	if (!res)
		res = device_set(gic.fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &nirqs, err);
	if (!res && !gic.its && config->transport == MACHINE_PCI)
		log_warn(
		    "this host has no GICv3 with an ITS: PCI works by %d shared wires in place "
		    "of messages; --transport mmio has a wire for each device",
		    PCI_INTX);
	if (res) {
		arm64_gic_free(&gic);
		return res;
	}
	*ret_gic = gic;
	return 0;
}

void arm64_gic_free(struct arm64_gic *gic)
{
	if (gic->its_fd >= 0)
		close(gic->its_fd);
	if (gic->fd >= 0)
		close(gic->fd);
	gic->fd = gic->its_fd = -1;
}

int arm64_gic_start(const struct arm64_gic *gic, struct err *err)
{
	int res =
	    device_set(gic->fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL, err);

	if (!res && gic->its)
		res = device_set(gic->its_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT,
				 NULL, err);
	return res;
}

unsigned arch_irq_routes(struct kvm_irq_routing_entry ret_routes[ARCH_ROUTES_MAX])
{
	_Static_assert(ARM64_SPIS <= ARCH_ROUTES_MAX, "a route for each");
	for (unsigned gsi = 0; gsi < ARM64_SPIS; gsi++)
		ret_routes[gsi] = (struct kvm_irq_routing_entry){
		    .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip.pin = gsi};
	return ARM64_SPIS;
}

/* The ITS tells functions apart by who writes. */
void arch_irq_message(const struct msi_msg *msg, struct kvm_irq_routing_entry *ret_route)
{
	ret_route->flags = KVM_MSI_VALID_DEVID;
	ret_route->u.msi.devid = msg->requester;
}

bool arch_irqchip_probe(const struct kvm *kvm, char *ret_found, char *ret_cure, size_t len)
{
	int vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, arch_vm_type(kvm));
	bool v3 = false, its = false, v2 = false;

	if (vm_fd >= 0) {
		v3 = !device_new(vm_fd, KVM_DEV_TYPE_ARM_VGIC_V3, true);
		its = v3 && !device_new(vm_fd, KVM_DEV_TYPE_ARM_VGIC_ITS, true);
		v2 = !device_new(vm_fd, KVM_DEV_TYPE_ARM_VGIC_V2, true);
		close(vm_fd);
	}
	snprintf(ret_found, len, "%s",
		 its  ? "GICv3 with ITS"
		 : v3 ? "GICv3 without ITS"
		 : v2 ? "GICv2"
		      : "neither GICv3 nor GICv2 for guests");
	snprintf(ret_cure, len, "%s",
		 its	    ? ""
		 : v3 || v2 ? "PCI works by shared wires; --transport mmio has one for each device"
			    : "no guest runs here");
	return its;
}
