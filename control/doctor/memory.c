/*
 * Memory for guests, and the limits this process runs under.
 */
#include "base/checked.h"
#include "control/doctor/check.h"
#include "control/options/parse.h"
#include "vmm/config.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MEMINFO_BYTES 8192
#define NOFILE_ENOUGH 1024 /* a machine with all its disks and interrupts takes a few hundred */

/* "Name:   123 kB" in /proc/meminfo, in bytes. */
static bool meminfo_get(const char *text, const char *name, uint64_t *ret_bytes)
{
	size_t len = strlen(name);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, name, len) && line[len] == ':') {
			*ret_bytes = strtoull(line + len + 1, NULL, 10) * KIB;
			return true;
		}
	}
	return false;
}

static bool meminfo_read(const struct doctor *doctor, char text[MEMINFO_BYTES])
{
	char path[PATH_MAX];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/proc/meminfo", doctor->root);
	file = fopen(path, "re");
	if (!file)
		return false;
	n = fread(text, 1, MEMINFO_BYTES - 1, file);
	text[n] = '\0';
	fclose(file);
	return n > 0;
}

static void memory_amount(struct doctor *doctor, const char *meminfo)
{
	struct doctor_item *item = doctor_add(doctor, "memory");
	uint64_t total = 0, available = 0, overcommit = 0;

	if (!meminfo || !meminfo_get(meminfo, "MemTotal", &total) ||
	    !meminfo_get(meminfo, "MemAvailable", &available)) {
		doctor_found(item, "unknown: /proc/meminfo cannot be read");
		doctor_cure(item, DOCTOR_WARN, "mount -t proc proc /proc");
		return;
	}
	doctor_read_number(doctor, "/proc/sys/vm/overcommit_memory", &overcommit);
	doctor_found(item, "%" PRIu64 " MiB of %" PRIu64 " MiB available, overcommit %s",
		     available / MIB, total / MIB,
		     overcommit == 2 ? "strict"
		     : overcommit    ? "always"
				     : "heuristic");
	if (available < MACHINE_MEMORY_MIN) {
		item->needed = true;
		doctor_cure(item, DOCTOR_MISSING, "free memory: the smallest guest takes %d MiB",
			    (int)(MACHINE_MEMORY_MIN / MIB));
	} else if (overcommit == 2) {
		doctor_cure(item, DOCTOR_WARN,
			    "guest memory counts in full from the start; sysctl "
			    "vm.overcommit_memory=0 lets it grow as it is used");
	}
}

static void memory_hugepages(struct doctor *doctor, const char *meminfo)
{
	static const char dir[] = "/sys/kernel/mm/hugepages/hugepages-";
	struct doctor_item *item = doctor_add(doctor, "huge pages");
	uint64_t n2m = 0, free2m = 0, n1g = 0, free1g = 0;
	char path[128];
	uint64_t free_bytes = 0;

	snprintf(path, sizeof(path), "%s2048kB/nr_hugepages", dir);
	doctor_read_number(doctor, path, &n2m);
	snprintf(path, sizeof(path), "%s2048kB/free_hugepages", dir);
	doctor_read_number(doctor, path, &free2m);
	snprintf(path, sizeof(path), "%s1048576kB/nr_hugepages", dir);
	doctor_read_number(doctor, path, &n1g);
	snprintf(path, sizeof(path), "%s1048576kB/free_hugepages", dir);
	doctor_read_number(doctor, path, &free1g);
	doctor_found(item,
		     "2M: %" PRIu64 " of %" PRIu64 " free, 1G: %" PRIu64 " of %" PRIu64 " free",
		     free2m, n2m, free1g, n1g);
	if (!free2m && !free1g)
		doctor_cure(
		    item, DOCTOR_WARN,
		    "only needed for --hugepages: sysctl vm.nr_hugepages=512 reserves 1 GiB%s",
		    meminfo && meminfo_get(meminfo, "MemFree", &free_bytes) && free_bytes < 2 * GIB
			? " (there is little free memory now)"
			: "");
}

/* The word in brackets of "always [madvise] never". */
static bool chosen(char *text, const char **ret_word)
{
	char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;

	if (!close)
		return false;
	*close = '\0';
	*ret_word = open + 1;
	return true;
}

static void memory_transparent(struct doctor *doctor)
{
	static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
	struct doctor_item *item = doctor_add(doctor, "thp");
	const char *word;
	char text[128];

	if (doctor_read(doctor, path, text, sizeof(text)) || !chosen(text, &word)) {
		doctor_found(item, "this kernel has no transparent huge pages");
		doctor_cure(item, DOCTOR_WARN, "use --hugepages 2M where memory speed matters");
		return;
	}
	doctor_found(item, "transparent huge pages for guest memory: %s", word);
	if (strcmp(word, "always") != 0 && strcmp(word, "madvise") != 0)
		doctor_cure(item, DOCTOR_WARN, "faster guests: echo madvise > %s", path);
}

void doctor_memory(struct doctor *doctor)
{
	char meminfo[MEMINFO_BYTES];
	const char *text = meminfo_read(doctor, meminfo) ? meminfo : NULL;

	memory_amount(doctor, text);
	memory_hugepages(doctor, text);
	memory_transparent(doctor);
}

/* ---- limits -------------------------------------------------------------------------------------
 */

static void limit_memlock(struct doctor *doctor)
{
	struct doctor_item *item = doctor_add(doctor, "memlock");
	char text[PARSE_SIZE_TEXT_MAX];
	struct rlimit limit;

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY)
		doctor_found(item, "unlimited");
	else
		doctor_found(item, "%s", parse_size_text(limit.rlim_cur, text));
	/* before Linux 5.12 the rings of an unprivileged user count against it */
	if (limit.rlim_cur < MIB)
		doctor_cure(item, DOCTOR_WARN, "ulimit -l 8192 (old kernels charge io_uring here)");
}

static void limit_nofile(struct doctor *doctor)
{
	struct doctor_item *item = doctor_add(doctor, "open files");
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur == RLIM_INFINITY)
		doctor_found(item, "unlimited");
	else
		doctor_found(item, "%" PRIu64, (uint64_t)limit.rlim_cur);
	if (limit.rlim_cur < NOFILE_ENOUGH)
		doctor_cure(item, DOCTOR_WARN,
			    "ulimit -n %d: machines with many disks and CPUs need more",
			    NOFILE_ENOUGH);
}

/* Version 2 only: "0::/path" in /proc/self/cgroup. */
static void limit_cgroup(struct doctor *doctor)
{
	struct doctor_item *item = doctor_add(doctor, "cgroup");
	char line[1024], path[PATH_MAX], max[32];
	char size[PARSE_SIZE_TEXT_MAX];
	uint64_t bytes;

	if (doctor_read(doctor, "/proc/self/cgroup", line, sizeof(line))) {
		doctor_found(item, "none");
		return;
	}
	if (strncmp(line, "0::", 3) != 0) {
		doctor_found(item, "version 1, limits not looked at");
		return;
	}
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
	if (doctor_read(doctor, path, max, sizeof(max)) || !strcmp(max, "max")) {
		doctor_found(item, "version 2, no memory limit of its own");
		return;
	}
	if (parse_size(max, &bytes)) {
		doctor_found(item, "version 2, memory.max is %s", max);
		return;
	}
	doctor_found(item, "version 2, memory limit %s", parse_size_text(bytes, size));
	if (bytes < 2 * MACHINE_MEMORY_MIN)
		doctor_cure(item, DOCTOR_WARN,
			    "raise memory.max of %s: guest memory counts against it", line + 3);
}

void doctor_limits(struct doctor *doctor)
{
	limit_memlock(doctor);
	limit_nofile(doctor);
	limit_cgroup(doctor);
}
