/*
 * Device nodes besides KVM, and the host's asynchronous I/O.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "control/doctor/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct node {
	const char *name;
	const char *path;
	const char *module;
	const char *use;
} nodes[] = {
    {"vhost-vsock", "/dev/vhost-vsock", "vhost_vsock", "fast vsock, which is built in without it"},
    {"vhost-net", "/dev/vhost-net", "vhost_net", "guests with a fast network"},
    {"tun", "/dev/net/tun", "tun", "guests with a network"},
};

void doctor_devices(struct doctor *doctor)
{
	for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
		const struct node *node = &nodes[i];
		struct doctor_item *item = doctor_add(doctor, node->name);
		char path[PATH_MAX];
		autofd int fd = -1;

		snprintf(path, sizeof(path), "%s%s", doctor->root, node->path);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0) {
			doctor_found(item, "%s", node->path);
		} else if (errno == EACCES || errno == EPERM) {
			doctor_found(item, "no permission to open %s", node->path);
			doctor_cure(item, DOCTOR_WARN,
				    "for %s: run as root, or give your group access to it",
				    node->use);
		} else {
			doctor_found(item, "%s: %s", node->path, strerror(errno));
			doctor_cure(item, DOCTOR_WARN, "for %s: modprobe %s", node->use,
				    node->module);
		}
	}
}

void doctor_io_uring(struct doctor *doctor)
{
	static const char sysctl[] = "/proc/sys/kernel/io_uring_disabled";
	struct loop_opts opts = {.backend = LOOP_URING};
	struct doctor_item *item = doctor_add(doctor, "io_uring");
	struct err err = ERR_INIT;
	struct loop *loop;
	uint64_t disabled = 0;

	if (loop_new(&opts, &loop, &err) == 0) {
		loop_free(loop);
		doctor_found(item, "usable, each ring restricted to what it is for");
		return;
	}
	doctor_found(item, "%s", err.msg);
	if (doctor_read_number(doctor, sysctl, &disabled) == 0 && disabled)
		doctor_cure(item, DOCTOR_WARN,
			    "sysctl kernel.io_uring_disabled=0 (it is %d); until then I/O goes "
			    "through epoll and threads",
			    (int)disabled);
	else
		doctor_cure(item, DOCTOR_WARN,
			    "a kernel from 5.13 on and, in a container, a seccomp profile that "
			    "allows it; until then I/O goes through epoll and threads");
}
