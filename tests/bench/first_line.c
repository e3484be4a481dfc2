/*
 * Runs a command and prints how long it took from fork to the first output line that contains a
 * marker, in nanoseconds of CLOCK_MONOTONIC; then ends the command. Under the lab's --icount a
 * nanosecond is one executed instruction.
 *
 * usage: first_line MARKER TIMEOUT_S COMMAND [ARG...]
 * Exit status: 0 seen, 1 not seen (the command's output is on standard error), 2 usage.
 */
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Reads until the marker is in the output. Returns the time at which it was, 0: it never came. */
static uint64_t wait_marker(int fd, const char *marker, uint64_t deadline_ns)
{
	static char out[1 << 20];
	size_t len = 0;

	while (len < sizeof(out) - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint64_t now = now_ns();
		ssize_t n;

		if (now >= deadline_ns ||
		    poll(&p, 1, (int)((deadline_ns - now) / 1000000) + 1) <= 0)
			break;
		n = read(fd, out + len, sizeof(out) - 1 - len);
		now = now_ns();
		if (n <= 0)
			break;
		len += (size_t)n;
		out[len] = 0;
		if (strstr(out, marker))
			return now;
	}
	fprintf(stderr, "first_line: no \"%s\" in the output:\n%s\n", marker, out);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t start, seen;
	int out[2];
	pid_t pid;

	if (argc < 4 || pipe(out)) {
		fprintf(stderr, "usage: first_line MARKER TIMEOUT_S COMMAND [ARG...]\n");
		return 2;
	}
	start = now_ns();
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		dup2(out[1], 1);
		dup2(out[1], 2);
		close(out[0]);
		close(out[1]);
		execvp(argv[3], argv + 3);
		perror(argv[3]);
		_exit(127);
	}
	close(out[1]);
	seen = wait_marker(out[0], argv[1], start + strtoull(argv[2], NULL, 10) * 1000000000u);
	kill(-pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (!seen)
		return 1;
	printf("%llu\n", (unsigned long long)(seen - start));
	return 0;
}
