#include "vmm/config.h"

#include <stdlib.h>
#include <string.h>

void machine_config_init(struct machine_config *config)
{
	*config = (struct machine_config){
	    .cpus = 1,
	    .memory_bytes = UINT64_C(512) << 20,
	    .transport = MACHINE_PCI,
	    .initramfs = MACHINE_INITRAMFS_AUTO,
	    .console = true,
	    .rng = true,
	};
}

/* Paths are const for the image layer, but this config's own. */
static void free_path(const char *path)
{
	union {
		const char *in;
		char *out;
	} u = {.in = path};

	free(u.out);
}

void machine_config_fini(struct machine_config *config)
{
	free(config->kernel);
	free(config->initrd);
	free(config->modules);
	free(config->cmdline);
	free(config->root_fstype);
	free(config->root_label);
	free(config->init);
	free(config->vsock.socket);
	for (unsigned i = 0; i < config->nnets; i++)
		free(config->nets[i].name);
	for (unsigned i = 0; i < config->nshares; i++) {
		free(config->shares[i].path);
		free(config->shares[i].target);
	}
	for (unsigned i = 0; i < config->ncpu_masked; i++)
		free(config->cpu_masked[i]);
	for (unsigned i = 0; i < config->ndisks; i++) {
		free_path(config->disks[i].image.path);
		free_path(config->disks[i].image.data_file);
		free(config->disks[i].mount.target);
		free(config->disks[i].mount.fstype);
		free(config->disks[i].mount.data);
	}
	memset(config, 0, sizeof(*config));
}
