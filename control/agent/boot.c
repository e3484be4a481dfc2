/* The guest's part of a start. See control/agent/boot.h. */
#include "control/agent/boot.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "proto/agent.pb-c.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#define NS_PER_MS UINT64_C(1000000)
/* The driver of a disk may still be on its way. */
#define APPEAR_MS 10000

void boot_end(struct boot *b)
{
	if (!b->guest)
		return;
	loop_timer_disarm(b->loop, &b->timer);
	if (b->call)
		ttrpc_client_cancel(steal_ptr(&b->call));
	termina_end(&b->termina);
	b->guest = NULL;
}

static void boot_over(struct boot *b, const struct err *err)
{
	boot_end(b);
	b->done(b->ctx, err);
}

/* ---- mounts -------------------------------------------------------------------------------------
 */

static void mount_next(struct boot *b);

static bool is_at_disks(const struct boot *b)
{
	return b->disk < b->config->ndisks;
}

static void mount_failed(struct boot *b, const char *text)
{
	const struct machine_config *config = b->config;
	struct err err = ERR_INIT;

	if (is_at_disks(b))
		err_set(&err, EIO, "disk %s, in the guest: %s", config->disks[b->disk].image.path,
			text);
	else
		err_set(&err, EIO, "share %s, in the guest: %s", config->shares[b->share].path,
			text);
	guest_clean_text(err.msg);
	boot_over(b, &err);
}

static void mounted(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct boot *b = ctx;

	(void)reply;
	b->call = NULL;
	if (code != TTRPC_OK) {
		mount_failed(b, text);
		return;
	}
	if (is_at_disks(b))
		b->disk++;
	else
		b->share++;
	mount_next(b);
}

static int mount_ask(struct boot *b, const Lodge__Agent__V1__MountRequest *request, struct err *err)
{
	struct ttrpc_client *client = guest_client(b->guest, err);
	const struct ttrpc_rpc rpc = {
	    .service = AGENT_SERVICE,
	    .method = "Mount",
	    .request = &request->base,
	    .output = &lodge__agent__v1__mount_response__descriptor,
	    .done = mounted,
	    .ctx = b,
	};
	int res;

	if (!client)
		return -err->code;
	res = ttrpc_client_start(client, &rpc, &b->call);
	return res ? err_sys(err, -res, "the call to the agent") : 0;
}

static int mount_disk(struct boot *b, struct err *err)
{
	const struct machine_disk *disk = &b->config->disks[b->disk];
	const struct machine_mount *mount = &disk->mount;
	Lodge__Agent__V1__MountRequest request = LODGE__AGENT__V1__MOUNT_REQUEST__INIT;
	char device[] = "/dev/vda";

	device[sizeof(device) - 2] = (char)('a' + b->disk);
	request.source = device;
	request.target = mount->target;
	request.fstype = mount->fstype;
	request.flags = mount->flags | (disk->image.read_only ? MS_RDONLY : 0);
	if (mount->data)
		request.data = mount->data;
	request.mkfs_if_blank = mount->mkfs_if_blank;
	request.wait_ms = APPEAR_MS;
	return mount_ask(b, &request, err);
}

static int mount_share(struct boot *b, struct err *err)
{
	const struct machine_share *share = &b->config->shares[b->share];
	Lodge__Agent__V1__MountRequest request = LODGE__AGENT__V1__MOUNT_REQUEST__INIT;
	char source[SHARE_SOURCE_MAX], options[SHARE_OPTIONS_MAX], fstype[] = "nfs4";

	shares_mount_words(b->config, b->share, source, options);
	request.source = source;
	request.target = share->target;
	request.fstype = fstype;
	request.flags = MS_NOSUID | MS_NODEV | (share->read_only ? MS_RDONLY : 0);
	request.data = options;
	return mount_ask(b, &request, err);
}

static void termina_done(void *ctx, const struct err *err)
{
	boot_over(ctx, err);
}

/* The first interface that has a network for containers. */
static uint32_t containers_of(const struct machine_config *config)
{
	for (unsigned i = 0; i < config->nnets; i++) {
		if (config->nets[i].addresses.containers)
			return config->nets[i].addresses.containers;
	}
	return 0;
}

static void mounts_done(struct boot *b)
{
	const struct err none = ERR_INIT;

	if (b->config->termina)
		termina_begin(&b->termina, b->loop, b->guest, containers_of(b->config),
			      termina_done, b);
	else
		boot_over(b, &none);
}

static void share_next(struct boot *b)
{
	struct err err = ERR_INIT;
	enum share_state state = shares_state(b->shares, b->share, &err);

	b->share_awaited = state == SHARE_STARTING;
	if (state == SHARE_FAILED)
		boot_over(b, &err);
	else if (state == SHARE_READY && mount_share(b, &err))
		mount_failed(b, err.msg);
}

static void mount_next(struct boot *b)
{
	const struct machine_config *config = b->config;
	struct err err = ERR_INIT;

	while (is_at_disks(b) && !config->disks[b->disk].mount.target)
		b->disk++;
	if (is_at_disks(b)) {
		if (mount_disk(b, &err))
			mount_failed(b, err.msg);
	} else if (b->share < config->nshares) {
		share_next(b);
	} else {
		mounts_done(b);
	}
}

void boot_shares_changed(struct boot *b)
{
	if (b->guest && b->share_awaited)
		share_next(b);
}

/* ---- interfaces ---------------------------------------------------------------------------------
 */

/* In the words of ConfigureNetworkRequest. */
struct net_text {
	char mac[18], gateway[INET_ADDRSTRLEN];
	char addresses[1 + NET_IPV6_MAX][INET6_ADDRSTRLEN + 4]; /* the first is IPv4's */
	char dns[NET_DNS_MAX][INET_ADDRSTRLEN];
};

static void net_next(struct boot *b);

static void ipv4_text(uint32_t address, char text[INET_ADDRSTRLEN])
{
	const struct in_addr a = {htonl(address)};

	inet_ntop(AF_INET, &a, text, INET_ADDRSTRLEN);
}

static void net_write(const struct machine_net *net, struct net_text *t)
{
	const struct net_addresses *a = &net->addresses;
	const uint8_t *m = net->mac;

	snprintf(t->mac, sizeof(t->mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3],
		 m[4], m[5]);
	ipv4_text(a->guest, t->addresses[0]);
	snprintf(t->addresses[0] + strlen(t->addresses[0]), 4, "/%u", a->prefix);
	for (unsigned i = 0; i < a->nipv6; i++) {
		char *text = t->addresses[1 + i];

		inet_ntop(AF_INET6, a->ipv6[i].bytes, text, INET6_ADDRSTRLEN);
		snprintf(text + strlen(text), 5, "/%u", a->ipv6[i].prefix);
	}
	ipv4_text(a->gateway, t->gateway);
	for (unsigned i = 0; i < a->ndns; i++)
		ipv4_text(a->dns[i], t->dns[i]);
}

static void net_failed(struct boot *b, const char *text)
{
	struct err err = ERR_INIT;

	err_set(&err, EIO, "network interface %u, in the guest: %s", b->net, text);
	guest_clean_text(err.msg);
	boot_over(b, &err);
}

static void net_configured(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct boot *b = ctx;

	(void)reply;
	b->call = NULL;
	if (code != TTRPC_OK) {
		net_failed(b, text);
		return;
	}
	b->net++;
	net_next(b);
}

static int net_ask(struct boot *b, const struct machine_net *net, struct err *err)
{
	Lodge__Agent__V1__ConfigureNetworkRequest request =
	    LODGE__AGENT__V1__CONFIGURE_NETWORK_REQUEST__INIT;
	struct ttrpc_client *client = guest_client(b->guest, err);
	struct ttrpc_rpc rpc = {
	    .service = AGENT_SERVICE,
	    .method = "ConfigureNetwork",
	    .request = &request.base,
	    .output = &lodge__agent__v1__configure_network_response__descriptor,
	    .done = net_configured,
	    .ctx = b,
	};
	struct net_text t = {0};
	char *addresses[1 + NET_IPV6_MAX], *gateway = t.gateway, *dns[NET_DNS_MAX];
	int res;

	if (!client)
		return -err->code;
	net_write(net, &t);
	request.interface = t.mac;
	for (unsigned i = 0; i < 1 + net->addresses.nipv6; i++)
		addresses[i] = t.addresses[i];
	request.addresses = addresses + !net->addresses.guest;
	request.n_addresses = (net->addresses.guest != 0) + net->addresses.nipv6;
	request.gateways = &gateway;
	request.n_gateways = net->addresses.gateway != 0;
	for (unsigned i = 0; i < net->addresses.ndns; i++)
		dns[i] = t.dns[i];
	request.nameservers = dns;
	/* they are written to a file of the root */
	request.n_nameservers = b->config->root_read_only ? 0 : net->addresses.ndns;
	res = ttrpc_client_start(client, &rpc, &b->call);
	return res ? err_sys(err, -res, "the call to the agent") : 0;
}

static void net_next(struct boot *b)
{
	const struct machine_config *config = b->config;
	struct err err = ERR_INIT;

	while (b->net < config->nnets && !config->nets[b->net].addresses.guest &&
	       !config->nets[b->net].addresses.nipv6)
		b->net++;
	if (b->net == config->nnets)
		mount_next(b);
	else if (net_ask(b, &config->nets[b->net], &err))
		net_failed(b, err.msg);
}

/* ---- the agent ----------------------------------------------------------------------------------
 */

void boot_agent_ready(struct boot *b)
{
	if (!b->guest || b->going) /* it has come back: what is lost is lost */
		return;
	b->going = true;
	net_next(b);
}

static void too_late(struct loop_timer *t)
{
	struct boot *b = container_of(t, struct boot, timer);
	double s = b->timeout_ms / 1000.0;
	struct err err = ERR_INIT;

	if (b->going && b->net < b->config->nnets)
		err_set(&err, ETIMEDOUT,
			"network interface %u: not configured in the guest within %.3g s", b->net,
			s);
	else if (b->going && b->disk == b->config->ndisks && b->share < b->config->nshares)
		err_set(&err, ETIMEDOUT, "share %s: %s within %.3g s",
			b->config->shares[b->share].path,
			b->share_awaited ? "its server was not ready"
					 : "not mounted in the guest; a firewall of the host's may "
					   "keep the guest from it",
			s);
	else if (b->going && b->disk == b->config->ndisks)
		err_set(&err, ETIMEDOUT, "termina: %s: not done in the guest within %.3g s",
			termina_step(&b->termina), s);
	else if (b->going)
		err_set(&err, ETIMEDOUT, "disk %s: not mounted in the guest within %.3g s",
			b->config->disks[b->disk].image.path, s);
	else
		err_set(
		    &err, ETIMEDOUT,
		    "no agent was ready in the guest within %.3g s: its console tells how far it "
		    "came; %s",
		    s,
		    b->config->agent ? "its kernel needs virtio-vsock (CONFIG_VIRTIO_VSOCKETS)"
				     : "its own initrd, or its root, must start lodge-agent");
	boot_over(b, &err);
}

bool boot_wanted(const struct machine_config *config)
{
	for (unsigned i = 0; i < config->ndisks; i++) {
		if (config->disks[i].mount.target)
			return true;
	}
	return config->agent || config->nshares;
}

void boot_begin(struct boot *b, struct loop *loop, struct guest *guest,
		const struct machine_config *config, const struct shares *shares,
		unsigned timeout_ms, void (*done)(void *ctx, const struct err *err), void *ctx)
{
	*b = (struct boot){
	    .loop = loop,
	    .guest = guest,
	    .config = config,
	    .shares = shares,
	    .timeout_ms = timeout_ms	    ? timeout_ms
			  : config->termina ? TERMINA_TIMEOUT_MS
					    : BOOT_TIMEOUT_MS,
	    .timer.fn = too_late,
	    .done = done,
	    .ctx = ctx,
	};
	loop_timer_arm(loop, &b->timer, loop_now_ns() + b->timeout_ms * NS_PER_MS);
}
