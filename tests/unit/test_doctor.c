/*
 * control/doctor: what is said about hosts that lack this or that, shown as a directory of files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/doctor/check.h"
#include "control/doctor/doctor.h"
#include "vmm/arch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/test_doctor.XXXXXX";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int host_new(void **state)
{
	(void)state;
	memset(root + sizeof(root) - 7, 'X', 6);
	return mkdtemp(root) ? 0 : -1;
}

static int host_free(void **state)
{
	(void)state;
	return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A file of the host, with the folders on the way. */
static void host_file(const char *path, const char *text)
{
	char full[512];
	FILE *file;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(full, 0777);
		*p = '/';
	}
	file = fopen(full, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static const struct doctor_item *item_find(const struct doctor *doctor, const char *name)
{
	for (unsigned i = 0; i < doctor->nitems; i++) {
		if (!strcmp(doctor->items[i].name, name))
			return &doctor->items[i];
	}
	fail_msg("no item %s", name);
	return NULL;
}

static void assert_item(const struct doctor *doctor, const char *name, enum doctor_status status,
			const char *found, const char *cure)
{
	const struct doctor_item *item = item_find(doctor, name);

	print_message("%s: %s -> %s\n", name, item->found, item->cure);
	assert_int_equal(item->status, status);
	assert_non_null(strstr(item->found, found));
	assert_non_null(strstr(item->cure, cure));
}

static void host_without_kvm(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	doctor_kvm(&doctor);
	assert_item(&doctor, "kvm", DOCTOR_MISSING, "/dev/kvm is missing", arch_kvm_cure);
	assert_false(doctor_verdict(&doctor));
}

static void device_that_is_not_kvm(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	host_file("/dev/kvm", "");
	doctor_kvm(&doctor);
	assert_int_equal(item_find(&doctor, "kvm")->status, DOCTOR_MISSING);
	assert_false(doctor_verdict(&doctor));
}

static void emulated_guest_code_is_a_lack(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	doctor_speed(&doctor, 1634567);
	assert_item(&doctor, "guest code", DOCTOR_MISSING, "emulated: 1.6 million",
		    "tests/lab/lab");
	assert_false(doctor_verdict(&doctor));
	doctor.nitems = 0;
	doctor_speed(&doctor, UINT64_C(2100000000));
	assert_item(&doctor, "guest code", DOCTOR_OK, "in hardware: 2100 million", "");
	assert_true(doctor_verdict(&doctor));
}

static void device_nodes(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	host_file("/dev/net/tun", "");
	doctor_devices(&doctor);
	assert_item(&doctor, "tun", DOCTOR_OK, "/dev/net/tun", "");
	assert_item(&doctor, "vhost-vsock", DOCTOR_WARN, "No such file", "modprobe vhost_vsock");
	assert_item(&doctor, "vhost-net", DOCTOR_WARN, "No such file", "modprobe vhost_net");
	assert_true(doctor_verdict(&doctor)); /* guests run without them */
}

static void programs(void **state)
{
	struct doctor doctor = {.root = root};
	char path[256];

	(void)state;
	host_file("/usr/sbin/nft", "");
	snprintf(path, sizeof(path), "%s/usr/sbin/nft", root);
	assert_int_equal(chmod(path, 0755), 0);
	host_file("/usr/bin/passt", ""); /* which cannot be executed */
	snprintf(path, sizeof(path), "%s/usr/bin/passt", root);
	assert_int_equal(chmod(path, 0644), 0);
	doctor_programs(&doctor);
	assert_item(&doctor, "nft", DOCTOR_OK, "/usr/sbin/nft", "");
	assert_item(&doctor, "passt", DOCTOR_WARN, "not installed", "apt install passt");
	assert_true(doctor_verdict(&doctor));
}

static void memory_of_a_good_host(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	host_file("/proc/meminfo", "MemTotal:       16384000 kB\nMemFree:         9000000 kB\n"
				   "MemAvailable:   12288000 kB\n");
	host_file("/proc/sys/vm/overcommit_memory", "0\n");
	host_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
	host_file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500\n");
	host_file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
	doctor_memory(&doctor);
	assert_item(&doctor, "memory", DOCTOR_OK, "12000 MiB of 16000 MiB", "");
	assert_item(&doctor, "huge pages", DOCTOR_OK, "2M: 500 of 512 free", "");
	assert_item(&doctor, "thp", DOCTOR_OK, "madvise", "");
	assert_true(doctor_verdict(&doctor));
}

static void memory_of_a_bad_host(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	host_file("/proc/meminfo", "MemTotal: 131072 kB\nMemAvailable: 32768 kB\n");
	host_file("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
	doctor_memory(&doctor);
	assert_item(&doctor, "memory", DOCTOR_MISSING, "32 MiB of 128 MiB", "free memory");
	assert_item(&doctor, "huge pages", DOCTOR_WARN, "0 of 0", "vm.nr_hugepages");
	assert_item(&doctor, "thp", DOCTOR_WARN, "never", "echo madvise");
	assert_false(doctor_verdict(&doctor));
}

static void strict_overcommit_is_named(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	host_file("/proc/meminfo", "MemTotal: 1310720 kB\nMemAvailable: 327680 kB\n");
	host_file("/proc/sys/vm/overcommit_memory", "2\n");
	doctor_memory(&doctor);
	assert_item(&doctor, "memory", DOCTOR_WARN, "strict", "vm.overcommit_memory=0");
}

static void cgroup_limit(void **state)
{
	struct doctor doctor = {.root = root};

	(void)state;
	host_file("/proc/self/cgroup", "0::/box\n");
	host_file("/sys/fs/cgroup/box/memory.max", "67108864\n");
	doctor_limits(&doctor);
	assert_item(&doctor, "cgroup", DOCTOR_WARN, "memory limit 64M", "memory.max of /box");
}

static char *printed(const struct doctor *doctor, unsigned columns, bool json)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	if (json)
		doctor_print_json(doctor, out);
	else
		doctor_print(doctor, out, columns);
	fclose(out);
	return text;
}

/* No line is longer than the terminal is wide, and texts start in one column. */
static void table_fits(void **state)
{
	static const unsigned widths[] = {0, 80, 100, 200};
	struct doctor doctor = {.root = root};

	(void)state;
	doctor_memory(&doctor);
	doctor_devices(&doctor);
	doctor_speed(&doctor, 1600000);
	for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
		char *text = printed(&doctor, widths[i], false), *rest = text, *line;

		while ((line = strsep(&rest, "\n"))) {
			assert_true(strlen(line) <= (widths[i] ? widths[i] : 80));
			if (*line && *line != ' ' && strncmp(line, "Guests", 6)) {
				assert_int_equal(line[22], ' ');
				assert_int_not_equal(line[23], ' ');
			}
		}
		free(text);
	}
}

static void json_escapes(void **state)
{
	struct doctor doctor = {.root = root};
	struct doctor_item *item = doctor_add(&doctor, "x");
	char *text;

	(void)state;
	doctor_found(item, "a \"b\" \\ \x01 \xc3\xa9");
	text = printed(&doctor, 0, true);
	assert_non_null(strstr(text, "\"found\": \"a \\\"b\\\" \\\\ \\u0001 \xc3\xa9\""));
	assert_non_null(strstr(text, "\"guests_can_run\": true"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(host_without_kvm),
	    cmocka_unit_test(device_that_is_not_kvm),
	    cmocka_unit_test(emulated_guest_code_is_a_lack),
	    cmocka_unit_test(device_nodes),
	    cmocka_unit_test(programs),
	    cmocka_unit_test(memory_of_a_good_host),
	    cmocka_unit_test(memory_of_a_bad_host),
	    cmocka_unit_test(strict_overcommit_is_named),
	    cmocka_unit_test(cgroup_limit),
	    cmocka_unit_test(table_fits),
	    cmocka_unit_test(json_escapes),
	};
	struct CMUnitTest with_host[ARRAY_LEN(tests)];

	for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
		with_host[i] = tests[i];
		with_host[i].setup_func = host_new;
		with_host[i].teardown_func = host_free;
	}
	return cmocka_run_group_tests_name("doctor", with_host, NULL, NULL);
}
