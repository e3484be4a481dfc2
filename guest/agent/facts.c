/* GetFacts: what the guest is. See proto/agent.proto. */
#include "guest/agent/calls.h"

#include "base/checked.h"
#include "guest/agent/agent.h"
#include "guest/agent/mounts.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define SECTOR_BYTES 512
#define LISTED_MAX   1024 /* disks, file systems, interfaces each */

/* Everything that is allocated here lives as long as its process: see guest/agent/job.h. */

/* The first line of a small file; "" where there is none. */
static void read_line(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

static char *copy(const char *text)
{
	char *s = strdup(text);

	if (s)
		pb_text_clean(s);
	return s;
}

static void system_facts(Lodge__Agent__V1__GetFactsResponse *r)
{
	static struct utsname u;
	struct timespec ts;
	cpu_set_t cpus;

	uname(&u);
	r->kernel_release = u.release;
	r->kernel_version = u.version;
	r->machine = u.machine;
	r->hostname = copy(u.nodename);
	clock_gettime(CLOCK_BOOTTIME, &ts);
	r->uptime_ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	clock_gettime(CLOCK_REALTIME, &ts);
	r->time_ns = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		r->cpus = (uint32_t)CPU_COUNT(&cpus);
}

static void memory_facts(Lodge__Agent__V1__GetFactsResponse *r)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib;
	char line[128];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemTotal: %llu kB", &kib) == 1)
			r->memory_bytes = kib * KIB;
		else if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			r->memory_available_bytes = kib * KIB;
	}
	if (f)
		fclose(f);
}

static void os_facts(Lodge__Agent__V1__GetFactsResponse *r)
{
	FILE *f = fopen("/etc/os-release", "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		char *value = line + strlen("PRETTY_NAME=");

		if (strncmp(line, "PRETTY_NAME=", strlen("PRETTY_NAME=")) != 0)
			continue;
		value[strcspn(value, "\n")] = '\0';
		if (*value == '"') {
			value++;
			value[strcspn(value, "\"")] = '\0';
		}
		r->os = copy(value);
	}
	if (f)
		fclose(f);
}

static void disk_facts(Lodge__Agent__V1__GetFactsResponse *r)
{
	DIR *dir = opendir("/sys/block");
	const struct dirent *entry;

	r->disks = calloc(LISTED_MAX, sizeof(*r->disks));
	while (dir && r->disks && r->n_disks < LISTED_MAX && (entry = readdir(dir))) {
		Lodge__Agent__V1__Disk *disk;
		char path[320], text[32];

		snprintf(path, sizeof(path), "/sys/block/%s/size", entry->d_name);
		read_line(path, text, sizeof(text));
		if (strtoull(text, NULL, 10) == 0) /* a loop device without a file */
			continue;
		disk = malloc(sizeof(*disk));
		if (!disk)
			break;
		lodge__agent__v1__disk__init(disk);
		disk->name = copy(entry->d_name);
		disk->size_bytes = strtoull(text, NULL, 10) * SECTOR_BYTES;
		snprintf(path, sizeof(path), "/sys/block/%s/ro", entry->d_name);
		read_line(path, text, sizeof(text));
		disk->read_only = text[0] == '1';
		r->disks[r->n_disks++] = disk;
	}
	if (dir)
		closedir(dir);
}

static void filesystem_facts(Lodge__Agent__V1__GetFactsResponse *r)
{
	struct mounts mounts;

	if (mounts_read(&mounts, NULL) < 0)
		return;
	r->filesystems = calloc(MIN(mounts.n, LISTED_MAX), sizeof(*r->filesystems));
	for (size_t i = 0; r->filesystems && i < mounts.n && r->n_filesystems < LISTED_MAX; i++) {
		const struct mount_entry *m = &mounts.entries[i];
		Lodge__Agent__V1__Filesystem *fs;
		struct statvfs st = {0};

		if (!mount_on_device(m))
			continue;
		fs = malloc(sizeof(*fs));
		if (!fs)
			break;
		lodge__agent__v1__filesystem__init(fs);
		fs->source = copy(m->source);
		fs->target = copy(m->target);
		fs->fstype = copy(m->fstype);
		fs->read_only = m->read_only;
		if (statvfs(m->target, &st) == 0) {
			fs->size_bytes = (uint64_t)st.f_blocks * st.f_frsize;
			fs->available_bytes = (uint64_t)st.f_bavail * st.f_frsize;
		}
		r->filesystems[r->n_filesystems++] = fs;
	}
}

/* ---- interfaces ---------------------------------------------------------------------------------
 */

static Lodge__Agent__V1__Interface *find_interface(Lodge__Agent__V1__GetFactsResponse *r,
						   const char *name)
{
	Lodge__Agent__V1__Interface *found;

	for (size_t i = 0; i < r->n_interfaces; i++)
		if (!strcmp(r->interfaces[i]->name, name))
			return r->interfaces[i];
	if (r->n_interfaces == LISTED_MAX)
		return NULL;
	found = malloc(sizeof(*found));
	if (!found)
		return NULL;
	lodge__agent__v1__interface__init(found);
	found->name = copy(name);
	found->addresses = calloc(LISTED_MAX, sizeof(*found->addresses));
	r->interfaces[r->n_interfaces++] = found;
	return found;
}

/* The text of an address, with the bits of its mask; "" for other families. */
static void address_text(const struct ifaddrs *a, char *buf, size_t size)
{
	char text[INET6_ADDRSTRLEN] = "";
	const uint8_t *mask = NULL;
	unsigned bits = 0, len = 0;

	if (a->ifa_addr->sa_family == AF_INET) {
		inet_ntop(AF_INET, &((struct sockaddr_in *)a->ifa_addr)->sin_addr, text,
			  sizeof(text));
		mask = (const uint8_t *)&((struct sockaddr_in *)a->ifa_netmask)->sin_addr;
		len = 4;
	} else if (a->ifa_addr->sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)a->ifa_addr)->sin6_addr, text,
			  sizeof(text));
		mask = (const uint8_t *)&((struct sockaddr_in6 *)a->ifa_netmask)->sin6_addr;
		len = 16;
	}
	for (unsigned i = 0; i < len; i++)
		bits += (unsigned)__builtin_popcount(mask[i]);
	snprintf(buf, size, text[0] ? "%s/%u" : "%s", text, bits);
}

static void link_facts(Lodge__Agent__V1__Interface *found, unsigned flags)
{
	char path[128], text[64];

	found->up = flags & IFF_UP;
	snprintf(path, sizeof(path), "/sys/class/net/%.*s/mtu", IFNAMSIZ, found->name);
	read_line(path, text, sizeof(text));
	found->mtu = (uint32_t)strtoul(text, NULL, 10);
	snprintf(path, sizeof(path), "/sys/class/net/%.*s/address", IFNAMSIZ, found->name);
	read_line(path, text, sizeof(text));
	found->mac = copy(flags & IFF_LOOPBACK ? "" : text);
}

static void interface_facts(Lodge__Agent__V1__GetFactsResponse *r)
{
	struct ifaddrs *all = NULL;

	r->interfaces = calloc(LISTED_MAX, sizeof(*r->interfaces));
	if (!r->interfaces || getifaddrs(&all) < 0)
		return;
	for (const struct ifaddrs *a = all; a; a = a->ifa_next) {
		Lodge__Agent__V1__Interface *found = find_interface(r, a->ifa_name);
		char text[INET6_ADDRSTRLEN + 4];

		if (!found)
			continue;
		link_facts(found, a->ifa_flags);
		if (!a->ifa_addr || !a->ifa_netmask)
			continue;
		address_text(a, text, sizeof(text));
		if (text[0] && found->addresses && found->n_addresses < LISTED_MAX)
			found->addresses[found->n_addresses++] = copy(text);
	}
	freeifaddrs(all);
}

int call_get_facts(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	static char version[] = AGENT_VERSION;
	Lodge__Agent__V1__GetFactsResponse *r = (Lodge__Agent__V1__GetFactsResponse *)reply;

	(void)message;
	(void)err;
	r->agent_version = version;
	system_facts(r);
	memory_facts(r);
	os_facts(r);
	disk_facts(r);
	filesystem_facts(r);
	interface_facts(r);
	return 0;
}
