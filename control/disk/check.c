/* `lodge disk check`: is the structure of an image whole, and --repair. */
#include "base/json.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/qcow2/qcow2.h"
#include "disk/raw_tools.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define PROBLEMS_SHOWN 100 /* a broken image can have millions */

struct check {
	struct disk_job job;
	uint64_t problems;
};

static void print_problem(void *ctx, const char *line)
{
	struct check *check = ctx;

	check->problems++;
	if (check->problems > PROBLEMS_SHOWN || check->job.args->json)
		return;
	printf("%s\n", line);
}

static bool check_at(void *ctx, uint64_t done, uint64_t total)
{
	struct check *check = ctx;

	return disk_job_at(&check->job, done, total);
}

static void json_result(const struct disk_args *args, const struct qcow2_check_result *result)
{
	struct json j = JSON_INIT(stdout);

	json_object(&j, NULL);
	json_string(&j, "path", args->operands[0]);
	json_string(&j, "format", image_format_name(args->format.format));
	json_u64(&j, "corruptions", result->corruptions);
	json_u64(&j, "leaks", result->leaks);
	json_u64(&j, "corruptions_fixed", result->corruptions_fixed);
	json_u64(&j, "leaks_fixed", result->leaks_fixed);
	json_u64(&j, "total_clusters", result->total_clusters);
	json_u64(&j, "allocated_clusters", result->allocated_clusters);
	json_u64(&j, "compressed_clusters", result->compressed_clusters);
	json_u64(&j, "fragmented_clusters", result->fragmented_clusters);
	json_u64(&j, "image_end_bytes", result->image_end_bytes);
	json_end(&j);
}

static void print_count(uint64_t found, uint64_t fixed, const char *one, const char *many)
{
	if (found)
		printf("%" PRIu64 " %s found, %" PRIu64 " repaired\n", found,
		       found == 1 ? one : many, fixed);
}

static void print_result(const struct check *check, const struct qcow2_check_result *result)
{
	if (check->problems > PROBLEMS_SHOWN)
		printf("... and %" PRIu64 " more\n", check->problems - PROBLEMS_SHOWN);
	print_count(result->corruptions, result->corruptions_fixed, "error", "errors");
	print_count(result->leaks, result->leaks_fixed, "leaked cluster", "leaked clusters");
	if (!result->corruptions && !result->leaks)
		printf("no errors\n");
	printf("%" PRIu64 " of %" PRIu64 " clusters in use, %" PRIu64 " compressed, %" PRIu64
	       " out of order\n",
	       result->allocated_clusters, result->total_clusters, result->compressed_clusters,
	       result->fragmented_clusters);
}

static int status_of(const struct qcow2_check_result *result)
{
	if (result->corruptions > result->corruptions_fixed)
		return DISK_CHECK_CORRUPTIONS;
	return result->leaks > result->leaks_fixed ? DISK_CHECK_LEAKS : LODGE_OK;
}

static int check_qcow2(struct disk_args *args)
{
	static const unsigned repairs[] = {
	    [DISK_REPAIR_NONE] = 0,
	    [DISK_REPAIR_LEAKS] = QCOW2_REPAIR_LEAKS,
	    [DISK_REPAIR_ALL] = QCOW2_REPAIR_LEAKS | QCOW2_REPAIR_ALL,
	};
	struct qcow2_check_result result = {0};
	struct check check = {0};
	const struct qcow2_check_ops ops = {
	    .problem = print_problem,
	    .progress = check_at,
	    .ctx = &check,
	};
	struct err err = ERR_INIT;
	int r = disk_job_begin(&check.job, args, &err);

	if (!r) {
		progress_begin(&check.job.progress, "check", 0, args->progress, args->quiet);
		check.job.progress.percent_only = true;
		r = qcow2_check(args->operands[0], repairs[args->repair], &ops, &result, &err);
		if (!r) /* what it told of last was the beginning of the last part */
			check.job.done_bytes = check.job.progress.total_bytes;
		progress_end(&check.job.progress, check.job.done_bytes);
	}
	disk_job_end(&check.job);
	if (r)
		return disk_result(args, &check.job, r, &err);
	if (args->json)
		json_result(args, &result);
	else
		print_result(&check, &result);
	return status_of(&result);
}

/* A raw image has no structure that could be wrong; only its length can be. */
static int check_raw(struct disk_args *args)
{
	const struct qcow2_check_result result = {0};
	struct err err = ERR_INIT;
	struct raw_facts facts;
	int r = raw_facts(args->operands[0], &facts, &err);

	if (!r && (!facts.size_bytes || facts.size_bytes % IMAGE_SECTOR_BYTES))
		r = err_set(&err, EINVAL,
			    "%s is %" PRIu64
			    " bytes long, which is no multiple of %d; is it the right file?",
			    args->operands[0], facts.size_bytes, IMAGE_SECTOR_BYTES);
	if (r)
		return disk_result(args, NULL, r, &err);
	if (args->json)
		json_result(args, &result);
	else
		printf("no errors: a raw image has no structure to check\n");
	return LODGE_OK;
}

int disk_check(struct disk_args *args)
{
	return args->format.format == IMAGE_RAW ? check_raw(args) : check_qcow2(args);
}
