/* machine_config and the kernel command line made from it. */
#include "vmm/arch.h"
#include "vmm/cmdline.h"
#include "vmm/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int setup(void **state)
{
	struct machine_config *config = malloc(sizeof(*config));

	machine_config_init(config);
	*state = config;
	return 0;
}

static int teardown(void **state)
{
	machine_config_fini(*state);
	free(*state);
	return 0;
}

/* What the architecture has a say in: one word, or none, after "panic=-1". */
static const char *reset_word(const struct machine_config *config, char word[32])
{
	const char *words = arch_reset_words(config);

	snprintf(word, 32, "%s%s", *words ? " " : "", words);
	return word;
}

/* `before` ends with "panic=-1". */
static void expect(const struct machine_config *config, const char *before, const char *after)
{
	char buf[MACHINE_CMDLINE_MAX + 1], wanted[256], word[32];

	snprintf(wanted, sizeof(wanted), "%s%s%s", before, reset_word(config, word), after);
	assert_int_equal(cmdline_build(config, buf, NULL), 0);
	assert_string_equal(buf, wanted);
}

static void test_defaults(void **state)
{
	const struct machine_config *config = *state;

	assert_int_equal(config->cpus, 1);
	assert_true(config->memory_bytes >= MACHINE_MEMORY_MIN);
	assert_true(config->console);
	assert_true(config->rng);
	assert_int_equal(config->transport, MACHINE_PCI);
	assert_int_equal(config->initramfs, MACHINE_INITRAMFS_AUTO);
	expect(config, "console=ttyS0 panic=-1", "");
}

static void test_fini_frees_and_clears(void **state)
{
	struct machine_config *config = *state;

	config->kernel = strdup("k");
	config->cpu_masked[config->ncpu_masked++] = strdup("avx");
	config->disks[config->ndisks++].image.path = strdup("d");
	machine_config_fini(config);
	assert_null(config->kernel);
	assert_int_equal(config->ndisks, 0);
}

static void test_users_words_come_last(void **state)
{
	struct machine_config *config = *state;

	config->cmdline = strdup("panic=5 quiet");
	expect(config, "console=ttyS0 panic=-1", " panic=5 quiet");
}

static void test_no_console(void **state)
{
	struct machine_config *config = *state;

	config->console = false;
	expect(config, "panic=-1", "");
}

static void test_our_initramfs_mounts_the_root(void **state)
{
	struct machine_config *config = *state;

	config->has_root = true;
	expect(config, "console=ttyS0 panic=-1", "");
}

static void test_kernel_mounts_the_root(void **state)
{
	struct machine_config *config = *state;

	config->has_root = true;
	config->initramfs = MACHINE_INITRAMFS_NONE;
	expect(config, "console=ttyS0 panic=-1", " root=/dev/vda rootfstype=ext4 rw");
	config->root_partition = 2;
	config->root_read_only = true;
	config->root_fstype = strdup("xfs");
	config->init = strdup("/bin/sh");
	expect(config, "console=ttyS0 panic=-1", " root=/dev/vda2 rootfstype=xfs ro init=/bin/sh");
}

static void test_users_initrd_learns_the_root(void **state)
{
	struct machine_config *config = *state;

	config->has_root = true;
	config->initrd = strdup("initrd.img");
	expect(config, "console=ttyS0 panic=-1", " root=/dev/vda rootfstype=ext4 rw");
}

/* Only where neither our init nor the agent sets the address; the netmask as nfsroot.rst has it. */
static void test_ip(void **state)
{
	struct machine_config *config = *state;

	config->nnets = 1;
	config->nets[0].addresses =
	    (struct net_addresses){.guest = 0x64735c06, .gateway = 0x64735c05, .prefix = 30};
	expect(config, "console=ttyS0 panic=-1", "");
	config->initramfs = MACHINE_INITRAMFS_NONE;
	expect(config, "console=ttyS0 panic=-1",
	       " ip=100.115.92.6::100.115.92.5:255.255.255.252::eth0:off");
	config->nets[0].addresses.gateway = 0;
	expect(config, "console=ttyS0 panic=-1", " ip=100.115.92.6:::255.255.255.252::eth0:off");
	config->nets[0].addresses.guest = 0;
	expect(config, "console=ttyS0 panic=-1", "");
}

static void long_cmdline(struct machine_config *config, size_t len)
{
	free(config->cmdline);
	config->cmdline = malloc(len + 1);
	memset(config->cmdline, 'x', len);
	config->cmdline[len] = '\0';
}

static void test_longest_command_line(void **state)
{
	struct machine_config *config = *state;
	char buf[MACHINE_CMDLINE_MAX + 1];
	struct err err = ERR_INIT;
	char word[32];
	size_t ours = strlen("console=ttyS0 panic=-1 ") + strlen(reset_word(config, word));

	long_cmdline(config, MACHINE_CMDLINE_MAX - ours);
	assert_int_equal(cmdline_build(config, buf, &err), 0);
	assert_int_equal(strlen(buf), MACHINE_CMDLINE_MAX);

	long_cmdline(config, MACHINE_CMDLINE_MAX - ours + 1);
	assert_int_equal(cmdline_build(config, buf, &err), -E2BIG);
	assert_string_equal(err.msg, "the kernel command line has 2048 bytes with ours, 2047 are "
				     "possible: shorten it");
}

static void test_far_too_long_command_line(void **state)
{
	struct machine_config *config = *state;
	char buf[MACHINE_CMDLINE_MAX + 1];

	config->has_root = true;
	config->initramfs = MACHINE_INITRAMFS_NONE;
	long_cmdline(config, 100000);
	config->init = config->cmdline;
	assert_int_equal(cmdline_build(config, buf, NULL), -E2BIG);
	config->init = NULL;
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_defaults),
	    TEST(test_ip),
	    TEST(test_fini_frees_and_clears),
	    TEST(test_users_words_come_last),
	    TEST(test_no_console),
	    TEST(test_our_initramfs_mounts_the_root),
	    TEST(test_kernel_mounts_the_root),
	    TEST(test_users_initrd_learns_the_root),
	    TEST(test_longest_command_line),
	    TEST(test_far_too_long_command_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
