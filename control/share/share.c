/* See control/share/share.h. */
#include "control/share/share.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/child/child.h"
#include "control/child/watch.h"
#include "control/share/jail.h"
#include "control/share/share_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRAM	  "ganesha.nfsd"
#define PACKAGE	  "nfs-ganesha nfs-ganesha-vfs"
#define LIBRARY	  "libfsalvfs.so"
#define NO_EXPORT "No export entries found"
#define WORDS_MAX 4096

struct share {
	struct shares *all;
	const char *path; /* the config's */
	struct child server;
	struct child_watch watch;
	enum share_state state;
	char words[WORDS_MAX];	/* an unfinished line */
	char said[ERR_MSG_MAX]; /* the last that tells of a failure */
};

struct shares {
	struct share list[MACHINE_SHARES_MAX];
	unsigned n, open; /* still watched, at the end */
	void (*changed)(void *ctx);
	void *ctx;
};

const struct machine_net *shares_net(const struct machine_config *config)
{
	for (unsigned i = 0; i < config->nnets; i++) {
		if (config->nets[i].nshare_ports)
			return &config->nets[i];
	}
	return NULL;
}

int shares_check(const struct machine_config *config, struct err *err)
{
	char path[PATH_MAX];

	if (!config->nshares)
		return 0;
	if (geteuid())
		return err_set(err, EPERM, "share %s: sharing directories needs root",
			       config->shares[0].path);
	if (!child_find("", PROGRAM, path))
		return err_set(err, ENOENT,
			       "share %s: nfs-ganesha is not installed (apt install " PACKAGE ")",
			       config->shares[0].path);
	return 0;
}

/* ---- starting -----------------------------------------------------------------------------------
 */

static int open_directory(const char *path, int *ret_fd, struct err *err)
{
	union {
		struct file_handle head;
		char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} handle = {.head.handle_bytes = MAX_HANDLE_SZ};
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), mount_id, code;

	if (fd < 0 && errno == ENOTDIR)
		return err_set(err, ENOTDIR, "is not a directory");
	if (fd < 0)
		return errno == ENOENT ? err_set(err, ENOENT, "does not exist")
				       : err_sys(err, errno, "cannot be opened");
	if (name_to_handle_at(fd, "", &handle.head, &mount_id, AT_EMPTY_PATH)) {
		code = errno;
		close(fd);
		if (code == EOPNOTSUPP)
			return err_set(err, code,
				       "is on a file system that cannot be shared by NFS (overlay, "
				       "FUSE, ...)");
		return err_sys(err, code, "its handle");
	}
	*ret_fd = fd;
	return 0;
}

/* Who the guest is on the host. */
static int choose_user(const struct machine_config *config, unsigned n,
		       const struct shares_rights *rights, struct machine_share *ret,
		       struct err *err)
{
	const struct machine_share *share = &config->shares[n];

	*ret = *share;
	if (!share->has_user && rights->uid) {
		ret->uid = rights->uid;
		ret->gid = rights->gid;
	} else if (!share->has_user) {
		ret->uid = config->share_uid ? config->share_uid : SHARE_NOBODY;
		ret->gid = config->share_gid ? config->share_gid : SHARE_NOBODY;
	} else if (rights->uid && (share->uid != rights->uid || share->gid != rights->gid)) {
		return err_set(err, EPERM, "user %u:%u: only root shares with another's rights",
			       share->uid, share->gid);
	}
	return 0;
}

static int start_server(struct share *s, const struct machine_share *share, int dir,
			const struct machine_net *net, uint16_t port, struct err *err)
{
	static const char *const argv[] = {PROGRAM,  "-F", "-f",     JAIL_CONF, "-L",
					   "STDERR", "-p", JAIL_PID, NULL};
	autofree char *conf = ganesha_config(share, net, port);
	struct jail jail = {.dir = dir, .read_only = share->read_only, .conf = conf};
	struct child_jail kept = jail_child(&jail);
	int res;

	if (!conf)
		return err_set(err, ENOMEM, "out of memory");
	res = jail_init(&jail, err);
	return res ? res : child_start(argv, PACKAGE, false, &kept, &s->server, err);
}

static int start_as_host(struct share *s, const struct machine_share *share, int dir,
			 const struct machine_net *net, uint16_t port,
			 const struct shares_rights *rights, struct err *err)
{
	struct err back = ERR_INIT;
	int res = rights->as_host ? rights->as_host(rights->ctx, true, err) : 0;

	if (res)
		return res;
	res = start_server(s, share, dir, net, port, err);
	if (rights->as_host && rights->as_host(rights->ctx, false, &back))
		return err_set(err, back.code, "%s", back.msg);
	return res;
}

static int open_share(struct shares *all, const struct machine_config *config,
		      const struct shares_rights *rights, struct err *err)
{
	const struct machine_net *net = shares_net(config);
	const unsigned n = all->n;
	struct share *s = &all->list[n];
	struct machine_share share;
	autofd int fd = -1;
	int res = choose_user(config, n, rights, &share, err);

	s->all = all;
	s->path = share.path;
	s->server = CHILD_NONE;
	if (!res)
		res = open_directory(share.path, &fd, err);
	if (!res)
		res = start_as_host(s, &share, fd, net, net->share_ports[n], rights, err);
	if (res)
		err_prefix(err, "share %s", share.path);
	else
		all->n++;
	return res;
}

int shares_open(const struct machine_config *config, const struct shares_rights *rights,
		struct shares **ret_shares, struct err *err)
{
	struct shares *all;
	int res = 0;

	if (!config->nshares)
		return 0;
	all = calloc(1, sizeof(*all));
	if (!all)
		return err_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < config->nshares && !res; i++)
		res = open_share(all, config, rights, err);
	if (res)
		shares_free(all);
	else
		*ret_shares = all;
	return res;
}

/* ---- watching -----------------------------------------------------------------------------------
 */

static void set_state(struct share *s, enum share_state state)
{
	if (s->state != SHARE_STARTING)
		return;
	s->state = state;
	s->all->changed(s->all->ctx);
}

static void take_line(struct share *s, char *line)
{
	const char *text;
	bool ready;

	if (!ganesha_line(line, &text, &ready))
		return;
	if (ready) {
		if (s->state == SHARE_READY)
			log_warn("share %s: its server is there again", s->path);
		set_state(s, SHARE_READY);
		return;
	}
	/* it goes on to serve, with nothing in it; why, it has said before */
	if (strstr(text, NO_EXPORT)) {
		if (!*s->said)
			snprintf(s->said, sizeof(s->said), "%s", text);
		set_state(s, SHARE_FAILED);
		return;
	}
	if (strstr(text, LIBRARY)) /* which it names: the other package's */
		snprintf(s->said, sizeof(s->said), "%.200s (apt install " PACKAGE ")", text);
	else if (!strstr(s->said, PACKAGE)) /* what follows from that tells less */
		snprintf(s->said, sizeof(s->said), "%s", text);
	log_info("share %s: " PROGRAM ": %s", s->path, text);
}

static void hear(struct share *s)
{
	char *line = s->words, *end;

	child_hear(&s->server, s->words, sizeof(s->words));
	while ((end = strchr(line, '\n'))) {
		*end = '\0';
		take_line(s, line);
		line = end + 1;
	}
	if (line == s->words && strlen(line) == sizeof(s->words) - 1)
		line += strlen(line); /* nothing of ours is that long */
	memmove(s->words, line, strlen(line) + 1);
}

static void look(void *ctx, int ret_fds[2])
{
	struct share *s = ctx;
	char ended[32];
	enum child_news news = child_news(&s->server, ended, sizeof(ended));

	hear(s);
	if (news == CHILD_ENDED) {
		if (s->state == SHARE_STARTING && !*s->said)
			snprintf(s->said, sizeof(s->said), "it has ended with %s", ended);
		if (s->state == SHARE_READY)
			log_warn("share %s: its server has ended (%s); it is started again",
				 s->path, ended);
		set_state(s, SHARE_FAILED);
	} else if (news == CHILD_ALONE) {
		log_warn("share %s: its server's keeper has ended, and the server with it",
			 s->path);
		set_state(s, SHARE_FAILED);
	}
	ret_fds[0] = s->server.keeper;
	ret_fds[1] = s->server.words;
}

void shares_watch(struct shares *shares, struct loop *loop, void (*changed)(void *ctx), void *ctx)
{
	if (!shares)
		return;
	shares->changed = changed;
	shares->ctx = ctx;
	for (unsigned i = 0; i < shares->n; i++)
		child_watch_begin(&shares->list[i].watch, loop, look, &shares->list[i]);
}

enum share_state shares_state(const struct shares *shares, unsigned n, struct err *err)
{
	const struct share *s = &shares->list[n];

	if (s->state == SHARE_FAILED)
		err_set(err, EIO, "share %s: " PROGRAM ": %s", s->path,
			*s->said ? s->said : "it has ended without a word");
	return s->state;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

static void let_go(void *ctx)
{
	struct share *s = ctx;
	struct shares *all = s->all;

	child_close(&s->server);
	if (!--all->open)
		free(all);
}

void shares_free(struct shares *shares)
{
	unsigned n;

	if (!shares)
		return;
	n = shares->open = shares->n;
	if (!n)
		free(shares);
	for (unsigned i = 0; i < n; i++) {
		struct share *s = &shares->list[i];

		child_end(&s->server);
		child_watch_end(&s->watch, let_go, s);
	}
}

/* ---- for the guest ------------------------------------------------------------------------------
 */

void shares_mount_words(const struct machine_config *config, unsigned n,
			char source[SHARE_SOURCE_MAX], char options[SHARE_OPTIONS_MAX])
{
	const struct machine_net *net = shares_net(config);
	const struct in_addr host = {.s_addr = htonl(net->addresses.gateway)};
	const struct in_addr guest = {.s_addr = htonl(net->addresses.guest)};
	char host_text[INET_ADDRSTRLEN], guest_text[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &host, host_text, sizeof(host_text));
	inet_ntop(AF_INET, &guest, guest_text, sizeof(guest_text));
	snprintf(source, SHARE_SOURCE_MAX, "%s:/", host_text);
	/* what the host changes is seen within a second */
	snprintf(options, SHARE_OPTIONS_MAX,
		 "vers=4.2,proto=tcp,port=%u,addr=%s,clientaddr=%s,hard,sec=sys,actimeo=1",
		 net->share_ports[n], host_text, guest_text);
}
