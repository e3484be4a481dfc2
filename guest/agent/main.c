/* lodge-agent: its start. See guest/agent/agent.h. */
#include "guest/agent/agent.h"

#include "base/log.h"
#include "guest/agent/listen.h"
#include "guest/agent/process.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATUS_FAILED  1
#define STATUS_USAGE   2
#define STATUS_ANOTHER 3 /* an agent listens there already: that is all right for a service */

#define FILES_WANTED 8192

#define TOKEN_VARIABLE	"LODGE_AGENT_TOKEN"
#define TOKEN_BYTES_MAX 128

struct options {
	const char *listen;
	const char *ready; /* NULL: nobody is told */
};

static void usage(FILE *out)
{
	fputs("usage: lodge-agent [--listen vsock:PORT|unix:PATH] [--ready "
	      "vsock:PORT|unix:PATH|none]\n"
	      "\n"
	      "Does in a guest what its host asks over the socket, vsock:8888 where nothing is "
	      "said,\n"
	      "and tells the host that it does by a connection to port 7777.\n",
	      out);
}

/* 0: go on; else the exit status, with 1 added. */
static int parse(int argc, char **argv, struct options *ret)
{
	static const struct option longs[] = {
	    {"listen", required_argument, NULL, 'l'},
	    {"ready", required_argument, NULL, 'r'},
	    {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'V'},
	    {NULL, 0, NULL, 0},
	};
	const char *ready = NULL;
	int c;

	ret->listen = "vsock:8888";
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'l':
			ret->listen = optarg;
			break;
		case 'r':
			ready = optarg;
			break;
		case 'h':
			usage(stdout);
			return 1;
		case 'V':
			puts("lodge-agent " AGENT_VERSION);
			return 1;
		default:
			return 1 + STATUS_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "lodge-agent: '%s' is no option\n", argv[optind]);
		return 1 + STATUS_USAGE;
	}
	if (ready)
		ret->ready = strcmp(ready, "none") != 0 ? ready : NULL;
	else
		ret->ready = !strncmp(ret->listen, "vsock:", 6) ? "vsock:7777" : NULL;
	return 0;
}

/* Descriptors for many processes; and the guest that runs out of memory ends another program. */
static void make_room(struct agent *agent)
{
	static const char score[] = "-1000";
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	struct rlimit wanted;

	if (fd >= 0) {
		(void)!write(fd, score, sizeof(score) - 1);
		close(fd);
	}
	getrlimit(RLIMIT_NOFILE, &agent->files);
	wanted = agent->files;
	if (wanted.rlim_cur < FILES_WANTED) {
		wanted.rlim_cur = wanted.rlim_max < FILES_WANTED ? wanted.rlim_max : FILES_WANTED;
		(void)setrlimit(RLIMIT_NOFILE, &wanted);
	}
}

/* Descriptors 0 to 2 are there, so that no other file gets their numbers. */
static void fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	if (fd >= 3)
		close(fd);
}

static int serve(struct agent *agent, const struct options *options, struct err *err)
{
	struct loop_opts opts = {.backend = LOOP_EPOLL, .workers = 1};
	struct ttrpc_server_config config = {.services = agent_services,
					     .ctx = agent,
					     .admit = listen_admit,
					     .leave = listen_leave,
					     .permit = listen_permit};
	static struct ready ready;
	int fd = -1;
	int res = listen_open(options->listen, &fd, err);

	if (!res)
		res = loop_new(&opts, &agent->loop, err);
	if (!res)
		res = processes_init(agent, err);
	config.loop = agent->loop;
	if (!res)
		res = ttrpc_server_new(&config, &agent->server, err);
	if (!res && options->ready)
		res = ready_begin(&ready, agent->loop, options->ready, err);
	if (res)
		return res;
	ttrpc_server_listen(agent->server, fd);
	res = loop_run(agent->loop);
	return res ? err_sys(err, -res, "the event loop") : 0;
}

/* What init was told: not for the programs that this one starts, nor for who reads its environment.
 */
static const char *take_token(void)
{
	static char token[TOKEN_BYTES_MAX];
	char *told = getenv(TOKEN_VARIABLE);

	if (!told || !*told || strlen(told) >= sizeof(token))
		return NULL;
	memcpy(token, told, strlen(told) + 1);
	explicit_bzero(told, strlen(told));
	unsetenv(TOKEN_VARIABLE);
	return token;
}

/* It runs until the guest ends: what it has is the kernel's to take back. */
int main(int argc, char **argv)
{
	static struct agent agent;
	struct options options;
	struct err err = ERR_INIT;
	int stop = parse(argc, argv, &options);

	if (stop)
		return stop - 1;
	agent.token = take_token();
	fill_standard_descriptors();
	log_init(STDERR_FILENO, LOG_LEVEL_INFO);
	(void)!chdir("/");
	make_room(&agent);
	if (!serve(&agent, &options, &err))
		return 0;
	fprintf(stderr, "lodge-agent: %s\n", err.msg);
	return err.code == EADDRINUSE ? STATUS_ANOTHER : STATUS_FAILED;
}
