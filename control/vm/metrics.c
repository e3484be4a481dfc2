/* What a VM has done and takes. See control/vm/metrics.h. */
#include "control/vm/metrics.h"

#include "base/checked.h"
#include "control/network/networks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct disk_metrics {
	Lodge__V1__BlockMetrics msg;
	Lodge__V1__BlockOperationMetrics op[VIRTIO_BLK_OPS];
	struct virtio_blk_stats stats;
	char device[8];
};

struct net_metrics {
	Lodge__V1__NetworkMetrics msg;
	char device[16];
};

struct vcpu_metrics {
	Lodge__V1__VcpuMetrics msg;
	Lodge__V1__ExitMetrics exits[VCPU_EXITS], *exit_list[VCPU_EXITS];
};

/* One piece of memory: the message first, then what it points to. */
struct metrics {
	Lodge__V1__VmMetrics msg;
	Lodge__V1__ConsoleMetrics console;
	Lodge__V1__VcpuMetrics *vcpu_list[MACHINE_CPUS_MAX];
	Lodge__V1__BlockMetrics *disk_list[MACHINE_DISKS_MAX];
	Lodge__V1__NetworkMetrics *net_list[MACHINE_NETS_MAX];
	struct disk_metrics disks[MACHINE_DISKS_MAX];
	struct net_metrics nets[MACHINE_NETS_MAX];
	struct vcpu_metrics vcpus[]; /* of as many as there are */
};

/* protobuf-c's strings are not const; it only reads them. */
static char *text(const char *s)
{
	char *p;

	memcpy(&p, &s, sizeof(p));
	return p;
}

static void fill_vcpu(struct vcpu_metrics *v, const struct vcpu_stats *stats)
{
	lodge__v1__vcpu_metrics__init(&v->msg);
	v->msg.cpu_time_ns = stats->cpu_time_ns;
	v->msg.exits = v->exit_list;
	for (unsigned i = 0; i < VCPU_EXITS; i++) {
		Lodge__V1__ExitMetrics *e = &v->exits[v->msg.n_exits];
		const char *name = vcpu_exit_name(i);

		if (!stats->exits[i])
			continue;
		lodge__v1__exit_metrics__init(e);
		e->reason = text(name ? name : "other");
		e->count = stats->exits[i];
		v->exit_list[v->msg.n_exits++] = e;
	}
}

static void fill_disk(struct disk_metrics *d, unsigned n, const char *path)
{
	Lodge__V1__BlockOperationMetrics **const ops[VIRTIO_BLK_OPS] = {
	    [VIRTIO_BLK_READ] = &d->msg.read,
	    [VIRTIO_BLK_WRITE] = &d->msg.write,
	    [VIRTIO_BLK_FLUSH] = &d->msg.flush,
	    [VIRTIO_BLK_DISCARD] = &d->msg.discard,
	    [VIRTIO_BLK_WRITE_ZEROES] = &d->msg.write_zeroes,
	};

	_Static_assert(MACHINE_DISKS_MAX <= 26, "one letter names a disk");
	lodge__v1__block_metrics__init(&d->msg);
	snprintf(d->device, sizeof(d->device), "vd%c", (char)('a' + n));
	d->msg.device = d->device;
	d->msg.path = text(path);
	d->msg.in_flight = d->stats.in_flight;
	for (unsigned i = 0; i < VIRTIO_BLK_OPS; i++) {
		struct virtio_blk_op_stats *s = &d->stats.op[i];
		Lodge__V1__BlockOperationMetrics *op = &d->op[i];

		lodge__v1__block_operation_metrics__init(op);
		op->operations = s->operations;
		op->bytes = s->bytes;
		op->errors = s->errors;
		op->n_latency = VIRTIO_BLK_LATENCY_BUCKETS;
		op->latency = s->latency;
		op->latency_sum_ns = s->latency_sum_ns;
		*ops[i] = op;
	}
}

static void fill_net(struct net_metrics *m, const struct networks *networks, unsigned n)
{
	struct virtio_net_stats s;

	networks_stats(networks, n, &s);
	lodge__v1__network_metrics__init(&m->msg);
	snprintf(m->device, sizeof(m->device), "net%u", n);
	m->msg.device = m->device;
	m->msg.tap = text(networks_tap(networks, n));
	m->msg.link_up = s.link_up;
	m->msg.rx_packets = s.rx_packets;
	m->msg.rx_bytes = s.rx_bytes;
	m->msg.rx_dropped = s.rx_dropped;
	m->msg.tx_packets = s.tx_packets;
	m->msg.tx_bytes = s.tx_bytes;
	m->msg.tx_dropped = s.tx_dropped;
	m->msg.tx_spoofed = s.tx_spoofed;
}

static uint64_t resident_bytes(int statm_fd)
{
	unsigned long long size, resident;
	char line[128] = "";

	if (statm_fd < 0 || pread(statm_fd, line, sizeof(line) - 1, 0) <= 0 ||
	    sscanf(line, "%llu %llu", &size, &resident) != 2)
		return 0;
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t cpu_time_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* What only a machine that runs has. */
static void fill_machine(struct metrics *m, struct vm *vm)
{
	const struct machine_config *config = vm_config(vm);
	struct machine *machine = vm_machine(vm);
	struct vcpu_stats stats;

	m->msg.uptime_ns = loop_now_ns() - vm_started_ns(vm);
	m->msg.memory_bytes = config->memory_bytes;
	m->msg.vcpus = m->vcpu_list;
	m->msg.n_vcpus = config->cpus;
	for (unsigned i = 0; i < config->cpus; i++) {
		machine_vcpu_stats(machine, i, &stats);
		fill_vcpu(&m->vcpus[i], &stats);
		m->vcpu_list[i] = &m->vcpus[i].msg;
	}
	m->msg.disks = m->disk_list;
	m->msg.n_disks = config->ndisks;
	for (unsigned i = 0; i < config->ndisks; i++) {
		machine_disk_stats(machine, i, &m->disks[i].stats);
		fill_disk(&m->disks[i], i, config->disks[i].image.path);
		m->disk_list[i] = &m->disks[i].msg;
	}
	m->msg.networks = m->net_list;
	m->msg.n_networks = config->nnets;
	for (unsigned i = 0; i < config->nnets; i++) {
		fill_net(&m->nets[i], vm_networks(vm), i);
		m->net_list[i] = &m->nets[i].msg;
	}
}

Lodge__V1__VmMetrics *vm_metrics_new(const struct vm_metrics_sources *s)
{
	/* while it starts, the machine is another thread's */
	bool runs = vm_state(s->vm) != VM_STARTING && vm_machine(s->vm);
	unsigned cpus = runs ? vm_config(s->vm)->cpus : 0;
	struct metrics *m = calloc(1, sizeof(*m) + cpus * sizeof(m->vcpus[0]));
	struct vm_console_stats console;

	if (!m)
		return NULL;
	lodge__v1__vm_metrics__init(&m->msg);
	m->msg.name = text(s->name);
	m->msg.pid = getpid();
	m->msg.resident_bytes = resident_bytes(s->statm_fd);
	m->msg.cpu_time_ns = cpu_time_ns();
	vm_console_stats(s->console, &console);
	lodge__v1__console_metrics__init(&m->console);
	m->console.out_bytes = console.out_bytes;
	m->console.in_bytes = console.in_bytes;
	m->msg.console = &m->console;
	if (runs)
		fill_machine(m, s->vm);
	return &m->msg;
}
