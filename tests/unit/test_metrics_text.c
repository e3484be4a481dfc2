/* control/metrics_text: lines as the format has them, for several VMs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/metrics_text.h"

#include <stdlib.h>
#include <string.h>

static void expect_line(const char *text, const char *line)
{
	size_t len = strlen(line);

	for (const char *at = text; (at = strstr(at, line)); at++) {
		if ((at == text || at[-1] == '\n') && at[len] == '\n')
			return;
	}
	fail_msg("no line %s in\n%s", line, text);
}

static unsigned count(const char *text, const char *word)
{
	unsigned n = 0;

	for (const char *at = text; (at = strstr(at, word)); at++)
		n++;
	return n;
}

static void labels_are_escaped(void **state)
{
	Lodge__V1__VmMetrics vm = LODGE__V1__VM_METRICS__INIT, *list[] = {&vm};
	char name[] = "a\\b\"c\nd", *text;

	(void)state;
	vm.name = name;
	vm.memory_bytes = UINT64_MAX;
	text = metrics_text(list, 1);
	expect_line(text, "lodge_vm_memory_bytes{vm=\"a\\\\b\\\"c\\nd\"} 18446744073709551615");
	free(text);
}

static void seconds_are_exact(void **state)
{
	Lodge__V1__VmMetrics vm = LODGE__V1__VM_METRICS__INIT, *list[] = {&vm};
	char name[] = "a", *text;

	(void)state;
	vm.name = name;
	vm.uptime_ns = UINT64_C(12345678901234567);
	vm.cpu_time_ns = 1;
	text = metrics_text(list, 1);
	expect_line(text, "lodge_vm_uptime_seconds{vm=\"a\"} 12345678.901234567");
	expect_line(text, "lodge_vm_cpu_seconds_total{vm=\"a\"} 0.000000001");
	free(text);
}

static void families_stand_together(void **state)
{
	Lodge__V1__VmMetrics vms[3], *list[3];
	char names[3][2] = {"a", "b", "c"}, *text, *at;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		lodge__v1__vm_metrics__init(&vms[i]);
		vms[i].name = names[i];
		list[i] = &vms[i];
	}
	text = metrics_text(list, 3);
	assert_int_equal(count(text, "# TYPE lodge_vm_uptime_seconds gauge\n"), 1);
	assert_int_equal(count(text, "# HELP lodge_vm_uptime_seconds "), 1);
	at = strstr(text, "# TYPE lodge_vm_uptime_seconds gauge\n"
			  "lodge_vm_uptime_seconds{vm=\"a\"} 0.000000000\n"
			  "lodge_vm_uptime_seconds{vm=\"b\"} 0.000000000\n"
			  "lodge_vm_uptime_seconds{vm=\"c\"} 0.000000000\n# HELP ");
	assert_non_null(at);
	free(text);
}

static void buckets_are_cumulative(void **state)
{
	Lodge__V1__VmMetrics vm = LODGE__V1__VM_METRICS__INIT, *list[] = {&vm};
	Lodge__V1__BlockMetrics disk = LODGE__V1__BLOCK_METRICS__INIT, *disks[] = {&disk};
	Lodge__V1__BlockOperationMetrics read = LODGE__V1__BLOCK_OPERATION_METRICS__INIT;
	uint64_t latency[] = {1, 0, 5, 2};
	char name[] = "a", device[] = "vda", *text;

	(void)state;
	vm.name = name;
	vm.disks = disks;
	vm.n_disks = 1;
	disk.device = device;
	disk.read = &read; /* and no other: an older process may not tell it */
	read.latency = latency;
	read.n_latency = ARRAY_LEN(latency);
	read.latency_sum_ns = 1500000000;
	text = metrics_text(list, 1);
#define BUCKET(suffix) \
	"lodge_vm_block_latency_seconds" suffix "vm=\"a\",device=\"vda\",operation=\"read\""
	expect_line(text, BUCKET("_bucket{") ",le=\"0.000001000\"} 1");
	expect_line(text, BUCKET("_bucket{") ",le=\"0.000002000\"} 1");
	expect_line(text, BUCKET("_bucket{") ",le=\"0.000004000\"} 6");
	expect_line(text, BUCKET("_bucket{") ",le=\"+Inf\"} 8");
	expect_line(text, BUCKET("_count{") "} 8");
	expect_line(text, BUCKET("_sum{") "} 1.500000000");
	assert_int_equal(count(text, "_bucket{"), 4);
	assert_int_equal(count(text, "operation=\"write\""), 0);
	free(text);
}

static void networks(void **state)
{
	Lodge__V1__VmMetrics vm = LODGE__V1__VM_METRICS__INIT, *list[] = {&vm};
	Lodge__V1__NetworkMetrics net = LODGE__V1__NETWORK_METRICS__INIT, *nets[] = {&net};
	char name[] = "a", device[] = "eth0", *text;

	(void)state;
	vm.name = name;
	vm.networks = nets;
	vm.n_networks = 1;
	net.device = device;
	net.rx_bytes = 1;
	net.tx_dropped = 2;
	text = metrics_text(list, 1);
	expect_line(text, "lodge_vm_network_bytes_total{vm=\"a\",device=\"eth0\",direction="
			  "\"receive\"} 1");
	expect_line(text, "lodge_vm_network_dropped_total{vm=\"a\",device=\"eth0\",direction="
			  "\"transmit\"} 2");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(labels_are_escaped),
	    cmocka_unit_test(seconds_are_exact),
	    cmocka_unit_test(families_stand_together),
	    cmocka_unit_test(buckets_are_cumulative),
	    cmocka_unit_test(networks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
