/*
 * The checks of a host, and what they stand on: the host's files, and the items that they add.
 *
 * Files are read under a root directory ("" for the host itself), so that tests can show the checks
 * another host.
 */
#ifndef CONTROL_DOCTOR_CHECK_H
#define CONTROL_DOCTOR_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum doctor_status {
	DOCTOR_OK,
	DOCTOR_WARN,	/* guests run, slower or with less */
	DOCTOR_MISSING, /* what needs it does not work */
};

#define DOCTOR_ITEMS_MAX 32
#define DOCTOR_TEXT_MAX	 320

struct doctor_item {
	const char *name;
	enum doctor_status status;
	bool needed; /* no guest runs without it */
	char found[DOCTOR_TEXT_MAX];
	char cure[DOCTOR_TEXT_MAX]; /* empty: nothing to do */
};

struct doctor {
	const char *root; /* prefix of every path that is read: "" or a test's directory */
	struct doctor_item items[DOCTOR_ITEMS_MAX];
	unsigned nitems;
};

/* A new item, DOCTOR_OK and without texts. */
struct doctor_item *doctor_add(struct doctor *doctor, const char *name);
void doctor_found(struct doctor_item *item, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Sets the status as well. */
void doctor_cure(struct doctor_item *item, enum doctor_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* First line of a file under the root, without its newline; -errno. */
int doctor_read(const struct doctor *doctor, const char *path, char *ret_text, size_t size);
/* A decimal number that begins the file. */
int doctor_read_number(const struct doctor *doctor, const char *path, uint64_t *ret_value);

/* ---- the checks ---- */

/* KVM: device, nesting, speed of guest code. kvm.c */
void doctor_kvm(struct doctor *doctor);
/* vhost, tun, io_uring. io.c */
void doctor_devices(struct doctor *doctor);
void doctor_io_uring(struct doctor *doctor);
/* nft, passt. programs.c */
void doctor_programs(struct doctor *doctor);
/* seccomp, an empty root directory, Landlock. sandbox.c */
void doctor_sandbox(struct doctor *doctor);
/* Huge pages, memory, limits, cgroup. memory.c */
void doctor_memory(struct doctor *doctor);
void doctor_limits(struct doctor *doctor);

#define DOCTOR_NATIVE_INSNS_PER_S UINT64_C(50000000)

/* The item "guest code" for a measured speed. */
void doctor_speed(struct doctor *doctor, uint64_t insns_per_s);

#endif
