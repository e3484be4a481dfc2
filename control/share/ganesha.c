/*
 * What ganesha.nfsd(8) is told, and what it says. Of its many parts only NFS 4.1 and 4.2 over TCP
 * are in use.
 *
 * Source: ganesha-core-config(8), ganesha-export-config(8), ganesha-cache-config(8),
 * ganesha-log-config(8) of nfs-ganesha 4.3.
 */
#include "control/share/jail.h"
#include "control/share/share_priv.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Seconds. A guest that is silent for longer, as while it is paused, may lose its locks. After a
 * restart of the server it has a little more to claim again what it had open; it is the only
 * client, so that this time is over when it has. */
#define LEASE_S 60
#define GRACE_S 75

/* Files whose state is kept, and descriptors. */
#define ENTRIES 20000

static const char *ipv4(uint32_t address, char text[INET_ADDRSTRLEN])
{
	const struct in_addr in = {.s_addr = htonl(address)};

	return inet_ntop(AF_INET, &in, text, INET_ADDRSTRLEN);
}

static void write_core(FILE *out, const char *address, uint16_t port)
{
	fprintf(out,
		"NFS_CORE_PARAM {\n"
		"	Bind_addr = %s;\n"
		"	NFS_Port = %u;\n"
		"	Protocols = 4;\n"
		"	Enable_UDP = false;\n"
		"	Enable_NLM = false;\n"
		"	Enable_RQUOTA = false;\n"
		"	fsid_device = true;\n"
		"	RPC_Ioq_ThrdMax = 16;\n"
		"}\n"
		"NFSV4 {\n"
		"	Minor_Versions = 1, 2;\n"
		"	Only_Numeric_Owners = true;\n"
		"	Lease_Lifetime = %d;\n"
		"	Grace_Period = %d;\n"
		"	RecoveryBackend = fs;\n"
		"	RecoveryRoot = " JAIL_STATE ";\n"
		"	Delegations = false;\n"
		"}\n"
		"NFS_KRB5 {\n"
		"	Active_krb5 = false;\n"
		"}\n",
		address, port, LEASE_S, GRACE_S);
}

/* What the host changes is seen at once: nothing is kept without asking the file system. */
static void write_cache(FILE *out)
{
	fprintf(out,
		"MDCACHE {\n"
		"	Entries_HWMark = %d;\n"
		"	Dir_Chunk = 0;\n"
		"}\n",
		ENTRIES);
}

static void write_export(FILE *out, const struct machine_share *share, const char *guest)
{
	fprintf(out,
		"EXPORT {\n"
		"	Export_Id = 0;\n"
		"	Path = " JAIL_SHARE ";\n"
		"	Pseudo = /;\n"
		"	Protocols = 4;\n"
		"	Transports = TCP;\n"
		"	SecType = sys;\n"
		"	Attr_Expiration_Time = 0;\n"
		"	Squash = All_Squash;\n"
		"	Anonymous_Uid = %u;\n"
		"	Anonymous_Gid = %u;\n"
		"	Access_Type = NONE;\n"
		"	CLIENT {\n"
		"		Clients = %s;\n"
		"		Protocols = 4;\n"
		"		Access_Type = %s;\n"
		"	}\n"
		"	FSAL {\n"
		"		Name = VFS;\n"
		"	}\n"
		"}\n",
		share->uid, share->gid, guest, share->read_only ? "RO" : "RW");
}

static void write_log(FILE *out)
{
	fputs("LOG {\n"
	      "	Default_Log_Level = EVENT;\n"
	      "	Components {\n"
	      "		DBUS = FATAL;\n"
	      "	}\n"
	      "	Format {\n"
	      "		date_format = none;\n"
	      "		time_format = none;\n"
	      "		EPOCH = false;\n"
	      "		HOSTNAME = false;\n"
	      "		PROGNAME = false;\n"
	      "		PID = false;\n"
	      "		THREAD_NAME = false;\n"
	      "		FILE_NAME = false;\n"
	      "		LINE_NUM = false;\n"
	      "		FUNCTION_NAME = false;\n"
	      "	}\n"
	      "}\n",
	      out);
}

char *ganesha_config(const struct machine_share *share, const struct machine_net *net,
		     uint16_t port)
{
	char *text = NULL, host[INET_ADDRSTRLEN], guest[INET_ADDRSTRLEN];
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	write_core(out, ipv4(net->addresses.gateway, host), port);
	write_cache(out);
	write_export(out, share, ipv4(net->addresses.guest, guest));
	write_log(out);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

/* ---- its log ------------------------------------------------------------------------------------
 */

/* What it misses, and nobody needs here. */
static bool is_noise(const char *text)
{
	static const char *const noise[] = {"RADOS",
					    "DBUS",
					    "dbus",
					    "Cannot register NFS V4",
					    "Cannot acquire credentials",
					    "CLIENT block",
					    "credential cache",
					    "full hostname",
					    "gssd_refresh",
					    "default realm",
					    "keytab"};

	for (size_t i = 0; i < sizeof(noise) / sizeof(noise[0]); i++) {
		if (strstr(text, noise[i]))
			return true;
	}
	return false;
}

bool ganesha_line(char *line, const char **ret_text, bool *ret_ready)
{
	static const char *const levels[] = {":WARN :", ":MAJ :", ":CRIT :", ":FATAL :"};

	line[strcspn(line, "\n")] = '\0';
	*ret_ready = strstr(line, "NFS SERVER INITIALIZED") != NULL;
	*ret_text = line;
	if (*ret_ready || is_noise(line))
		return *ret_ready;
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		const char *at = strstr(line, levels[i]);

		if (at) {
			*ret_text = at + strlen(levels[i]);
			return true;
		}
	}
	/* what did not come to its log: of the dynamic linker, of our jail */
	return *line && !strstr(line, ":EVENT :") && !strstr(line, ":NULL :");
}
