/*
 * --root and --disk: key=value lists that describe a disk.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/options/config_check.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"
#include "devices/virtio/blk.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>

/* A disk while its list is read. */
struct disk_target {
	struct machine_config *machine;
	struct machine_disk *disk;
	bool has_format;
};

static int set_switch(const char *value, bool *ret_on, struct err *err)
{
	if (parse_switch(value, ret_on))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

/* Of an image, which only reads it. */
static int set_file(const char **field, const char *value, struct err *err)
{
	char *path = NULL;
	int rc;

	if (!*value)
		return err_set(err, EINVAL, "is empty; name a file or a block device");
	rc = options_set_string(&path, value, err);
	if (!rc)
		*field = path;
	return rc;
}

static int disk_set_path(void *target, const char *value, struct err *err)
{
	return set_file(&((struct disk_target *)target)->disk->image.path, value, err);
}

static int disk_set_format(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	if (image_format_parse(value, &t->disk->image.format))
		return err_set(err, EINVAL,
			       "'%s' is no format this version knows; it knows raw and qcow2",
			       value);
	t->has_format = true;
	return 0;
}

static int disk_set_backing(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	return set_switch(value, &t->disk->image.backing, err);
}

static int disk_set_backing_format(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	if (image_format_parse(value, &t->disk->image.backing_format))
		return err_set(err, EINVAL,
			       "'%s' is no format this version knows; it knows raw and qcow2",
			       value);
	t->disk->image.has_backing_format = true;
	return 0;
}

static int disk_set_data_file(void *target, const char *value, struct err *err)
{
	return set_file(&((struct disk_target *)target)->disk->image.data_file, value, err);
}

static int disk_set_ro(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	return set_switch(value, &t->disk->image.read_only, err);
}

static int disk_set_direct(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	return set_switch(value, &t->disk->image.direct, err);
}

static int disk_set_discard(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;
	bool on;
	int rc = set_switch(value, &on, err);

	if (!rc)
		t->disk->image.no_discard = !on;
	return rc;
}

static int disk_set_cache(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	if (strcmp(value, "writeback") != 0 && strcmp(value, "writethrough") != 0)
		return err_set(err, EINVAL, "'%s' is neither writeback nor writethrough", value);
	t->disk->write_through = !strcmp(value, "writethrough");
	return 0;
}

static int disk_set_serial(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;
	int rc = config_check_serial(value, err);

	if (rc)
		return rc;
	memcpy(t->disk->serial, value, strlen(value) + 1);
	return 0;
}

static int disk_set_queues(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	if (parse_unsigned(value, 1, VIRTIO_BLK_QUEUES_MAX, &t->disk->queues))
		return err_set(err, EINVAL, "'%s' is not a number from 1 to %d", value,
			       VIRTIO_BLK_QUEUES_MAX);
	return 0;
}

static int set_rate(uint64_t *field, const char *value, struct err *err)
{
	uint64_t rate;

	if (parse_size(value, &rate) || !rate)
		return err_set(
		    err, EINVAL,
		    "'%s' is no rate; say for example 500 or 20M, or leave it out for no "
		    "limit",
		    value);
	*field = rate;
	return 0;
}

static int disk_set_bytes_per_s(void *target, const char *value, struct err *err)
{
	return set_rate(&((struct disk_target *)target)->disk->bytes_per_s, value, err);
}

static int disk_set_ops_per_s(void *target, const char *value, struct err *err)
{
	return set_rate(&((struct disk_target *)target)->disk->ops_per_s, value, err);
}

static int disk_set_mount(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;
	int rc = config_check_mount_point(value, err);

	return rc ? rc : options_set_string(&t->disk->mount.target, value, err);
}

static int disk_set_mount_data(void *target, const char *value, struct err *err)
{
	return options_set_string(&((struct disk_target *)target)->disk->mount.data, value, err);
}

/* Names of mount(8) for bits of mount(2), with '+' between. */
static int disk_set_mount_flags(void *target, const char *value, struct err *err)
{
	static const struct {
		const char *name;
		uint64_t bit;
	} flags[] = {
	    {"ro", MS_RDONLY},	       {"nosuid", MS_NOSUID},
	    {"nodev", MS_NODEV},       {"noexec", MS_NOEXEC},
	    {"sync", MS_SYNCHRONOUS},  {"dirsync", MS_DIRSYNC},
	    {"noatime", MS_NOATIME},   {"nodiratime", MS_NODIRATIME},
	    {"relatime", MS_RELATIME}, {"strictatime", MS_STRICTATIME},
	    {"lazytime", MS_LAZYTIME},
	};
	struct disk_target *t = target;

	for (;;) {
		int len = (int)strcspn(value, "+");
		size_t i = 0;

		while (i < ARRAY_LEN(flags) && ((int)strlen(flags[i].name) != len ||
						memcmp(flags[i].name, value, (size_t)len) != 0))
			i++;
		if (i == ARRAY_LEN(flags))
			return err_set(err, EINVAL,
				       "'%.*s' is no flag of a mount; say for example "
				       "noatime+nodev",
				       len, value);
		t->disk->mount.flags |= flags[i].bit;
		if (!value[len])
			return 0;
		value += len + 1;
	}
}

static int disk_set_mkfs(void *target, const char *value, struct err *err)
{
	return set_switch(value, &((struct disk_target *)target)->disk->mount.mkfs_if_blank, err);
}

static int disk_set_fstype(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;
	int rc = config_check_fstype(value, err);

	return rc ? rc : options_set_string(&t->disk->mount.fstype, value, err);
}

static int root_set_fstype(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;
	int rc = config_check_fstype(value, err);

	if (rc)
		return rc;
	return options_set_string(&t->machine->root_fstype, value, err);
}

static int root_set_label(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;
	int rc = config_check_label(value, err);

	return rc ? rc : options_set_string(&t->machine->root_label, value, err);
}

static int root_set_partition(void *target, const char *value, struct err *err)
{
	struct disk_target *t = target;

	if (parse_unsigned(value, 1, CONFIG_PARTITION_MAX, &t->machine->root_partition))
		return err_set(err, EINVAL, "'%s' is not a number from 1 to %d", value,
			       CONFIG_PARTITION_MAX);
	return 0;
}

/* The root's own keys come first and a plain disk's last, so that each has a part of the table. */
#define ROOT_KEYS 3
#define DISK_KEYS 5
static const struct option_setting disk_keys[] = {
    {"fstype", "TYPE", root_set_fstype, "file system of the root (ext4)"},
    {"partition", "N", root_set_partition, "partition that holds the root (none: the whole disk)"},
    {"label", "NAME", root_set_label, "label of the root's file system or GPT partition"},
    {"path", "FILE", disk_set_path, "image file or block device; needed"},
    {"format", "raw|qcow2", disk_set_format, "format of the image, never guessed; needed"},
    {"backing", "on|off", disk_set_backing,
     "open the backing files that a qcow2 image names (off)"},
    {"backing_format", "raw|qcow2", disk_set_backing_format,
     "of the first backing file (what the image says)"},
    {"data_file", "FILE", disk_set_data_file,
     "external data file of a qcow2 image (refused without)"},
    {"ro", "on|off", disk_set_ro, "read-only (off)"},
    {"direct", "on|off", disk_set_direct, "go round the host's page cache (off)"},
    {"discard", "on|off", disk_set_discard, "give freed space back to the host (on)"},
    {"cache", "writeback|writethrough", disk_set_cache, "write cache the guest sees (writeback)"},
    {"serial", "TEXT", disk_set_serial, "serial number, up to 20 characters"},
    {"queues", "N", disk_set_queues, "request queues, 1 to 8 (one for each CPU, up to 4)"},
    {"bytes_per_s", "SIZE", disk_set_bytes_per_s,
     "most that is read and written a second (no limit)"},
    {"ops_per_s", "N", disk_set_ops_per_s, "most requests a second (no limit)"},
    {"mount", "DIR", disk_set_mount, "the agent mounts it there before the start is done"},
    {"fstype", "TYPE", disk_set_fstype, "file system for mount (ext4)"},
    {"mount_flags", "NAME+...", disk_set_mount_flags, "noatime, nodev, nosuid, noexec, ro, ..."},
    {"mount_data", "TEXT", disk_set_mount_data, "what the file system itself understands"},
    {"mkfs", "on|off", disk_set_mkfs, "make the file system first if the disk is blank (off)"},
};

/* Reads one list into the disk of `t`. */
static int disk_parse(struct disk_target *t, const char *list, bool root, struct err *err)
{
	const struct option_setting *keys = disk_keys + (root ? 0 : ROOT_KEYS);
	unsigned n = ARRAY_LEN(disk_keys) - (root ? DISK_KEYS : ROOT_KEYS);
	uint32_t seen = 0;
	int rc;

	for (;;) {
		const struct option_setting *key;
		autofree char *name = NULL;
		autofree char *value = NULL;

		rc = parse_pair(&list, &name, &value, err);
		if (rc <= 0)
			return rc;
		key = option_setting_find(keys, n, name);
		if (!key && !root && option_setting_find(disk_keys, ROOT_KEYS, name))
			return err_set(err, EINVAL, "'%s' belongs to --root", name);
		if (!key && root && option_setting_find(disk_keys, ARRAY_LEN(disk_keys), name))
			return err_set(err, EINVAL, "'%s' belongs to --disk", name);
		if (!key && !value)
			return err_set(err, EINVAL, "'%s' is no key=value; say path=%s", name,
				       name);
		if (!key)
			return option_setting_unknown(keys, n, "key", name, err);
		if (!value)
			return err_set(err, EINVAL, "'%s' lacks its value; say %s=%s", name, name,
				       key->arg);
		if (seen & (UINT32_C(1) << (key - keys)))
			return err_set(err, EINVAL, "'%s' is given twice", name);
		seen |= UINT32_C(1) << (key - keys);
		rc = key->set(t, value, err);
		if (rc) {
			err_prefix(err, "%s", name);
			return rc;
		}
	}
}

static int check_mount(struct machine_mount *mount, struct err *err)
{
	if (!mount->target &&
	    (mount->fstype || mount->data || mount->flags || mount->mkfs_if_blank))
		return err_set(err, EINVAL,
			       "fstype, mkfs and mount_... need a place; say mount=DIR");
	if (mount->target && !mount->fstype)
		return options_set_string(&mount->fstype, "ext4", err);
	return 0;
}

static int disk_add(struct machine_config *machine, const char *list, bool root, struct err *err)
{
	struct disk_target t = {.machine = machine};
	const char *option = root ? "--root" : "--disk";
	int rc;

	if (machine->ndisks == MACHINE_DISKS_MAX)
		return err_set(err, EINVAL, "more than %d disks", MACHINE_DISKS_MAX);
	if (root) {
		memmove(&machine->disks[1], &machine->disks[0],
			machine->ndisks * sizeof(machine->disks[0]));
		machine->has_root = true;
	}
	t.disk = &machine->disks[root ? 0 : machine->ndisks];
	memset(t.disk, 0, sizeof(*t.disk));
	machine->ndisks++;

	rc = disk_parse(&t, list, root, err);
	if (!rc && !root)
		rc = check_mount(&t.disk->mount, err);
	if (!rc && !t.disk->image.path)
		rc = err_set(err, EINVAL, "no path; say %s path=FILE,format=raw", option);
	if (!rc && !t.has_format)
		rc = err_set(
		    err, EINVAL,
		    "the format of %s is not stated and is never guessed; add format=raw or "
		    "format=qcow2",
		    t.disk->image.path);
	if (!rc && t.disk->image.format != IMAGE_QCOW2 &&
	    (t.disk->image.backing || t.disk->image.has_backing_format))
		rc = err_set(err, EINVAL, "backing files belong to format=qcow2");
	if (!rc && t.disk->image.format != IMAGE_QCOW2 && t.disk->image.data_file)
		rc = err_set(err, EINVAL, "data_file belongs to format=qcow2");
	err_prefix(err, "%s", option);
	return rc;
}

int options_add_root(struct machine_config *machine, const char *list, struct err *err)
{
	int rc;

	if (machine->has_root)
		return err_set(err, EINVAL, "--root is given twice; further disks are --disk");
	rc = disk_add(machine, list, true, err);
	if (!rc)
		machine->root_read_only = machine->disks[0].image.read_only;
	return rc;
}

int options_add_disk(struct machine_config *machine, const char *list, struct err *err)
{
	return disk_add(machine, list, false, err);
}

int options_check_disks(const struct machine_config *machine, struct err *err)
{
	for (unsigned i = 0; i < machine->ndisks; i++) {
		const struct image_opts *a = &machine->disks[i].image;

		for (unsigned j = i + 1; j < machine->ndisks; j++) {
			const struct image_opts *b = &machine->disks[j].image;

			if (!strcmp(a->path, b->path) && !(a->read_only && b->read_only))
				return err_set(
				    err, EINVAL,
				    "%s is given as two disks, one of them writable; use "
				    "it once or add ro=on to both",
				    a->path);
		}
	}
	return 0;
}

void options_disk_help(FILE *out)
{
	for (unsigned i = 0; i < ARRAY_LEN(disk_keys); i++) {
		char left[48];

		snprintf(left, sizeof(left), "%s=%s", disk_keys[i].name, disk_keys[i].arg);
		fprintf(out, "  %-30s %s%s\n", left, disk_keys[i].help,
			i < ROOT_KEYS				? "; --root only"
			: i >= ARRAY_LEN(disk_keys) - DISK_KEYS ? "; --disk only"
								: "");
	}
}
