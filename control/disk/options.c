/* The -o options of new images. See control/disk/options.h. */
#include "control/disk/options.h"

#include "base/checked.h"
#include "control/options/parse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char disk_options_text[] =
    "\nOptions of a new image (-o):\n"
    "  preallocation=off|metadata|falloc|full  space that is allocated at once [off];\n"
    "                                metadata: qcow2 only\n"
    "of qcow2 alone:\n"
    "  cluster_size=SIZE             512 to 2M, a power of two [64K]\n"
    "  version=2|3                   or compat=0.10|1.1 [3]\n"
    "  backing=FILE                  as --backing\n"
    "  backing_format=FORMAT         as --backing-format\n"
    "  refcount_bits=N               1, 2, 4, 8, 16, 32 or 64 [16]\n"
    "  extended_l2=on|off            subclusters [off]\n"
    "  compression_type=zlib|zstd    of compressed clusters [zlib]\n"
    "  lazy_refcounts=on|off         write refcounts late [off]\n";

static int set_cluster_size(struct disk_options *o, const char *value, struct err *err)
{
	uint64_t bytes;

	if (parse_size(value, &bytes) || !is_pow2(bytes) || bytes < QCOW2_CLUSTER_BYTES_MIN ||
	    bytes > QCOW2_CLUSTER_BYTES_MAX)
		return err_set(err, EINVAL, "'%s' is not a power of two from 512 to 2M", value);
	o->qcow2.cluster_bytes = (uint32_t)bytes;
	return 0;
}

static int set_version(struct disk_options *o, const char *value, struct err *err)
{
	if (!strcmp(value, "2") || !strcmp(value, "0.10") || !strcmp(value, "v2"))
		o->qcow2.version = 2;
	else if (!strcmp(value, "3") || !strcmp(value, "1.1") || !strcmp(value, "v3"))
		o->qcow2.version = 3;
	else
		return err_set(err, EINVAL, "'%s' is neither 2 (0.10) nor 3 (1.1)", value);
	return 0;
}

static int set_backing(struct disk_options *o, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "the name of the file is empty");
	o->qcow2.backing_path = value;
	return 0;
}

static int set_backing_format(struct disk_options *o, const char *value, struct err *err)
{
	if (image_format_parse(value, &o->backing_format.format))
		return err_set(err, EINVAL, "'%s' is neither raw nor qcow2", value);
	o->backing_format.given = true;
	return 0;
}

static int set_preallocation(struct disk_options *o, const char *value, struct err *err)
{
	if (qcow2_prealloc_parse(value, &o->qcow2.prealloc))
		return err_set(err, EINVAL, "'%s' is none of off, metadata, falloc and full",
			       value);
	return 0;
}

static int set_refcount_bits(struct disk_options *o, const char *value, struct err *err)
{
	unsigned bits;

	if (parse_unsigned(value, 1, 64, &bits) || !is_pow2(bits))
		return err_set(err, EINVAL, "'%s' is none of 1, 2, 4, 8, 16, 32 and 64", value);
	o->qcow2.refcount_bits = bits;
	return 0;
}

static int set_switch(bool *on, const char *value, struct err *err)
{
	if (parse_switch(value, on))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

static int set_extended_l2(struct disk_options *o, const char *value, struct err *err)
{
	return set_switch(&o->qcow2.extended_l2, value, err);
}

static int set_lazy_refcounts(struct disk_options *o, const char *value, struct err *err)
{
	return set_switch(&o->qcow2.lazy_refcounts, value, err);
}

static int set_compression_type(struct disk_options *o, const char *value, struct err *err)
{
	if (qcow2_compression_parse(value, &o->qcow2.compression))
		return err_set(err, EINVAL, "'%s' is neither zlib nor zstd", value);
	return 0;
}

static const struct {
	const char *name;
	int (*set)(struct disk_options *o, const char *value, struct err *err);
	bool raw; /* raw images have it, too */
} names[] = {
    {"preallocation", set_preallocation, true},
    {"cluster_size", set_cluster_size, false},
    {"version", set_version, false},
    {"compat", set_version, false},
    {"backing", set_backing, false},
    {"backing_file", set_backing, false},
    {"backing_format", set_backing_format, false},
    {"backing_fmt", set_backing_format, false},
    {"refcount_bits", set_refcount_bits, false},
    {"extended_l2", set_extended_l2, false},
    {"lazy_refcounts", set_lazy_refcounts, false},
    {"compression_type", set_compression_type, false},
};

static int unknown(const char *name, struct err *err)
{
	const char *list[ARRAY_LEN(names) + 1] = {NULL};
	const char *near;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		list[i] = names[i].name;
	near = parse_suggest(name, list);
	if (near)
		return err_set(err, EINVAL, "unknown option -o %s; did you mean %s?", name, near);
	return err_set(err, EINVAL, "unknown option -o %s; `lodge disk create --help` lists them",
		       name);
}

static int set_one(struct disk_options *o, enum image_format format, const char *text,
		   struct err *err)
{
	const char *value = strchr(text, '=') + 1; /* disk_args_parse() has seen it */
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)(value - 1 - text), text);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		int r;

		if (strcmp(names[i].name, name) != 0)
			continue;
		if (format == IMAGE_RAW && !names[i].raw)
			return err_set(err, EINVAL, "-o %s: a raw image has none; leave it out",
				       name);
		r = names[i].set(o, value, err);
		if (r)
			err_prefix(err, "-o %s", name);
		return r;
	}
	return unknown(name, err);
}

static int check(const struct disk_options *o, enum image_format format, struct err *err)
{
	if (format == IMAGE_RAW && o->qcow2.backing_path)
		return err_set(err, EINVAL, "a raw image cannot have a backing file; say qcow2");
	if (format == IMAGE_RAW && o->qcow2.prealloc == QCOW2_PREALLOC_METADATA)
		return err_set(err, EINVAL,
			       "-o preallocation=metadata: a raw image has no metadata; say off, "
			       "falloc or full");
	if (o->qcow2.backing_path && !o->backing_format.given)
		return err_set(err, EINVAL,
			       "the format of the backing file %s must be stated; add "
			       "--backing-format raw or --backing-format qcow2",
			       o->qcow2.backing_path);
	if (!o->qcow2.backing_path && o->backing_format.given)
		return err_set(err, EINVAL, "a backing format without a backing file");
	return 0;
}

int disk_options_parse(const struct disk_args *args, enum image_format format,
		       struct disk_options *ret_options, struct err *err)
{
	struct disk_options o = {
	    .qcow2 = {.backing_path = args->backing},
	    .backing_format = args->backing_format,
	};
	int r = 0;

	for (unsigned i = 0; i < args->ncreate_options && !r; i++)
		r = set_one(&o, format, args->create_options[i], err);
	if (!r)
		r = check(&o, format, err);
	if (r)
		return r;
	if (o.qcow2.backing_path)
		o.qcow2.backing_format = image_format_name(o.backing_format.format);
	*ret_options = o;
	return 0;
}

int disk_options_parse_prealloc(const struct disk_args *args, enum image_format format,
				enum qcow2_prealloc *ret_prealloc, struct err *err)
{
	struct disk_options o;
	int r;

	for (unsigned i = 0; i < args->ncreate_options; i++) {
		if (strncmp(args->create_options[i], "preallocation=", 14) != 0)
			return err_set(err, EINVAL, "-o %s: only preallocation can be said here",
				       args->create_options[i]);
	}
	r = disk_options_parse(args, format, &o, err);
	if (!r)
		*ret_prealloc = o.qcow2.prealloc;
	return r;
}

enum raw_prealloc disk_options_raw_prealloc(enum qcow2_prealloc prealloc)
{
	switch (prealloc) {
	case QCOW2_PREALLOC_FALLOC:
		return RAW_PREALLOC_FALLOC;
	case QCOW2_PREALLOC_FULL:
		return RAW_PREALLOC_FULL;
	default:
		return RAW_PREALLOC_OFF;
	}
}
