/* `lodge disk info`: what an image is, from its header and its file alone. */
#include "base/json.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/qcow2/qcow2.h"
#include "disk/raw_tools.h"

#include <inttypes.h>
#include <stdio.h>

static void print_size(const char *name, uint64_t bytes)
{
	char text[SIZE_HUMAN_MAX];

	if (bytes < 1024)
		printf("%-19s%s\n", name, size_human(bytes, text));
	else
		printf("%-19s%s (%" PRIu64 " bytes)\n", name, size_human(bytes, text), bytes);
}

/* Names may hold anything: nothing of them drives the terminal. */
static void print_name(const char *name, const char *text)
{
	printf("%-19s", name);
	for (; *text; text++)
		putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
	putchar('\n');
}

static void print_switch(const char *name, bool on)
{
	printf("%-19s%s\n", name, on ? "yes" : "no");
}

static void json_head(struct json *j, const char *path, enum image_format format,
		      uint64_t size_bytes, uint64_t allocated_bytes)
{
	json_object(j, NULL);
	json_string(j, "path", path);
	json_string(j, "format", image_format_name(format));
	json_u64(j, "size_bytes", size_bytes);
	json_u64(j, "allocated_bytes", allocated_bytes);
}

static void print_head(const char *path, enum image_format format, uint64_t size_bytes,
		       uint64_t allocated_bytes)
{
	print_name("path:", path);
	printf("%-19s%s\n", "format:", image_format_name(format));
	print_size("size of the disk:", size_bytes);
	print_size("space in use:", allocated_bytes);
}

static int info_raw(const struct disk_args *args, struct err *err)
{
	struct json j = JSON_INIT(stdout);
	const char *path = args->operands[0];
	struct raw_facts facts;
	int r = raw_facts(path, &facts, err);

	if (r)
		return r;
	if (args->json) {
		json_head(&j, path, IMAGE_RAW, facts.size_bytes, facts.allocated_bytes);
		json_bool(&j, "device", facts.is_device);
		json_end(&j);
		return 0;
	}
	print_head(path, IMAGE_RAW, facts.size_bytes, facts.allocated_bytes);
	if (facts.is_device)
		printf("%-19sa block device\n", "file:");
	return 0;
}

static void json_qcow2(const struct disk_args *args, const struct qcow2_info *info)
{
	struct json j = JSON_INIT(stdout);

	json_head(&j, args->operands[0], IMAGE_QCOW2, info->size_bytes, info->allocated_bytes);
	json_u64(&j, "file_bytes", info->file_bytes);
	json_u64(&j, "version", info->version);
	json_u64(&j, "cluster_bytes", info->cluster_bytes);
	json_u64(&j, "refcount_bits", info->refcount_bits);
	json_string(&j, "compression_type", qcow2_compression_name(info->compression));
	json_bool(&j, "extended_l2", info->extended_l2);
	json_bool(&j, "lazy_refcounts", info->lazy_refcounts);
	json_bool(&j, "dirty", info->dirty);
	json_bool(&j, "corrupt", info->corrupt);
	json_bool(&j, "encrypted", info->encrypted);
	json_bool(&j, "bitmaps", info->has_bitmaps);
	json_string(&j, "backing", info->has_backing ? info->backing_path : NULL);
	json_string(&j, "backing_format",
		    info->has_backing && *info->backing_format ? info->backing_format : NULL);
	json_string(&j, "data_file", info->has_data_file ? info->data_file : NULL);
	json_u64(&j, "snapshots", info->snapshots);
	json_u64(&j, "incompatible_features", info->incompatible_features);
	json_u64(&j, "compatible_features", info->compatible_features);
	json_u64(&j, "autoclear_features", info->autoclear_features);
	json_end(&j);
}

static void print_qcow2(const struct disk_args *args, const struct qcow2_info *info)
{
	print_head(args->operands[0], IMAGE_QCOW2, info->size_bytes, info->allocated_bytes);
	print_size("length of the file:", info->file_bytes);
	printf("%-19s%u\n", "version:", info->version);
	print_size("clusters:", info->cluster_bytes);
	printf("%-19s%u bits\n", "refcounts:", info->refcount_bits);
	printf("%-19s%s\n", "compression:", qcow2_compression_name(info->compression));
	print_switch("extended L2:", info->extended_l2);
	print_switch("lazy refcounts:", info->lazy_refcounts);
	printf("%-19s%u\n", "snapshots:", info->snapshots);
	if (info->has_backing) {
		print_name("backing file:", info->backing_path);
		print_name("backing format:",
			   *info->backing_format ? info->backing_format : "not stated");
	}
	if (info->has_data_file)
		print_name("data file:", info->data_file);
	if (info->has_bitmaps)
		printf("%-19syes\n", "bitmaps:");
	if (info->encrypted)
		printf("%-19syes: cannot be opened\n", "encrypted:");
	if (info->dirty)
		printf("%-19syes: refcounts are rebuilt at the next use\n", "dirty:");
	if (info->corrupt)
		printf("%-19syes: run `lodge disk check --repair all`\n", "corrupt:");
}

static int info_qcow2(const struct disk_args *args, struct err *err)
{
	struct qcow2_info info;
	int r = qcow2_info(args->operands[0], &info, err);

	if (r)
		return r;
	if (args->json)
		json_qcow2(args, &info);
	else
		print_qcow2(args, &info);
	return 0;
}

int disk_info(struct disk_args *args)
{
	struct err err = ERR_INIT;
	int r = args->format.format == IMAGE_RAW ? info_raw(args, &err) : info_qcow2(args, &err);

	return disk_result(args, NULL, r, &err);
}
