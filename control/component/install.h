/*
 * Putting a component in place (control/component/component.h): whole or not at all.
 *
 * Everything is copied into a folder .lodge-new.PID beside the versions, synced, and that gets the
 * version's name. One install at a time works in a root (flock on the folder of versions), so what
 * a killed one has left is removed by the next.
 *
 * Threads: the job's.
 */
#ifndef CONTROL_COMPONENT_INSTALL_H
#define CONTROL_COMPONENT_INSTALL_H

#include "control/component/component.h"
#include "control/disk/job.h"

struct component_install {
	const char *root;
	const char *kernel;
	const char *rootfs;
	enum image_format format; /* of rootfs */
	const char *modules;	  /* folder of the kernel's modules, with modules.dep; NULL: none */
	const char *version;	  /* NULL: the one behind the highest, or "1" */
	bool force;		  /* one that is there is replaced */
};

/*
 * -EINVAL: the kernel is none, the root has no file system, the version is none; -EEXIST: it is
 * there; -EBUSY: another install is at work; -ECANCELED: job->signal came. The message names the
 * thing and the cure.
 */
int component_install(const struct component_install *install, struct disk_job *job,
		      char ret_version[COMPONENT_VERSION_MAX + 1], struct err *err);

#endif
