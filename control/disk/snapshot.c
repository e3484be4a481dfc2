/* `lodge disk snapshot list`: the internal snapshots of an image. */
#include "base/json.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void json_list(const struct disk_args *args, const struct qcow2_snapshot *list,
		      unsigned count)
{
	struct json j = JSON_INIT(stdout);

	json_object(&j, NULL);
	json_string(&j, "path", args->operands[1]);
	json_array(&j, "snapshots");
	for (unsigned i = 0; i < count; i++) {
		json_object_inline(&j, NULL);
		json_string(&j, "id", list[i].id);
		json_string(&j, "name", list[i].name);
		json_u64(&j, "size_bytes", list[i].size_bytes);
		json_u64(&j, "vm_state_bytes", list[i].vm_state_bytes);
		json_u64(&j, "vm_clock_ns", list[i].vm_clock_ns);
		json_u64(&j, "date_s", list[i].date_sec);
		json_u64(&j, "date_ns", list[i].date_nsec);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
}

static void print_list(struct qcow2_snapshot *list, unsigned count)
{
	if (!count) {
		puts("no snapshots");
		return;
	}
	printf("%-8s %-20s %-10s %-10s %s\n", "id", "date", "disk", "state", "name");
	for (unsigned i = 0; i < count; i++) {
		char size[SIZE_HUMAN_MAX], state[SIZE_HUMAN_MAX], date[32];
		time_t when = list[i].date_sec;
		struct tm tm;

		/* what stands in an image does not drive the terminal */
		for (char *p = list[i].name; *p; p++)
			*p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
		for (char *p = list[i].id; *p; p++)
			*p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
		if (!localtime_r(&when, &tm) ||
		    !strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm))
			snprintf(date, sizeof(date), "%" PRIu32, list[i].date_sec);
		printf("%-8s %-20s %-10s %-10s %s\n", list[i].id, date,
		       size_human(list[i].size_bytes, size),
		       size_human(list[i].vm_state_bytes, state), list[i].name);
	}
}

int disk_snapshot(struct disk_args *args)
{
	struct qcow2_snapshot *list = NULL;
	struct err err = ERR_INIT;
	unsigned count = 0;
	int r;

	if (strcmp(args->operands[0], "list") != 0) {
		err_set(&err, EINVAL,
			"'%s' is not known; say lodge disk snapshot list -f qcow2 PATH",
			args->operands[0]);
		return disk_usage_error(args, &err);
	}
	if (args->format.format != IMAGE_QCOW2) {
		err_set(&err, EINVAL, "a raw image has no snapshots; only qcow2 has");
		return disk_usage_error(args, &err);
	}
	r = qcow2_snapshot_list(args->operands[1], &list, &count, &err);
	if (!r && args->json)
		json_list(args, list, count);
	else if (!r)
		print_list(list, count);
	free(list);
	return disk_result(args, NULL, r, &err);
}
