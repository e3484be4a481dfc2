/*
 * lodge-init: the first program in a guest that lodge boots with an initramfs of its own.
 *
 *	/lodge.conf --> modules --> network --> root device --> mount --> agent --> root's init
 *	            \-> no root: exec=, or power-off
 *
 * It is started by the kernel as process 1 with the console on descriptors 0 to 2, in an otherwise
 * empty root of that initramfs. When it cannot go on it says why on the console and ends: the
 * kernel panics, and the VMM sees that.
 *
 * Small and quick before all else: static, no stdio, no more system calls than needed.
 * Threads: one.
 */
#ifndef GUEST_INIT_INIT_H
#define GUEST_INIT_INIT_H

#include <stdbool.h>

/* ---- say.c: lines on the console ---------------------------------------------------------- */

/* "lodge-init: " and the strings up to a NULL, as one line in one write. */
void say_line(const char *first, ...) __attribute__((sentinel));

#define say(...) say_line(__VA_ARGS__, (char *)NULL)

/* ---- conf.c: /lodge.conf ------------------------------------------------------------------ */

#define CONF_NETS 4

/*
 * Lines of key=value; what starts with '#' and keys that this init does not know are passed over,
 * so that an older init can read a newer file. The strings are NULL where the file does not say.
 */
struct conf {
	const char *root; /* device: "/dev/vda"; NULL: no root file system */
	const char
	    *rootlabel; /* of a file system or partition on the first disk, in place of root */
	const char *rootfstype;	    /* "ext4", or several with commas between, tried in turn */
	const char *rootflags;	    /* "ro", "rw" and the file system's own, with commas between */
	const char *init;	    /* program of the root that takes over; NULL: the usual ones */
	const char *exec;	    /* without root: program of the initramfs */
	const char *token;	    /* that the agent wants to be told */
	const char *agent;	    /* where the agent listens; NULL: where it does by itself */
	const char *ready;	    /* where it says "ready"; NULL: likewise */
	const char *net[CONF_NETS]; /* of each interface, see network.c; NULL: no further one */
};

/* False: the file cannot be read, and that has been said. */
bool conf_read(const char *path, struct conf *ret_conf);

/* ---- modules.c ---------------------------------------------------------------------------- */

/* Loads what the list names, in order, and removes each file. A module that fails is a warning. */
void modules_load(const char *list);

/* ---- network.c ---------------------------------------------------------------------------- */

/* The interfaces of the conf; what fails is a warning. After the modules. */
void network_set_up(const struct conf *conf);
/* The root's /etc/resolv.conf, where there are any and it may be written. In the root. */
void network_name_servers(const struct conf *conf);

/* ---- label.c ------------------------------------------------------------------------------ */

#define LABEL_DEVICE_BYTES 32

/* The disk ("vda") or that of its partitions which has this label: "/dev/vda2". False: none yet. */
bool label_find(const char *disk, const char *label, char ret_device[static LABEL_DEVICE_BYTES]);

/* ---- root.c ------------------------------------------------------------------------------- */

/* Waits for the device and mounts it on `target`. False: that has been said. */
bool root_mount(const struct conf *conf, const char *target);

/* ---- agent.c ------------------------------------------------------------------------------ */

#define AGENT_PATH "/lodge-agent"

/* The agent's program, open, or -1 where the initramfs has none: before its file is removed. */
int agent_open(void);

/*
 * Starts it in the root that is in place by now, and closes `fd`, as the conf says.
 * It lives in a session of its own, with '@' before its name: systemd leaves such processes of an
 * initramfs alone until the end (systemd.io, ROOT_STORAGE_DAEMONS). Returns its process id, or -1
 * where there is none.
 */
int agent_start(int fd, const struct conf *conf, char **envp);

/* The agent is all that this root can run: reaps what ends, until the agent does. */
void agent_stay(int pid);

/* ---- handover.c --------------------------------------------------------------------------- */

/* Mounts proc, sysfs and devtmpfs on their directories under `root` ("" for "/"). */
void mount_kernel_filesystems(const char *root);

/* Makes `target` the root and frees what the initramfs took. False: that has been said. */
bool switch_root(const char *target);

/*
 * Starts the root's init in this process; returns only when that fails, which has been said. False:
 * the root has none of the usual ones, and that has not been said.
 */
bool exec_init(const char *init, char **argv, char **envp);

/* Says that the root has none. */
void say_no_init(void);

#endif
