/*
 * The initramfs, read back from guest memory by a cpio reader of this test's own (and by cpio(1)
 * and a real kernel's modules, where LODGE_GUEST_MODULES names their directory).
 */
#include "tests/unit/fake_kernel.h"
#include "vmm/boot/initramfs.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

extern const uint8_t guest_init_start[], guest_init_end[];
extern const uint8_t guest_agent_start[], guest_agent_end[];

#define GUEST_BYTES (32 * MIB)
#define AT	    (3 * MIB)

static char dir[] = "/tmp/test_initramfs.XXXXXX";
static struct gmem *mem;
static uint8_t *host;
static int memfd;

static int set_up(void **state)
{
	struct gmem_region region = {.len_bytes = GUEST_BYTES};

	(void)state;
	memfd = memfd_create("guest", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, (off_t)GUEST_BYTES) < 0 || !mkdtemp(dir))
		return -1;
	host = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	region.host = host;
	region.fd = memfd;
	return host == MAP_FAILED || gmem_new(&mem) < 0 || gmem_add(mem, &region, NULL) < 0 ? -1
											    : 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int tear_down(void **state)
{
	(void)state;
	gmem_free(mem);
	munmap(host, GUEST_BYTES);
	close(memfd);
	return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *in_dir(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void put_file(const char *name, const void *data, size_t len)
{
	FILE *f = fopen(in_dir(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	fclose(f);
}

static void put_text(const char *name, const char *text)
{
	put_file(name, text, strlen(text));
}

/* ---- reading back ------------------------------------------------------------------------- */

struct entry {
	char name[128];
	uint32_t mode, major, minor;
	const uint8_t *data;
	size_t len;
};

struct archive {
	struct entry entries[64];
	unsigned n;
};

static uint32_t field(const uint8_t *header, unsigned n)
{
	char text[9] = {0};
	char *end;

	memcpy(text, header + 6 + 8 * n, 8);
	uint32_t v = (uint32_t)strtoul(text, &end, 16);
	assert_int_equal(end - text, 8);
	return v;
}

static struct archive parse(const uint8_t *p, size_t len)
{
	struct archive a = {.n = 0};
	size_t at = 0;

	for (;;) {
		struct entry *e = &a.entries[a.n];

		assert_true(at + 110 <= len);
		assert_memory_equal(p + at, "070701", 6);
		e->mode = field(p + at, 1);
		e->len = field(p + at, 6);
		e->major = field(p + at, 9);
		e->minor = field(p + at, 10);
		uint32_t name_bytes = field(p + at, 11);
		assert_true(name_bytes < sizeof(e->name));
		memcpy(e->name, p + at + 110, name_bytes);
		assert_int_equal(e->name[name_bytes - 1], 0);
		at = (at + 110 + name_bytes + 3) & ~(size_t)3;
		e->data = p + at;
		at = (at + e->len + 3) & ~(size_t)3;
		assert_true(at <= len);
		if (!strcmp(e->name, "TRAILER!!!"))
			break;
		a.n++;
		assert_true(a.n < ARRAY_LEN(a.entries));
	}
	assert_int_equal(at, len);
	return a;
}

static const struct entry *find(const struct archive *a, const char *name)
{
	for (unsigned i = 0; i < a->n; i++)
		if (!strcmp(a->entries[i].name, name))
			return &a->entries[i];
	fail_msg("no entry %s", name);
	return NULL;
}

static void assert_text(const struct entry *e, const char *text)
{
	assert_int_equal(e->len, strlen(text));
	assert_memory_equal(e->data, text, e->len);
}

static size_t load(struct initramfs *ird)
{
	struct err err = ERR_INIT;
	size_t len = initramfs_size_bytes(ird);

	assert_int_equal(
	    fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)GUEST_BYTES), 0);
	if (initramfs_load(ird, mem, AT, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(host[AT - 1], 0);
	for (size_t i = 0; i < 4096; i++)
		assert_int_equal(host[AT + len + i], 0);
	initramfs_free(ird);
	return len;
}

static struct archive build(const struct initramfs_spec *spec)
{
	struct err err = ERR_INIT;
	struct initramfs *ird = NULL;

	if (initramfs_build(spec, &ird, &err) < 0)
		fail_msg("%s", err.msg);
	return parse(host + AT, load(ird));
}

static struct err build_fails(const char *const *names, unsigned n)
{
	struct err err = ERR_INIT;
	struct initramfs *ird = NULL;
	struct initramfs_spec spec = {.modules_dir = dir, .modules = names, .nmodules = n};

	assert_true(initramfs_build(&spec, &ird, &err) < 0);
	assert_null(ird);
	assert_non_null(strstr(err.msg, dir));
	return err;
}

/* ---- tests -------------------------------------------------------------------------------- */

static void holds_what_init_needs(void **state)
{
	struct initramfs_spec spec = {.conf = "root=/dev/vda\n"};
	struct archive a = build(&spec);
	const struct entry *e;
	static const char *const dirs[] = {"dev", "proc", "sys", "newroot"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		assert_int_equal(find(&a, dirs[i])->mode, S_IFDIR | 0755);
	e = find(&a, "init");
	assert_int_equal(e->mode, S_IFREG | 0755);
	assert_int_equal(e->len, (uintptr_t)guest_init_end - (uintptr_t)guest_init_start);
	assert_memory_equal(e->data, guest_init_start, e->len);
	assert_memory_equal(e->data,
			    "\x7f"
			    "ELF",
			    4);
	e = find(&a, "dev/console");
	assert_int_equal(e->mode, S_IFCHR | 0600);
	assert_int_equal(e->major, 5);
	assert_int_equal(e->minor, 1);
	assert_text(find(&a, "lodge.conf"), "root=/dev/vda\n");
	assert_int_equal(a.n, 7);
}

static void holds_the_agent_where_it_is_wanted(void **state)
{
	struct initramfs_spec spec = {.conf = "", .agent = true};
	struct archive a = build(&spec);
	const struct entry *e = find(&a, "lodge-agent");

	(void)state;
	assert_int_equal(e->mode, S_IFREG | 0755);
	assert_int_equal(e->len, (uintptr_t)guest_agent_end - (uintptr_t)guest_agent_start);
	assert_memory_equal(e->data, guest_agent_start, e->len);
	assert_memory_equal(e->data,
			    "\x7f"
			    "ELF",
			    4);
	/* the limit */
	assert_in_range(e->len, 4096, 400 * KIB);
}

static const char dep[] = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n"
			  "kernel/fs/jbd2/jbd2.ko:\n"
			  "kernel/lib/crc16.ko:\n"
			  "kernel/virtio-ring.ko:\n"
			  "kernel/virtio.ko: kernel/virtio-ring.ko\n"
			  "kernel/virtio_blk.ko: kernel/virtio.ko kernel/virtio-ring.ko\n";

static void put_modules(void)
{
	static const char *const dirs[] = {"kernel", "kernel/fs", "kernel/fs/ext4",
					   "kernel/fs/jbd2", "kernel/lib"};

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		mkdir(in_dir(dirs[i]), 0755);
	put_text("modules.dep", dep);
	put_text("kernel/fs/ext4/ext4.ko", "this is ext4");
	put_text("kernel/fs/jbd2/jbd2.ko", "jbd2");
	put_text("kernel/lib/crc16.ko", "crc");
	put_text("kernel/virtio-ring.ko", "ring");
	put_text("kernel/virtio.ko", "virtio");
	put_text("kernel/virtio_blk.ko", "blk");
}

static void modules_come_after_what_they_need(void **state)
{
	/* '-' and '_' are the same; each module once; what modules.dep does not have is left out */
	static const char *const names[] = {"virtio-blk", "virtio_pci", "ext4", "virtio_ring"};
	struct initramfs_spec spec = {
	    .modules_dir = dir, .modules = names, .nmodules = ARRAY_LEN(names)};

	(void)state;
	put_modules();
	struct archive a = build(&spec);

	assert_text(find(&a, "modules/order"), "/modules/000-virtio_ring.ko\n"
					       "/modules/001-virtio.ko\n"
					       "/modules/002-virtio_blk.ko\n"
					       "/modules/003-jbd2.ko\n"
					       "/modules/004-crc16.ko\n"
					       "/modules/005-ext4.ko\n");
	assert_text(find(&a, "modules/000-virtio_ring.ko"), "ring");
	assert_text(find(&a, "modules/001-virtio.ko"), "virtio");
	assert_text(find(&a, "modules/002-virtio_blk.ko"), "blk");
	assert_text(find(&a, "modules/003-jbd2.ko"), "jbd2");
	assert_text(find(&a, "modules/004-crc16.ko"), "crc");
	assert_text(find(&a, "modules/005-ext4.ko"), "this is ext4");
	assert_int_equal(find(&a, "modules")->mode, S_IFDIR | 0755);
}

static void packed_modules_are_unpacked(void **state)
{
	static const struct {
		enum unpack_format format;
		const char *suffix;
	} kinds[] = {{UNPACK_GZIP, "gz"}, {UNPACK_XZ, "xz"}, {UNPACK_ZSTD, "zst"}};
	static const char *const names[] = {"big"};
	struct initramfs_spec spec = {.modules_dir = dir, .modules = names, .nmodules = 1};
	struct blob data = blob_new(777777);

	(void)state;
	fill_like_code(data.data, data.len, 4);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		struct blob packed = pack(kinds[i].format, data.data, data.len);
		char name[64], line[128];

		snprintf(name, sizeof(name), "big.ko.%s", kinds[i].suffix);
		put_file(name, packed.data, packed.len);
		snprintf(line, sizeof(line), "%s:\n", name);
		put_text("modules.dep", line);

		struct archive a = build(&spec);
		const struct entry *e = find(&a, "modules/000-big.ko");

		assert_int_equal(e->len, data.len);
		assert_memory_equal(e->data, data.data, data.len);

		/* damaged, it is named */
		packed.data[packed.len / 2] ^= 0xff;
		put_file(name, packed.data, packed.len / 2 + 10);
		struct err err = build_fails(names, 1);
		assert_non_null(strstr(err.msg, name));
		assert_non_null(strstr(err.msg, "unpacked"));
		free(packed.data);
	}
	free(data.data);
}

static void cycles_end(void **state)
{
	static const char *const names[] = {"a"};
	struct initramfs_spec spec = {.modules_dir = dir, .modules = names, .nmodules = 1};

	(void)state;
	put_text("a.ko", "A");
	put_text("b.ko", "B");
	put_text("modules.dep", "a.ko: b.ko\nb.ko: a.ko b.ko");
	struct archive a = build(&spec);
	assert_text(find(&a, "modules/order"), "/modules/000-b.ko\n/modules/001-a.ko\n");
}

static void long_chains_are_refused(void **state)
{
	static const char *const names[] = {"m0"};
	char text[32768];
	size_t n = 0;

	(void)state;
	for (int i = 0; i < 1000; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "m%d.ko: m%d.ko\n", i, i + 1);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "m1000.ko:\n");
	put_file("modules.dep", text, n);
	struct err err = build_fails(names, 1);
	assert_non_null(strstr(err.msg, "too deeply"));
}

static void nothing_outside_of_the_directory_is_opened(void **state)
{
	static const char *const names[] = {"passwd", "link"};
	struct err err;

	(void)state;
	put_text("modules.dep", "../../../../../../etc/passwd:\n/etc/passwd:\nlink:\n");
	err = build_fails(names, 1);
	assert_int_equal(err.code, EXDEV);
	assert_int_equal(symlink("/etc/passwd", in_dir("link")), 0);
	err = build_fails(names + 1, 1);
	assert_int_equal(err.code, EXDEV);
}

static void bad_directories_are_named(void **state)
{
	static const char *const names[] = {"a"};
	struct err err;
	struct initramfs *ird = NULL;
	struct initramfs_spec spec = {.modules_dir = "/nonexistent/modules"};

	(void)state;
	put_text("modules.dep", "a.ko: missing.ko\n");
	err = build_fails(names, 1);
	assert_non_null(strstr(err.msg, "missing.ko"));
	assert_non_null(strstr(err.msg, "depmod"));

	put_text("modules.dep", "a.ko:\n");
	unlink(in_dir("a.ko"));
	err = build_fails(names, 1);
	assert_int_equal(err.code, ENOENT);
	assert_non_null(strstr(err.msg, "a.ko"));

	unlink(in_dir("modules.dep"));
	err = build_fails(names, 1);
	assert_int_equal(err.code, ENOENT);
	assert_non_null(strstr(err.msg, "depmod"));

	err = (struct err)ERR_INIT;
	assert_int_equal(initramfs_build(&spec, &ird, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/modules"));
}

static void own_file_is_taken_as_it_is(void **state)
{
	struct blob data = blob_new(3000001);
	struct initramfs *ird = NULL;

	(void)state;
	fill_like_code(data.data, data.len, 8);
	put_file("own.cpio", data.data, data.len);
	assert_int_equal(initramfs_from_file(in_dir("own.cpio"), &ird, NULL), 0);
	assert_int_equal(initramfs_size_bytes(ird), data.len);
	assert_int_equal(load(ird), data.len);
	assert_memory_equal(host + AT, data.data, data.len);
	free(data.data);
}

static void bad_own_files_are_named(void **state)
{
	struct initramfs *ird = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(initramfs_from_file(in_dir("none"), &ird, &err), -ENOENT);
	assert_non_null(strstr(err.msg, in_dir("none")));
	err = (struct err)ERR_INIT;
	assert_int_equal(initramfs_from_file(dir, &ird, &err), -EISDIR);
	assert_non_null(strstr(err.msg, "is a directory"));
	put_text("empty", "");
	err = (struct err)ERR_INIT;
	assert_int_equal(initramfs_from_file(in_dir("empty"), &ird, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "is empty"));

	/* does not fit */
	put_text("small", "0123456789");
	err = (struct err)ERR_INIT;
	assert_int_equal(initramfs_from_file(in_dir("small"), &ird, &err), 0);
	assert_int_equal(initramfs_load(ird, mem, GUEST_BYTES - 9, &err), -ENOMEM);
	assert_non_null(strstr(err.msg, "--memory"));

	/* becomes shorter while we hold it */
	put_text("small", "012");
	err = (struct err)ERR_INIT;
	assert_int_equal(initramfs_load(ird, mem, AT, &err), -ESTALE);
	assert_non_null(strstr(err.msg, "shorter"));
	initramfs_free(ird);
}

static void module_directory_is_found_beside_the_kernel(void **state)
{
	char kernel[512], *found;

	(void)state;
	snprintf(kernel, sizeof(kernel), "%s/boot", dir);
	mkdir(kernel, 0755);
	snprintf(kernel, sizeof(kernel), "%s/boot/vmlinuz", dir);
	assert_null(modules_dir_find(kernel, "9.9-none"));
	assert_null(modules_dir_find(kernel, NULL));
	assert_null(modules_dir_find(kernel, "../boot"));
	mkdir(in_dir("lib"), 0755);
	mkdir(in_dir("lib/modules"), 0755);
	mkdir(in_dir("lib/modules/9.9-none"), 0755);
	found = modules_dir_find(kernel, "9.9-none");
	assert_non_null(found);
	assert_int_equal(access(found, R_OK), 0);
	assert_non_null(strstr(found, "lib/modules/9.9-none"));
	free(found);
}

static void distribution_modules_are_found(void **state)
{
	static const char *const names[] = {"virtio_pci", "virtio_blk",
					    "virtio_rng", "ext4",
					    "nfsv4",	  "vmw_vsock_virtio_transport"};
	const char *modules = getenv("LODGE_GUEST_MODULES");
	struct initramfs_spec spec = {
	    .modules_dir = modules, .modules = names, .nmodules = ARRAY_LEN(names)};
	char command[600], line[256];
	bool blk = false, ring_before = false;
	unsigned lines = 0;
	FILE *f;

	(void)state;
	if (!modules) {
		print_message("LODGE_GUEST_MODULES is not set\n");
		skip();
	}
	struct archive a = build(&spec);
	size_t len = (size_t)(a.entries[a.n].data - host) - AT;

	put_file("out.cpio", host + AT, len);
	snprintf(command, sizeof(command), "cpio -t --quiet <%s", in_dir("out.cpio"));
	f = popen(command, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		lines++;
		ring_before |= !blk && strstr(line, "-virtio_ring.ko") != NULL;
		blk |= strstr(line, "-virtio_blk.ko") != NULL;
	}
	if (pclose(f) != 0) {
		print_message("no cpio here\n");
		skip();
	}
	assert_int_equal(lines, a.n);
	assert_true(blk && ring_before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(holds_what_init_needs),
	    cmocka_unit_test(holds_the_agent_where_it_is_wanted),
	    cmocka_unit_test(modules_come_after_what_they_need),
	    cmocka_unit_test(packed_modules_are_unpacked),
	    cmocka_unit_test(cycles_end),
	    cmocka_unit_test(long_chains_are_refused),
	    cmocka_unit_test(nothing_outside_of_the_directory_is_opened),
	    cmocka_unit_test(bad_directories_are_named),
	    cmocka_unit_test(own_file_is_taken_as_it_is),
	    cmocka_unit_test(bad_own_files_are_named),
	    cmocka_unit_test(module_directory_is_found_beside_the_kernel),
	    cmocka_unit_test(distribution_modules_are_found),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
