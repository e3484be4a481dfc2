/*
 * The root device: waiting until the kernel has it, and mounting it.
 *
 * The kernel's events say when a device appears: uevents, sent after the partitions of a disk have
 * been read, or where the kernel has no network, inotify on devtmpfs. Mounting itself is the test,
 * tried once before and then after each event, so nothing is missed and nothing is slept away.
 */
#include "init.h"

#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE_MS   10000
#define DEADLINE_TEXT "10 seconds"

/* Events can be lost (the socket's buffer is finite): look again at least this often. */
#define LOOK_AGAIN_MS 250

#define FSTYPE_DEFAULT	 "ext4"
#define FLAGS_BYTES_MAX	 256
#define FSTYPE_BYTES_MAX 32

static int watch_devices(void)
{
	struct sockaddr_nl all = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int fd =
	    socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&all, sizeof(all)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd >= 0)
		inotify_add_watch(fd, "/dev", IN_CREATE | IN_ATTRIB);
	return fd;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Returns after an event, or after LOOK_AGAIN_MS. Without a descriptor (-1) poll() only waits. */
static void wait_event(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char event[4096];

	if (poll(&p, 1, LOOK_AGAIN_MS) > 0)
		while (read(fd, event, sizeof(event)) > 0)
			;
}

/* Flags that are the kernel's and not the file system's. */
static const struct {
	const char *name;
	unsigned long set, clear;
} vfs_flags[] = {
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"defaults", 0, 0},
    {"noatime", MS_NOATIME, MS_RELATIME},
    {"relatime", MS_RELATIME, MS_NOATIME},
    {"strictatime", MS_STRICTATIME, MS_RELATIME | MS_NOATIME},
    {"nodiratime", MS_NODIRATIME, 0},
    {"lazytime", MS_LAZYTIME, 0},
    {"sync", MS_SYNCHRONOUS, 0},
    {"dirsync", MS_DIRSYNC, 0},
    {"nosuid", MS_NOSUID, 0},
    {"nodev", MS_NODEV, 0},
    {"noexec", MS_NOEXEC, 0},
};

static bool take_vfs_flag(const char *word, size_t len, unsigned long *bits)
{
	for (size_t i = 0; i < sizeof(vfs_flags) / sizeof(vfs_flags[0]); i++)
		if (strlen(vfs_flags[i].name) == len && !memcmp(vfs_flags[i].name, word, len)) {
			*bits = (*bits | vfs_flags[i].set) & ~vfs_flags[i].clear;
			return true;
		}
	return false;
}

/* "ro,data=journal" is MS_RDONLY and "data=journal". */
static unsigned long split_flags(const char *flags, char rest[static FLAGS_BYTES_MAX])
{
	unsigned long bits = 0;
	size_t n = 0;

	while (flags && *flags) {
		size_t len = strcspn(flags, ",");

		if (!take_vfs_flag(flags, len, &bits) && len && n + len + 1 < FLAGS_BYTES_MAX) {
			if (n)
				rest[n++] = ',';
			memcpy(rest + n, flags, len);
			n += len;
		}
		flags += len;
		if (*flags)
			flags++;
	}
	rest[n] = '\0';
	return bits;
}

/* One type; 0 or the errno. A disk that is read-only itself is mounted so. */
static int try_type(const char *device, const char *target, const char *type, unsigned long bits,
		    const char *rest)
{
	if (mount(device, target, type, bits, rest) == 0)
		return 0;
	if ((errno == EACCES || errno == EROFS) &&
	    mount(device, target, type, bits | MS_RDONLY, rest) == 0)
		return 0;
	return errno;
}

/* Is there a device yet? Asking mount() would make the kernel log each no. */
static bool absent(const char *device)
{
	struct stat st;

	return stat(device, &st) < 0 && errno == ENOENT;
}

/* Tries each type; 0, or the errno that says most: of one that the kernel does not know least. */
static int try_types(const struct conf *conf, const char *types, const char *target)
{
	char rest[FLAGS_BYTES_MAX], type[FSTYPE_BYTES_MAX];
	unsigned long bits = split_flags(conf->rootflags, rest);
	char labelled[LABEL_DEVICE_BYTES];
	const char *device = conf->root;
	int e = ENODEV;

	if (conf->rootlabel) {
		if (!label_find("vda", conf->rootlabel, labelled))
			return ENOENT;
		device = labelled;
	}
	if (absent(device))
		return ENOENT;
	while (*types) {
		size_t len = strcspn(types, ",");

		if (len && len < sizeof(type)) {
			memcpy(type, types, len);
			type[len] = '\0';

			int r = try_type(device, target, type, bits, rest);

			if (r != EINVAL && r != ENODEV)
				return r;
			if (r == EINVAL)
				e = r;
		}
		types += len;
		if (*types)
			types++;
	}
	return e;
}

static void say_failure(const struct conf *conf, const char *types, int e)
{
	const char *cure = "";

	if (e == EINVAL)
		cure = "; is the disk's file system another one? (--root fstype=...)";
	else if (e == ENODEV)
		cure = "; this kernel has no such file system, nor is there a module of it";
	else if (e == ENOTBLK)
		cure = "; root= must name a disk or a partition";
	say("cannot mount ", conf->rootlabel ? conf->rootlabel : conf->root, " as ", types, ": ",
	    strerror(e), cure);
}

bool root_mount(const struct conf *conf, const char *target)
{
	const char *types = conf->rootfstype ? conf->rootfstype : FSTYPE_DEFAULT;
	int e = try_types(conf, types, target);

	if (e == ENOENT || e == ENXIO) {
		int fd = watch_devices();
		long deadline = now_ms() + DEADLINE_MS;

		for (;;) {
			e = try_types(conf, types, target);
			if ((e != ENOENT && e != ENXIO) || now_ms() >= deadline)
				break;
			wait_event(fd);
		}
		if (fd >= 0)
			close(fd);
	}
	if (e == 0)
		return true;
	if ((e == ENOENT || e == ENXIO) && conf->rootlabel && !absent("/dev/vda"))
		say("no file system or partition of the root's disk is labelled ", conf->rootlabel);
	else if (e == ENOENT || e == ENXIO)
		say("no device ", conf->root,
		    " after " DEADLINE_TEXT "; does the kernel have its driver (virtio_blk with "
		    "virtio_pci or virtio_mmio), "
		    "or are its modules elsewhere? (--modules DIR)");
	else
		say_failure(conf, types, e);
	return false;
}
