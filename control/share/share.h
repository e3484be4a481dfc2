/*
 * Directories of the host that the guest mounts over NFS.
 *
 * Each share has a server of its own, a ganesha.nfsd(8) in a jail (control/share/jail.h), at a port
 * of the host's end of the VM's own network (machine_net.share_ports). Its keeper starts it again
 * when it has ended; the guest's requests wait meanwhile, and what it held open and locked it
 * claims again. All of it goes with this process, also by SIGKILL.
 *
 *   starting --it serves--> ready
 *      |
 *      +----it ended------> failed
 *
 * The guest acts as one user of the host (machine_share.uid, gid) without further groups, and
 * reaches nothing outside the directory: ganesha exports nothing else, and file handles that it has
 * not given out are refused (control/share/preload). Symbolic links are the guest's to follow,
 * among its own files. Only the guest's address reaches the port, and only by its own tap: ganesha
 * looks at the one, rules of nftables (control/network/rules.h) at both.
 *
 * Threads: shares_open() any; then the loop's.
 *
 * Source: RFC 8881 (NFS 4.1), RFC 7862 (4.2).
 */
#ifndef CONTROL_SHARE_SHARE_H
#define CONTROL_SHARE_SHARE_H

#include "base/err.h"
#include "base/loop.h"
#include "vmm/config.h"

#include <sys/types.h>

#define SHARE_NOBODY 65534

/* Whose rights shares have. */
struct shares_rights {
	/* as of struct networks_rights: around what is the host's, not the caller's */
	int (*as_host)(void *ctx, bool on, struct err *err);
	void *ctx;
	/* who asks: shares that name no user are this one's, and only root may name others */
	uid_t uid;
	gid_t gid;
};

struct shares;

/* What can be said before anything is made: -EPERM (not root), -ENOENT (no ganesha.nfsd). */
int shares_check(const struct machine_config *config, struct err *err);

/*
 * Starts a server for each share of `config`, whose networks are open: shares_wanted() has seen to
 * it that one has ports for them. Directories are opened with the rights of the calling thread.
 * NULL where there are no shares. The message names the directory and the cure: -ENOENT (no such
 * directory), -ENOTDIR, -EPERM (a user that the caller is not), -EOPNOTSUPP (a file system without
 * handles).
 */
int shares_open(const struct machine_config *config, const struct shares_rights *rights,
		struct shares **ret_shares, struct err *err);

/* `changed` is called when shares_state() may have. */
void shares_watch(struct shares *shares, struct loop *loop, void (*changed)(void *ctx), void *ctx);

enum share_state {
	SHARE_STARTING,
	SHARE_READY,
	SHARE_FAILED, /* before it was ready; *err says why */
};

enum share_state shares_state(const struct shares *shares, unsigned n, struct err *err);

/* The servers end. After the machine; NULL is accepted. */
void shares_free(struct shares *shares);

/* What is mounted: "100.115.92.5:/" and its options (nfs(5), as mount(2) takes them). */
#define SHARE_SOURCE_MAX  24
#define SHARE_OPTIONS_MAX 160
void shares_mount_words(const struct machine_config *config, unsigned n,
			char source[SHARE_SOURCE_MAX], char options[SHARE_OPTIONS_MAX]);

#endif
