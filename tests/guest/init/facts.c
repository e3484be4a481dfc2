/*
 * What the guest sees of its machine, said in lines for the host to judge.
 */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/rtc.h>

int cmd_hello(const struct args *args)
{
	(void)args;
	say("hello");
	return 0;
}

/* cat:PATH: "@ cat PATH: LINE" for each line. */
int cmd_cat(const struct args *args)
{
	static char buf[65536];
	char *save;

	if (!args->n)
		return fail("which file?");
	if (read_file(args->v[0], buf, sizeof(buf)) < 0) {
		say("cat %s: (%s)", args->v[0], strerror(errno));
		return 0;
	}
	if (!buf[strspn(buf, "\n")])
		say("cat %s: (empty)", args->v[0]);
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		say("cat %s: %s", args->v[0], line);
	return 0;
}

/* write:PATH,TEXT: an underscore in TEXT is a blank. */
int cmd_write(const struct args *args)
{
	if (args->n < 2)
		return fail("write what?");
	for (char *c = args->v[1]; *c; c++)
		if (*c == '_')
			*c = ' ';
	if (write_file(args->v[0], args->v[1]))
		return fail("%s: %s", args->v[0], strerror(errno));
	return 0;
}

static unsigned count_dirs(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	if (!dir)
		return 0;
	for (struct dirent *e; (e = readdir(dir));)
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

static void say_disk(const char *name)
{
	static const char *const files[] = {
	    "size",
	    "ro",
	    "serial",
	    "cache_type",
	    "queue/logical_block_size",
	    "queue/physical_block_size",
	    "queue/minimum_io_size",
	    "queue/optimal_io_size",
	    "queue/discard_max_bytes",
	    "queue/discard_granularity",
	    "queue/write_zeroes_max_bytes",
	    "queue/max_segments",
	};
	char line[768], path[128], value[64];
	int len;

	snprintf(path, sizeof(path), "/sys/block/%s/mq", name);
	len = snprintf(line, sizeof(line), "mq=%u", count_dirs(path));
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		const char *slash = strrchr(files[i], '/');

		snprintf(path, sizeof(path), "/sys/block/%s/%s", name, files[i]);
		if (read_file(path, value, sizeof(value)) < 0)
			strcpy(value, "?");
		for (char *c = value; *c; c++)
			if (*c == ' ')
				*c = '_';
		len += snprintf(line + len, sizeof(line) - (size_t)len, " %s=%s",
				slash ? slash + 1 : files[i], value);
	}
	say("disk %s %s", name, line);
}

int cmd_disks(const struct args *args)
{
	(void)args;
	for (char c = 'a'; c <= 'z'; c++) {
		char name[4] = {'v', 'd', c, 0}, path[32];

		snprintf(path, sizeof(path), "/sys/block/%s", name);
		if (!access(path, F_OK))
			say_disk(name);
	}
	return 0;
}

/* The kernel's messages of level warning and above. */
int cmd_dmesg(const struct args *args)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	unsigned worst = (unsigned)arg_number(args, 0, 4);
	char record[8192];

	if (fd < 0)
		return fail("/dev/kmsg: %s", strerror(errno));
	for (;;) {
		ssize_t n = read(fd, record, sizeof(record) - 1);
		char *text;

		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0)
			break;
		record[n] = 0;
		text = strchr(record, ';');
		if (!text || (strtoul(record, NULL, 10) & 7) > worst)
			continue;
		text[1 + strcspn(text + 1, "\n")] = 0;
		say("dmesg %lu %s", strtoul(record, NULL, 10) & 7, text + 1);
	}
	close(fd);
	return 0;
}

/* How often each interrupt of a virtio device came: "@ irq virtio0-req.1 COUNT". */
int cmd_irqs(const struct args *args)
{
	static char buf[65536];
	char *save;

	(void)args;
	if (read_file("/proc/interrupts", buf, sizeof(buf)) < 0)
		return fail("/proc/interrupts: %s", strerror(errno));
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *name = strstr(line, "virtio"), *at = strchr(line, ':');
		unsigned long total = 0;

		if (!name || !at)
			continue;
		for (at++; at < name;) {
			char *end;
			unsigned long n = strtoul(at, &end, 10);

			if (end == at)
				break;
			total += n;
			at = end;
		}
		say("irq %s %lu", name, total);
	}
	return 0;
}

/* Runs on each processor in turn. */
int cmd_cpus(const struct args *args)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set, all;

	(void)args;
	sched_getaffinity(0, sizeof(all), &all);
	for (int cpu = 0; cpu < n; cpu++) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set) || sched_getcpu() != cpu)
			return fail("cannot run on processor %d: %s", cpu, strerror(errno));
	}
	sched_setaffinity(0, sizeof(all), &all);
	say("cpus %ld", n);
	return 0;
}

/* memory[:MIB]: says how much there is, then writes and reads MIB of it. */
int cmd_memory(const struct args *args)
{
	uint64_t touch = arg_number(args, 0, 0) << 20;
	static char buf[8192];
	uint64_t *mem;

	if (read_file("/proc/meminfo", buf, sizeof(buf)) < 0)
		return fail("/proc/meminfo: %s", strerror(errno));
	say("memory %lu", strtoul(buf + strcspn(buf, "0123456789"), NULL, 10));
	if (!touch)
		return 0;
	mem = mmap(NULL, touch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return fail("mmap of %llu bytes: %s", (unsigned long long)touch, strerror(errno));
	for (uint64_t i = 0; i < touch / 8; i += 64)
		mem[i] = i ^ 0x5aa5;
	for (uint64_t i = 0; i < touch / 8; i += 64)
		if (mem[i] != (i ^ 0x5aa5))
			return fail("word %llu is wrong", (unsigned long long)i);
	munmap(mem, touch);
	say("touched %llu", (unsigned long long)touch >> 20);
	return 0;
}

/* flag:NAME: "@ flag NAME 0" or 1: whether the processor says that it has it. */
int cmd_flag(const struct args *args)
{
	static char buf[65536];
	char *flags, *save;
	int has = 0;

	if (!args->n || read_file("/proc/cpuinfo", buf, sizeof(buf)) < 0)
		return fail("/proc/cpuinfo: %s", strerror(errno));
	flags = strstr(buf, "\nflags"); /* of x86 */
	if (!flags)
		flags = strstr(buf, "\nFeatures"); /* of Arm */
	if (!flags)
		return fail("/proc/cpuinfo has no flags");
	flags++;
	flags[strcspn(flags, "\n")] = 0;
	for (char *word = strtok_r(flags, " \t", &save); word; word = strtok_r(NULL, " \t", &save))
		has |= !strcmp(word, args->v[0]);
	say("flag %s %d", args->v[0], has);
	return 0;
}

/* The time of day, as the kernel has it and as the clock chip has it; both in seconds of UTC. */
int cmd_clock(const struct args *args)
{
	char source[64] = "?";
	struct rtc_time rtc;
	struct tm tm = {0};
	int fd;

	(void)args;
	read_file("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
		  sizeof(source));
	say("clock %lld %s", (long long)time(NULL), source);
	fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		say("rtc (%s)", strerror(errno));
		return 0;
	}
	if (ioctl(fd, RTC_RD_TIME, &rtc)) {
		close(fd);
		return fail("rtc: %s", strerror(errno));
	}
	close(fd);
	tm.tm_sec = rtc.tm_sec;
	tm.tm_min = rtc.tm_min;
	tm.tm_hour = rtc.tm_hour;
	tm.tm_mday = rtc.tm_mday;
	tm.tm_mon = rtc.tm_mon;
	tm.tm_year = rtc.tm_year;
	say("rtc %lld", (long long)timegm(&tm));
	return 0;
}

/* rng:BYTES: reads them from the hardware generator and says how many different ones came. */
int cmd_rng(const struct args *args)
{
	uint64_t want = arg_number(args, 0, 256), got = 0;
	bool seen[256] = {0};
	unsigned char buf[512];
	unsigned different = 0;
	int fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail("/dev/hwrng: %s", strerror(errno));
	while (got < want) {
		size_t len = want - got < sizeof(buf) ? want - got : sizeof(buf);
		ssize_t n = read(fd, buf, len);

		if (n <= 0) {
			close(fd);
			return fail("/dev/hwrng: %s", n ? strerror(errno) : "end of file");
		}
		for (ssize_t i = 0; i < n; i++)
			seen[buf[i]] = true;
		got += (uint64_t)n;
	}
	close(fd);
	for (unsigned i = 0; i < 256; i++)
		different += seen[i];
	say("rng %llu %u", (unsigned long long)got, different);
	return 0;
}
