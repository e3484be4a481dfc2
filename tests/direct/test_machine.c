/* How a machine runs and ends, as one who starts it sees it: console text, event, reason. */
#include "tests/direct/direct.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

static void test_hello(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "hello");
	d.config.cmdline = strdup("the user's words");
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_POWEROFF);
	assert_string_equal(d.reason, "guest powered off");
	direct_expect(&d, "hello from the payload\n");
	direct_expect(&d, "cmdline: console=ttyS0 panic=-1 reboot=acpi the user's words\n");
	direct_expect(&d, "a string at once\n");
	direct_fini(&d);
}

static void test_many_cpus(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "hello");
	d.config.cpus = 4;
	d.config.rng = false;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_POWEROFF);
	direct_expect(&d, "hello from the payload\n");
	direct_fini(&d);
}

static void test_memory_above_4_gib(void **state)
{
	struct direct d;
	struct sysinfo host;
	(void)state;

	assert_int_equal(sysinfo(&host), 0);
	if ((uint64_t)host.totalram * host.mem_unit < UINT64_C(6) << 30) {
		print_message("SKIP: memory above 4 GiB: this host has less than 6 GiB\n");
		skip();
	}
	direct_init(&d, "hello");
	d.config.memory_bytes = UINT64_C(5) << 30;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_POWEROFF);
	direct_fini(&d);
}

static void test_mmio_transport(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "hello");
	d.config.transport = MACHINE_MMIO;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_POWEROFF);
	direct_fini(&d);
}

static void test_no_console(void **state)
{
	struct direct d;
	(void)state;

	/* No serial port: its status reads as all ones, so the payload never waits for it. */
	direct_init(&d, "hello");
	d.config.console = false;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_POWEROFF);
	assert_int_equal(d.console_len, 0);
	direct_fini(&d);
}

static void test_reset(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "reset");
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_REBOOT);
	assert_string_equal(d.reason, "guest rebooted");
	direct_expect(&d, "resetting\n");
	direct_fini(&d);
}

static void test_reset_by_keyboard_controller(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "i8042");
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_REBOOT);
	direct_fini(&d);
}

static void test_triple_fault(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "triple-fault");
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_TRIPLE_FAULT);
	assert_memory_equal(d.reason, "triple fault on vCPU 0", 22);
	direct_expect(&d, "faulting\n");
	assert_null(strstr(d.console, "still here"));
	direct_fini(&d);
}

static void test_panic_lets_the_last_words_out(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "panic");
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_PANIC);
	assert_string_equal(d.reason, "guest kernel panicked");
	direct_expect(&d, "last words\n");
	direct_fini(&d);
}

static void test_power_button(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "button");
	d.wait_for = "waiting\n";
	d.then = machine_power_button;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_POWEROFF);
	direct_expect(&d, "pressed\n");
	direct_fini(&d);
}

static void test_stop_of_a_guest_that_never_exits(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "spin");
	d.config.cpus = 2;
	d.wait_for = "spinning\n";
	d.then = machine_stop;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_STOPPED);
	assert_string_equal(d.reason, "stopped on request");
	direct_fini(&d);
}

static void hostile(enum machine_transport transport)
{
	struct direct d;

	direct_init(&d, "hostile");
	d.config.transport = transport;
	direct_run(&d);
	direct_expect(&d, "\nsurvived\n");
	assert_int_equal(d.event, MACHINE_POWEROFF);
	direct_fini(&d);
}

static void test_hostile_pci(void **state)
{
	(void)state;
	hostile(MACHINE_PCI);
}

static void test_hostile_mmio(void **state)
{
	(void)state;
	hostile(MACHINE_MMIO);
}

/* ---- refusals: one line that names the thing ---- */

static void expect_refusal(struct direct *d, const char *text)
{
	const struct machine_callbacks callbacks = {.ctx = d};
	struct err err = ERR_INIT;

	assert_true(machine_new(&d->config, d->loop, NULL, &callbacks, &d->machine, &err) < 0);
	if (!strstr(err.msg, text))
		fail_msg("\"%s\" lacks \"%s\"", err.msg, text);
	assert_null(strchr(err.msg, '\n'));
	assert_null(d->machine);
	direct_fini(d);
}

static void test_too_much_memory(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "hello");
	d.config.memory_bytes = UINT64_C(1) << 46;
	expect_refusal(&d, "memory of 67108864 MiB is more than this host has");
}

static void test_too_many_cpus(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "hello");
	d.config.cpus = MACHINE_CPUS_MAX + 1;
	expect_refusal(&d, "65 CPUs, 1 to 64 are possible");
}

static void test_unknown_cpu_feature(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "hello");
	d.config.cpu_masked[0] = strdup("sse4");
	d.config.ncpu_masked = 1;
	expect_refusal(&d, "unknown CPU feature 'sse4': did you mean");
}

static void test_missing_kernel(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "no-such-payload");
	expect_refusal(&d, "no-such-payload.elf");
}

/* The end comes nevertheless, through the same callback. */
static void test_stop_before_the_guest_ran(void **state)
{
	struct direct d;
	(void)state;

	direct_init(&d, "spin");
	d.stop_first = true;
	direct_run(&d);
	assert_int_equal(d.event, MACHINE_STOPPED);
	assert_int_equal(d.console_len, 0);
	direct_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hello),
	    cmocka_unit_test(test_many_cpus),
	    cmocka_unit_test(test_memory_above_4_gib),
	    cmocka_unit_test(test_mmio_transport),
	    cmocka_unit_test(test_no_console),
	    cmocka_unit_test(test_reset),
	    cmocka_unit_test(test_reset_by_keyboard_controller),
	    cmocka_unit_test(test_triple_fault),
	    cmocka_unit_test(test_panic_lets_the_last_words_out),
	    cmocka_unit_test(test_power_button),
	    cmocka_unit_test(test_stop_of_a_guest_that_never_exits),
	    cmocka_unit_test(test_stop_before_the_guest_ran),
	    cmocka_unit_test(test_hostile_pci),
	    cmocka_unit_test(test_hostile_mmio),
	    cmocka_unit_test(test_too_much_memory),
	    cmocka_unit_test(test_too_many_cpus),
	    cmocka_unit_test(test_unknown_cpu_feature),
	    cmocka_unit_test(test_missing_kernel),
	};
	const char *why = direct_unavailable();

	if (why) {
		printf("SKIP: test_machine: %s\n", why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
