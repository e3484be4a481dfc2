/* Making, starting and unmaking a machine: everything that the host gives is opened first, then the
 * machine is put together from what is open. */
#include "vmm/machine.h"
#include "base/checked.h"
#include "devices/virtio/vsock.h"
#include "vmm/machine_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- the platform that devices are handed ---- */

static int plat_irq_connect(void *ctx, unsigned gsi, struct irq *ret_irq, struct err *err)
{
	struct machine *m = ctx;

	return irqs_connect(m->irqs, gsi, ret_irq, err);
}

static int plat_msi_alloc(void *ctx, unsigned n, struct irq *vectors, struct err *err)
{
	struct machine *m = ctx;

	return irqs_msi_alloc(m->irqs, n, vectors, err);
}

static int plat_msi_set(void *ctx, const struct irq *vector, const struct msi_msg *msg)
{
	struct machine *m = ctx;

	return irqs_msi_set(m->irqs, vector, msg);
}

static int plat_doorbell_add(void *ctx, const struct doorbell *bell)
{
	struct machine *m = ctx;

	return irqs_doorbell(m->irqs, bell, true);
}

static int plat_doorbell_del(void *ctx, const struct doorbell *bell)
{
	struct machine *m = ctx;

	return irqs_doorbell(m->irqs, bell, false);
}

static void plat_machine_event(void *ctx, int event)
{
	machine_raise(ctx, event, NULL);
}

static const struct platform_ops platform_ops = {
    .irq_connect = plat_irq_connect,
    .msi_alloc = plat_msi_alloc,
    .msi_set = plat_msi_set,
    .doorbell_add = plat_doorbell_add,
    .doorbell_del = plat_doorbell_del,
    .machine_event = plat_machine_event,
};

/* ---- set-up ---- */

static int check_config(const struct machine_config *config, struct err *err)
{
	if (!config->kernel)
		return err_set(err, EINVAL, "no kernel is given");
	if (!config->cpus || config->cpus > MACHINE_CPUS_MAX)
		return err_set(err, EINVAL, "%u CPUs, 1 to %d are possible", config->cpus,
			       MACHINE_CPUS_MAX);
	if (config->ndisks > MACHINE_DISKS_MAX)
		return err_set(err, EINVAL, "%u disks, at most %d are possible", config->ndisks,
			       MACHINE_DISKS_MAX);
	if (config->has_root && !config->ndisks)
		return err_set(err, EINVAL, "a root is asked for, but there is no disk");
	return guest_memory_check(config, err) ?: arch_config_check(config, err);
}

static int open_kvm(struct machine *m, struct err *err)
{
	return kvm_open(&m->kvm, KVM_DEVICE, err);
}

int machine_as_host(struct machine *m, int (*open)(struct machine *m, struct err *err),
		    struct err *err)
{
	const struct machine_callbacks *c = &m->callbacks;
	struct err back = ERR_INIT;
	int res = c->as_host ? c->as_host(c->ctx, true, err) : 0;

	if (res)
		return res;
	res = open(m, err);
	if (c->as_host && c->as_host(c->ctx, false, &back))
		return err_set(err, back.code, "%s", back.msg);
	return res;
}

static int open_all(struct machine *m, struct err *err)
{
	int res = machine_boot_open(m, err);

	if (!res)
		res = machine_devices_open(m, err);
	if (!res)
		res = machine_boot_initramfs(m, err);
	if (!res)
		res = machine_as_host(m, open_kvm, err);
	if (!res)
		res = guest_memory_new(m->config, &m->memory, err);
	return res;
}

static int build_core(struct machine *m, struct err *err)
{
	int res = kvm_create_vm(&m->kvm, err);

	if (!res)
		res = arch_vm_new(&m->kvm, m->config, &m->arch, err);
	if (!res)
		res = arch_vm_check_memory(m->arch, m->config->memory_bytes, err);
	if (!res)
		res = guest_memory_give(&m->memory, &m->kvm, err);
	if (!res)
		res = irqs_new(&m->kvm, &m->irqs, err);
	return res;
}

static int build_platform(struct machine *m, struct err *err)
{
	int res = bus_new("port", UINT64_C(1) << 16, &m->pio);

	if (!res)
		res = bus_new("memory", 0, &m->mmio);
	if (res)
		return err_sys(err, -res, "cannot make the buses");
	m->vcpu_host.pio = m->pio;
	m->vcpu_host.mmio = m->mmio;
	m->platform = (struct platform){
	    .mem = m->memory.mem,
	    .pio = m->pio,
	    .mmio = m->mmio,
	    .ops = &platform_ops,
	    .ctx = m,
	};
	return 0;
}

static int make_vcpus(struct machine *m, struct err *err)
{
	int res = vcpu_signal_init(err);

	for (unsigned i = 0; i < m->config->cpus && !res; i++)
		res = vcpu_new(&m->kvm, i, &m->vcpu_host, &m->vcpus[i], err);
	return res ? res : arch_vm_vcpus_made(m->arch, err);
}

static int init_vcpus(struct machine *m, struct err *err)
{
	int res = 0;

	for (unsigned i = 0; i < m->config->cpus && !res; i++)
		res = arch_vcpu_init(m->arch, m->vcpus[i]->fd, i, err);
	return res;
}

/* All wait at the gate afterwards, and are locked in. */
static int start_threads(struct machine *m, struct err *err)
{
	int res = machine_io_start(m, err);

	for (unsigned i = 0; i < m->config->cpus && !res; i++)
		res = vcpu_start(m->vcpus[i], err);
	if (!res)
		gate_await(&m->gate, m->nio + m->config->cpus);
	return res;
}

int machine_new(const struct machine_config *config, struct loop *control,
		const struct uart_sink *console, const struct machine_callbacks *callbacks,
		struct machine **ret_machine, struct err *err)
{
	struct machine *m;
	int res = check_config(config, err);

	if (res)
		return res;
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_sys(err, ENOMEM, "cannot make a machine");
	m->config = config;
	m->control = control;
	m->callbacks = *callbacks;
	if (console)
		m->console = *console;
	m->kvm = (struct kvm)KVM_INIT;
	m->memory = (struct guest_memory)GUEST_MEMORY_INIT;
	m->vsock_host = (struct machine_vsock)MACHINE_VSOCK_INIT;
	gate_init(&m->gate);
	machine_end_init(m);
	machine_pause_init(m);

	res = open_all(m, err);
	if (!res)
		res = build_core(m, err);
	if (!res)
		res = build_platform(m, err);
	if (!res)
		res = make_vcpus(m, err);
	if (!res)
		res = machine_devices_build(m, err);
	if (!res)
		res = init_vcpus(m, err);
	if (!res)
		res = start_threads(m, err);
	if (!res && callbacks->lock_in)
		res = callbacks->lock_in(callbacks->ctx, err);
	if (!res)
		res = machine_boot_load(m, err);
	/* Files and unpacking buffers of the kernel are not needed again. */
	machine_boot_free(m);
	if (res) {
		machine_free(m);
		return res;
	}
	*ret_machine = m;
	return 0;
}

void machine_start(struct machine *m)
{
	if (m->vsock_host.port)
		vsock_port_start(m->vsock_host.port);
	machine_run(m);
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	gate_close(&m->gate);
	for (unsigned i = 0; i < m->config->cpus && m->vcpus[i]; i++)
		vcpu_join(m->vcpus[i]);
	machine_devices_free(m);
	machine_io_free(m);
	for (unsigned i = 0; i < m->config->ndisks; i++)
		image_close(m->images[i]);
	for (unsigned i = 0; i < m->config->cpus; i++)
		vcpu_free(m->vcpus[i]);
	irqs_free(m->irqs);
	kvm_close(&m->kvm);
	bus_free(m->pio);
	bus_free(m->mmio);
	guest_memory_free(&m->memory);
	arch_vm_free(m->arch);
	machine_boot_free(m);
	machine_pause_fini(m);
	machine_end_fini(m);
	gate_fini(&m->gate);
	free(m);
}

/* ---- from outside ---- */

void machine_stop(struct machine *m)
{
	machine_raise(m, MACHINE_STOPPED, NULL);
}

void machine_power_button(struct machine *m)
{
	if (m->acpi_pm)
		acpi_pm_press_power(m->acpi_pm);
	else if (m->power_key)
		power_key_press(m->power_key);
}

void machine_vcpu_stats(struct machine *m, unsigned n, struct vcpu_stats *ret_stats)
{
	vcpu_stats(m->vcpus[n], ret_stats);
}

void machine_disk_stats(struct machine *m, unsigned n, struct virtio_blk_stats *ret_stats)
{
	virtio_blk_stats(m->disk_devs[n], ret_stats);
}

const void *machine_dtb(const struct machine *m, size_t *ret_len)
{
	*ret_len = m->dtb.len_bytes;
	return *ret_len ? gmem_ro(m->memory.mem, m->dtb.gpa, *ret_len) : NULL;
}

uint32_t machine_cid(const struct machine *m)
{
	return m->vsock_host.cid.cid;
}

bool machine_vsock_by_host(const struct machine *m)
{
	return m->vsock_host.by_host;
}

uint32_t machine_vsock_port(const struct machine *m)
{
	return m->vsock_host.port ? vsock_port_number(m->vsock_host.port) : 0;
}

void machine_vsock_adopt(struct machine *m, int fd)
{
	if (m->vsock_dev && !m->vsock_host.by_host)
		virtio_vsock_adopt(m->vsock_dev, fd);
	else
		close(fd);
}

struct uart *machine_uart(struct machine *m)
{
	return m->uart;
}
