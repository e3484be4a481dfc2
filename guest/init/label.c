/*
 * A root by its label: that of a GPT partition (PARTNAME of the kernel's uevent), or of a file
 * system. ext4: kernel Documentation/filesystems/ext4/globals.rst; btrfs, xfs, erofs: their
 * superblocks' structs in the kernel's fs/ folders.
 */
#include "init.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define LABEL_BYTES_MAX	 256
#define UEVENT_BYTES_MAX 1024

static const struct {
	uint32_t magic_at, magic_len;
	const char *magic;
	uint32_t label_at, label_len;
} superblocks[] = {
    {1024 + 0x38, 2, "\x53\xef", 1024 + 0x78, 16}, /* ext2 to ext4 */
    {0x10040, 8, "_BHRfS_M", 0x1012b, 256},	   /* btrfs */
    {0, 4, "XFSB", 108, 12},			   /* xfs */
    {1024, 4, "\xe2\xe1\xf5\xe0", 1024 + 64, 16},  /* erofs */
};

/* `text` has room for a NUL after its `len` bytes, and no NUL but at its end. */
static bool same_label(char *text, size_t len, const char *label)
{
	text[len] = '\0';
	return !strcmp(text, label);
}

static bool file_system_has(const char *device, const char *label)
{
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	char text[LABEL_BYTES_MAX + 1];
	bool found = false;

	for (size_t i = 0; fd >= 0 && !found && i < sizeof(superblocks) / sizeof(superblocks[0]);
	     i++) {
		ssize_t n = pread(fd, text, superblocks[i].magic_len, superblocks[i].magic_at);

		if (n != (ssize_t)superblocks[i].magic_len ||
		    memcmp(text, superblocks[i].magic, superblocks[i].magic_len) != 0)
			continue;
		n = pread(fd, text, superblocks[i].label_len, superblocks[i].label_at);
		found = n > 0 && same_label(text, (size_t)n, label);
	}
	if (fd >= 0)
		close(fd);
	return found;
}

static bool partition_has(const char *disk, const char *partition, const char *label)
{
	static const char key[] = "PARTNAME=";
	char path[64] = "/sys/block/", text[UEVENT_BYTES_MAX + 1], *at, *end;
	ssize_t n;
	int fd;

	strcat(strcat(strcat(strcat(path, disk), "/"), partition), "/uevent");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, UEVENT_BYTES_MAX);
	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = '\0';
	at = strstr(text, key);
	if (!at)
		return false;
	at += sizeof(key) - 1;
	end = strchr(at, '\n');
	return same_label(at, end ? (size_t)(end - at) : strlen(at), label);
}

static bool find(const char *disk, const char *label, char ret_device[static LABEL_DEVICE_BYTES])
{
	char folder[32] = "/sys/block/";
	DIR *dir = opendir(strcat(folder, disk));
	const struct dirent *e;
	bool found;

	strcpy(ret_device, "/dev/");
	strcat(ret_device, disk);
	found = file_system_has(ret_device, label);
	while (dir && !found && (e = readdir(dir))) {
		/* its partitions have its name and a number */
		if (strncmp(e->d_name, disk, strlen(disk)) != 0 ||
		    strlen(e->d_name) > LABEL_DEVICE_BYTES - sizeof("/dev/"))
			continue;
		strcpy(ret_device + 5, e->d_name);
		found = partition_has(disk, e->d_name, label) || file_system_has(ret_device, label);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* The root has no sysfs yet, and must not keep this one below it. */
bool label_find(const char *disk, const char *label, char ret_device[static LABEL_DEVICE_BYTES])
{
	bool mounted = mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0;
	bool found = find(disk, label, ret_device);

	if (mounted)
		umount2("/sys", MNT_DETACH);
	return found;
}
