/* Names of options, as qemu-img has them. */
#include "disk/qcow2/qcow2.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>

static const char *const prealloc_names[] = {"off", "metadata", "falloc", "full"};
static const char *const compression_names[] = {"zlib", "zstd"};

/* The index of `name`, or -EINVAL. */
static int find(const char *const *names, int count, const char *name)
{
	for (int i = 0; i < count; i++) {
		if (!strcmp(names[i], name))
			return i;
	}
	return -EINVAL;
}

int qcow2_prealloc_parse(const char *name, enum qcow2_prealloc *ret_prealloc)
{
	int i = find(prealloc_names, ARRAY_LEN(prealloc_names), name);

	if (i < 0)
		return i;
	*ret_prealloc = (enum qcow2_prealloc)i;
	return 0;
}

const char *qcow2_prealloc_name(enum qcow2_prealloc prealloc)
{
	return prealloc_names[prealloc];
}

int qcow2_compression_parse(const char *name, enum qcow2_compression *ret_type)
{
	int i = find(compression_names, ARRAY_LEN(compression_names), name);

	if (i < 0)
		return i;
	*ret_type = (enum qcow2_compression)i;
	return 0;
}

const char *qcow2_compression_name(enum qcow2_compression type)
{
	return compression_names[type];
}
