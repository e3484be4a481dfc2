/*
 * Reads a device tree in tests: properties by libfdt, and the whole by dtc and dt-validate, which
 * must have nothing to remark.
 */
#ifndef TESTS_UNIT_FDT_READER_H
#define TESTS_UNIT_FDT_READER_H

#include <libfdt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static uint8_t tree[64 * 1024];

static inline int node(const char *path)
{
	int at = fdt_path_offset(tree, path);

	if (at < 0)
		fail_msg("%s: %s", path, fdt_strerror(at));
	return at;
}

static inline bool has_node(const char *path)
{
	return fdt_path_offset(tree, path) >= 0;
}

static inline const void *property(const char *path, const char *name, int *ret_len)
{
	const void *value = fdt_getprop(tree, node(path), name, ret_len);

	if (!value)
		fail_msg("%s has no %s", path, name);
	return value;
}

static inline void assert_text(const char *path, const char *name, const char *want)
{
	assert_string_equal(property(path, name, NULL), want);
}

static inline void assert_cells(const char *path, const char *name, const uint32_t *want, size_t n)
{
	int len;
	const fdt32_t *cells = property(path, name, &len);

	assert_int_equal(len, n * 4);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(fdt32_ld(&cells[i]), want[i]);
}

#define CELLS(path, name, ...)                                    \
	assert_cells(path, name, (const uint32_t[]){__VA_ARGS__}, \
		     sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

/* Neither the command, with FILE for the tree's, nor its status may have anything to remark. */
static inline void assert_content(const char *program, const char *arguments, const char *file)
{
	char command[256], said[1024] = "";
	FILE *p;

	snprintf(command, sizeof(command), "command -v %s >/dev/null", program);
	if (system(command)) {
		unlink(file);
		print_message("SKIP %s is not installed\n", program);
		skip();
	}
	snprintf(command, sizeof(command), "%s %s %s 2>&1", program, arguments, file);
	p = popen(command, "r");
	assert_non_null(p);
	said[fread(said, 1, sizeof(said) - 1, p)] = '\0';
	if (pclose(p) || *said) {
		unlink(file);
		fail_msg("%s: %s", program, said);
	}
}

/* dtc, and dt-validate by the schemas that come with it; skips where there is none. */
static inline void assert_judges_are_content(size_t len)
{
	char file[] = "/tmp/test_fdt.XXXXXX.dtb"; /* dt-validate goes by the name */
	int fd = mkstemps(file, 4);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, tree, len), len);
	close(fd);
	assert_content("dtc", "-I dtb -O dts -o /dev/null", file);
	assert_content("dt-validate", "", file);
	unlink(file);
}

#endif
