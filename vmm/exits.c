#include "vmm/exits.h"
#include "base/bytes.h"
#include "vmm/arch.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define REASON_MAX 256

__attribute__((format(printf, 3, 4))) static bool end(struct vcpu *vcpu, enum machine_event event,
						      const char *fmt, ...)
{
	char reason[REASON_MAX], where[48];
	va_list ap;
	size_t len;

	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
	arch_vcpu_where(vcpu->fd, where, sizeof(where));
	len = strlen(reason);
	snprintf(reason + len, sizeof(reason) - len, " on vCPU %u%s%s", vcpu->index,
		 *where ? " at " : "", where);
	vcpu->host->event(vcpu->host->ctx, event, reason);
	return false;
}

/* Device registers are little-endian integers, whatever the host is. */
static uint64_t value_load(const uint8_t *data, unsigned size)
{
	uint8_t b[8] = {0};

	memcpy(b, data, size);
	return le64_load(b);
}

static void value_store(uint8_t *data, unsigned size, uint64_t value)
{
	uint8_t b[8];

	le64_store(b, value);
	memcpy(data, b, size);
}

/* `count` is over 1 for string instructions: that many accesses to the same port, in order. */
static void handle_io(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;
	unsigned size = run->io.size;

	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint64_t value = UINT64_MAX;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			bus_write(vcpu->host->pio, run->io.port, size, value_load(data, size));
		} else {
			bus_read(vcpu->host->pio, run->io.port, size, &value);
			value_store(data, size, value);
		}
	}
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	unsigned size = run->mmio.len;
	uint64_t value = UINT64_MAX;

	if (!size || size > sizeof(run->mmio.data))
		return;
	if (run->mmio.is_write) {
		bus_write(vcpu->host->mmio, run->mmio.phys_addr, size,
			  value_load(run->mmio.data, size));
	} else {
		bus_read(vcpu->host->mmio, run->mmio.phys_addr, size, &value);
		value_store(run->mmio.data, size, value);
	}
}

static bool handle_system_event(struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vcpu->host->event(vcpu->host->ctx, MACHINE_POWEROFF, NULL);
		return false;
	case KVM_SYSTEM_EVENT_RESET:
		vcpu->host->event(vcpu->host->ctx, MACHINE_REBOOT, NULL);
		return false;
	case KVM_SYSTEM_EVENT_CRASH:
		return end(vcpu, MACHINE_PANIC, "guest kernel crashed");
	default:
		return end(vcpu, MACHINE_FAILED, "KVM reports an unknown system event %u",
			   vcpu->run->system_event.type);
	}
}

static bool handle_internal_error(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	char hex[3 * 15 + 1] = "";
	size_t n = 0;

	switch (run->internal.suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		if (run->emulation_failure.ndata >= 3 &&
		    run->emulation_failure.flags &
			KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
			n = run->emulation_failure.insn_size;
		if (n > sizeof(run->emulation_failure.insn_bytes))
			n = 0;
		for (size_t i = 0; i < n; i++)
			snprintf(hex + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
		return end(vcpu, MACHINE_FAILED, "KVM cannot emulate an instruction%s%s",
			   n ? ", bytes" : "", hex);
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return end(vcpu, MACHINE_FAILED, "KVM met two exceptions at once");
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return end(vcpu, MACHINE_FAILED, "KVM failed to deliver an interrupt or exception");
	default:
		return end(vcpu, MACHINE_FAILED, "KVM internal error, suberror %u",
			   run->internal.suberror);
	}
}

static bool handle_error(struct vcpu *vcpu, int code)
{
	switch (code) {
	case EINTR:
	case EAGAIN:
		return true; /* the caller looks whether it is to stop */
	case EFAULT:
		return end(vcpu, MACHINE_FAILED,
			   "the host could not provide guest memory (out of memory or of huge "
			   "pages)");
	case ENOSYS:
		return end(vcpu, MACHINE_FAILED,
			   "the guest reached for a device, or where nothing is, by an instruction "
			   "that KVM does not emulate");
	default:
		return end(vcpu, MACHINE_FAILED, "KVM_RUN failed: %s", strerrordesc_np(code));
	}
}

/* On 64-bit Arm pairs and vectors of registers, and addresses that change with the access, give no
 * syndrome: KVM knows where such an access went, and no more. */
static bool handle_undecoded(struct vcpu *vcpu)
{
	return arch_vcpu_bus_error(vcpu->fd) ? handle_error(vcpu, ENOSYS) : true;
}

bool vcpu_handle_exit(struct vcpu *vcpu, int res)
{
	const struct kvm_run *run = vcpu->run;

	if (res)
		return handle_error(vcpu, -res);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		return true;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		return true;
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_SHUTDOWN:
		return end(vcpu, MACHINE_TRIPLE_FAULT, "triple fault");
	case KVM_EXIT_SYSTEM_EVENT:
		return handle_system_event(vcpu);
	case KVM_EXIT_INTERNAL_ERROR:
		return handle_internal_error(vcpu);
	case KVM_EXIT_ARM_NISV:
		return handle_undecoded(vcpu);
	case KVM_EXIT_FAIL_ENTRY:
		return end(vcpu, MACHINE_FAILED,
			   "the processor refused to enter the guest (hardware reason 0x%llx)",
			   (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_UNKNOWN:
		return end(vcpu, MACHINE_FAILED, "KVM met an unknown exit (hardware reason 0x%llx)",
			   (unsigned long long)run->hw.hardware_exit_reason);
	default:
		return end(vcpu, MACHINE_FAILED, "KVM came back with unexpected exit reason %u",
			   run->exit_reason);
	}
}
