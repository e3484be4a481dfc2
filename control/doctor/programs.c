/*
 * Programs that work beside a VM, which are not needed for one.
 */
#include "base/checked.h"
#include "control/child/child.h"
#include "control/doctor/check.h"

#include <string.h>

static const struct program {
	const char *name;
	const char *package;
	const char *use;
} programs[] = {
    {"nft", "nftables",
     "nat and forwarded ports, and vhost-net for guests that are kept to their addresses"},
    {"passt", "passt", "networking without root"},
    {"ganesha.nfsd", "nfs-ganesha nfs-ganesha-vfs", "directories that guests share with the host"},
};

void doctor_programs(struct doctor *doctor)
{
	for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
		const struct program *p = &programs[i];
		struct doctor_item *item = doctor_add(doctor, p->name);
		char path[PATH_MAX];

		if (child_find(doctor->root, p->name, path)) {
			doctor_found(item, "%s", path + strlen(doctor->root));
		} else {
			doctor_found(item, "not installed");
			doctor_cure(item, DOCTOR_WARN, "for %s: apt install %s", p->use,
				    p->package);
		}
	}
}
