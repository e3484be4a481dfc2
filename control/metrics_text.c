/* Prometheus' text format. See control/metrics_text.h. */
#include "control/metrics_text.h"

#include "base/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define NS_PER_S UINT64_C(1000000000)

struct family {
	const char *name, *type, *help;
	void (*samples)(FILE *out, const struct family *family, const Lodge__V1__VmMetrics *vm);
};

/* ---- parts of a line ----------------------------------------------------------------------------
 */

static void write_label(FILE *out, const char *name, const char *value)
{
	fprintf(out, "%s=\"", name);
	for (const char *p = value; *p; p++) {
		if (*p == '\n')
			fputs("\\n", out);
		else if (*p == '\\' || *p == '"')
			fprintf(out, "\\%c", *p);
		else
			fputc(*p, out);
	}
	fputc('"', out);
}

static void begin(FILE *out, const struct family *f, const char *suffix,
		  const Lodge__V1__VmMetrics *vm)
{
	fprintf(out, "%s%s{", f->name, suffix);
	write_label(out, "vm", vm->name);
}

static void label(FILE *out, const char *name, const char *value)
{
	fputc(',', out);
	write_label(out, name, value);
}

static void label_number(FILE *out, const char *name, size_t value)
{
	fprintf(out, ",%s=\"%zu\"", name, value);
}

static void end(FILE *out, uint64_t value)
{
	fprintf(out, "} %" PRIu64 "\n", value);
}

/* Exact, and the same in every locale. */
static void write_seconds(FILE *out, uint64_t ns)
{
	fprintf(out, "%" PRIu64 ".%09" PRIu64, ns / NS_PER_S, ns % NS_PER_S);
}

static void end_seconds(FILE *out, uint64_t ns)
{
	fputs("} ", out);
	write_seconds(out, ns);
	fputc('\n', out);
}

/* ---- of the VM ----------------------------------------------------------------------------------
 */

static void uptime(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	begin(out, f, "", vm);
	end_seconds(out, vm->uptime_ns);
}

static void resident(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	begin(out, f, "", vm);
	end(out, vm->resident_bytes);
}

static void memory(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	begin(out, f, "", vm);
	end(out, vm->memory_bytes);
}

static void cpu(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	begin(out, f, "", vm);
	end_seconds(out, vm->cpu_time_ns);
}

static void console(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	if (!vm->console)
		return;
	begin(out, f, "", vm);
	label(out, "direction", "out");
	end(out, vm->console->out_bytes);
	begin(out, f, "", vm);
	label(out, "direction", "in");
	end(out, vm->console->in_bytes);
}

static void vcpu_cpu(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	for (size_t i = 0; i < vm->n_vcpus; i++) {
		begin(out, f, "", vm);
		label_number(out, "vcpu", i);
		end_seconds(out, vm->vcpus[i]->cpu_time_ns);
	}
}

static void vcpu_exits(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	for (size_t i = 0; i < vm->n_vcpus; i++) {
		const Lodge__V1__VcpuMetrics *v = vm->vcpus[i];

		for (size_t n = 0; n < v->n_exits; n++) {
			begin(out, f, "", vm);
			label_number(out, "vcpu", i);
			label(out, "reason", v->exits[n]->reason);
			end(out, v->exits[n]->count);
		}
	}
}

/* ---- of disks -----------------------------------------------------------------------------------
 */

#define OPERATIONS 5

struct operation {
	const char *name;
	const Lodge__V1__BlockOperationMetrics *metrics; /* NULL: not told */
};

static void operations_of(const Lodge__V1__BlockMetrics *disk, struct operation ops[OPERATIONS])
{
	const struct operation all[OPERATIONS] = {
	    {"read", disk->read},
	    {"write", disk->write},
	    {"flush", disk->flush},
	    {"discard", disk->discard},
	    {"write_zeroes", disk->write_zeroes},
	};

	for (unsigned i = 0; i < OPERATIONS; i++)
		ops[i] = all[i];
}

static void begin_block(FILE *out, const struct family *f, const char *suffix,
			const Lodge__V1__VmMetrics *vm, const Lodge__V1__BlockMetrics *disk,
			const struct operation *op)
{
	begin(out, f, suffix, vm);
	label(out, "device", disk->device);
	label(out, "operation", op->name);
}

enum counter { OPERATIONS_DONE, BYTES, ERRORS };

static void block_counter(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm,
			  enum counter which)
{
	struct operation ops[OPERATIONS];

	for (size_t i = 0; i < vm->n_disks; i++) {
		operations_of(vm->disks[i], ops);
		for (unsigned n = 0; n < OPERATIONS; n++) {
			const Lodge__V1__BlockOperationMetrics *m = ops[n].metrics;

			if (!m)
				continue;
			begin_block(out, f, "", vm, vm->disks[i], &ops[n]);
			end(out, which == BYTES	   ? m->bytes
				 : which == ERRORS ? m->errors
						   : m->operations);
		}
	}
}

static void block_operations(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	block_counter(out, f, vm, OPERATIONS_DONE);
}

static void block_bytes(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	block_counter(out, f, vm, BYTES);
}

static void block_errors(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	block_counter(out, f, vm, ERRORS);
}

static void block_in_flight(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	for (size_t i = 0; i < vm->n_disks; i++) {
		begin(out, f, "", vm);
		label(out, "device", vm->disks[i]->device);
		end(out, vm->disks[i]->in_flight);
	}
}

/* A bucket of the message has what is in no earlier one, a bucket of the format all up to `le`. */
static void histogram(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm,
		      const Lodge__V1__BlockMetrics *disk, const struct operation *op)
{
	const Lodge__V1__BlockOperationMetrics *m = op->metrics;
	uint64_t sum = 0;

	for (size_t n = 0; n < m->n_latency; n++) {
		sum += m->latency[n];
		if (n + 1 == m->n_latency || n > 40)
			continue;
		begin_block(out, f, "_bucket", vm, disk, op);
		fputs(",le=\"", out);
		write_seconds(out, UINT64_C(1000) << n);
		fputs("\"", out);
		end(out, sum);
	}
	begin_block(out, f, "_bucket", vm, disk, op);
	label(out, "le", "+Inf");
	end(out, sum);
	begin_block(out, f, "_sum", vm, disk, op);
	end_seconds(out, m->latency_sum_ns);
	begin_block(out, f, "_count", vm, disk, op);
	end(out, sum);
}

static void block_latency(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	struct operation ops[OPERATIONS];

	for (size_t i = 0; i < vm->n_disks; i++) {
		operations_of(vm->disks[i], ops);
		for (unsigned n = 0; n < OPERATIONS; n++) {
			if (ops[n].metrics)
				histogram(out, f, vm, vm->disks[i], &ops[n]);
		}
	}
}

/* ---- of networks --------------------------------------------------------------------------------
 */

static void network(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm,
		    enum counter which)
{
	for (size_t i = 0; i < vm->n_networks; i++) {
		const Lodge__V1__NetworkMetrics *n = vm->networks[i];
		const struct {
			const char *name;
			uint64_t value[3];
		} ways[] = {
		    {"receive", {n->rx_packets, n->rx_bytes, n->rx_dropped}},
		    {"transmit", {n->tx_packets, n->tx_bytes, n->tx_dropped}},
		};

		for (size_t w = 0; w < ARRAY_LEN(ways); w++) {
			begin(out, f, "", vm);
			label(out, "device", n->device);
			label(out, "direction", ways[w].name);
			end(out, ways[w].value[which]);
		}
	}
}

static void network_packets(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	network(out, f, vm, OPERATIONS_DONE);
}

static void network_bytes(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	network(out, f, vm, BYTES);
}

static void network_dropped(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	network(out, f, vm, ERRORS);
}

static void network_spoofed(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	for (size_t i = 0; i < vm->n_networks; i++) {
		begin(out, f, "", vm);
		label(out, "device", vm->networks[i]->device);
		end(out, vm->networks[i]->tx_spoofed);
	}
}

static void network_link(FILE *out, const struct family *f, const Lodge__V1__VmMetrics *vm)
{
	for (size_t i = 0; i < vm->n_networks; i++) {
		begin(out, f, "", vm);
		label(out, "device", vm->networks[i]->device);
		label(out, "tap", vm->networks[i]->tap);
		end(out, vm->networks[i]->link_up);
	}
}

/* ---- the text -----------------------------------------------------------------------------------
 */

static const struct family families[] = {
    {"lodge_vm_uptime_seconds", "gauge", "Since the guest's first instruction.", uptime},
    {"lodge_vm_resident_bytes", "gauge", "Resident memory of the VM's process.", resident},
    {"lodge_vm_memory_bytes", "gauge", "Memory that the guest has.", memory},
    {"lodge_vm_cpu_seconds_total", "counter", "CPU time of the VM's process.", cpu},
    {"lodge_vm_vcpu_cpu_seconds_total", "counter", "CPU time of a vCPU's thread.", vcpu_cpu},
    {"lodge_vm_vcpu_exits_total", "counter", "Returns from the guest, by reason.", vcpu_exits},
    {"lodge_vm_block_operations_total", "counter", "Requests of a disk that succeeded.",
     block_operations},
    {"lodge_vm_block_bytes_total", "counter", "Bytes of those requests.", block_bytes},
    {"lodge_vm_block_errors_total", "counter", "Requests of a disk that failed.", block_errors},
    {"lodge_vm_block_in_flight", "gauge", "Requests of a disk that are under way.",
     block_in_flight},
    {"lodge_vm_block_latency_seconds", "histogram",
     "From the guest's queue to the answer, of requests that succeeded.", block_latency},
    {"lodge_vm_network_packets_total", "counter", "Packets of a network device.", network_packets},
    {"lodge_vm_network_bytes_total", "counter", "Bytes of those packets.", network_bytes},
    {"lodge_vm_network_dropped_total", "counter", "Packets that were dropped.", network_dropped},
    {"lodge_vm_network_spoofed_total", "counter",
     "Of those from the guest: from an address that is not its own.", network_spoofed},
    {"lodge_vm_network_link_up", "gauge", "Whether the guest's link is up.", network_link},
    {"lodge_vm_console_bytes_total", "counter", "Bytes from and to the serial console.", console},
};

char *metrics_text(Lodge__V1__VmMetrics *const *vms, size_t nvms)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	bool whole;

	if (!out)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		const struct family *f = &families[i];

		fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, f->type);
		for (size_t n = 0; n < nvms; n++)
			f->samples(out, f, vms[n]);
	}
	whole = !ferror(out);
	if (fclose(out) || !whole) {
		free(text);
		return NULL;
	}
	return text;
}
