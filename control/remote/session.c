/* A process in a guest. See control/remote/session.h. */
#include "control/remote/session.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* proto/agent.proto, ExecRequest.stdin_data */
#define WINDOW	    (256 * 1024)
#define PIECE_BYTES (32 * 1024)

/* A pipe that poll(2) calls writable takes so much without waiting. */
#define WRITE_BYTES PIPE_BUF

/* How the agent begins what it says of a program that does not start (proto/agent.proto). */
#define CANNOT_START "cannot start "

static const int passed_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};

/* Enter ~ . leaves, Enter ~ ~ types one. */
enum escape_state { AT_LINE_START, AFTER_TILDE, IN_LINE };

struct output {
	int fd;
	const uint8_t *data; /* of the message */
	size_t len;
};

/* Threads: one. */
struct session {
	struct remote *r;
	const struct session_spec *spec;
	struct lodge_error error;
	enum escape_state escape;
	bool is_terminal; /* standard input is, and is raw */
	bool has_input;
	uint64_t ahead_bytes;

	ProtobufCMessage *message; /* whose output is being written */
	struct output out[2];

	bool over;   /* nothing more comes */
	bool failed; /* `error` says why */
	bool exited;
	int status; /* of the command, when it is over */
};

static void session_end(struct session *s, int status)
{
	s->over = true;
	s->status = status;
}

/* ---- to the process -----------------------------------------------------------------------------
 */

static void session_send(struct session *s, Lodge__Agent__V1__ExecRequest *inner)
{
	Lodge__V1__ExecInGuestRequest request = LODGE__V1__EXEC_IN_GUEST_REQUEST__INIT;

	request.name = remote_borrow(s->spec->vm);
	request.request = inner;
	if (!s->over && lodge_send(s->r->client, &request.base, &s->error)) {
		s->failed = true;
		session_end(s, SESSION_FAILED);
	}
}

static void send_data(struct session *s, uint8_t *data, size_t len)
{
	Lodge__Agent__V1__ExecRequest inner = LODGE__AGENT__V1__EXEC_REQUEST__INIT;

	if (!len)
		return;
	inner.stdin_data = (ProtobufCBinaryData){.len = len, .data = data};
	s->ahead_bytes += len;
	session_send(s, &inner);
}

/* The size of the terminal; false: there is none. */
static bool terminal_size(Lodge__Agent__V1__TerminalSize *ret_size)
{
	struct winsize size;

	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size))
		return false;
	ret_size->rows = size.ws_row;
	ret_size->columns = size.ws_col;
	return true;
}

static void send_size(struct session *s)
{
	Lodge__Agent__V1__ExecRequest inner = LODGE__AGENT__V1__EXEC_REQUEST__INIT;
	Lodge__Agent__V1__TerminalSize size = LODGE__AGENT__V1__TERMINAL_SIZE__INIT;

	inner.resize = &size;
	if (s->spec->terminal && terminal_size(&size))
		session_send(s, &inner);
}

static void send_signal(struct session *s, int signal_fd)
{
	Lodge__Agent__V1__ExecRequest inner = LODGE__AGENT__V1__EXEC_REQUEST__INIT;
	struct signalfd_siginfo info;

	if (read(signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGWINCH) {
		send_size(s);
		return;
	}
	inner.signal = info.ssi_signo;
	session_send(s, &inner);
}

/* What was typed, less the keys that are ours; `out` has room for twice as much. */
static size_t typed(struct session *s, const uint8_t *in, size_t len, uint8_t *out)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (s->escape == AT_LINE_START && in[i] == '~') {
			s->escape = AFTER_TILDE;
			continue;
		}
		if (s->escape == AFTER_TILDE && in[i] == '.') {
			tty_say("lodge %s: left; the process is killed", s->r->command->name);
			session_end(s, LODGE_SIGNALLED + SIGKILL);
			return 0;
		}
		if (s->escape == AFTER_TILDE && in[i] != '~')
			out[n++] = '~';
		out[n++] = in[i];
		s->escape = in[i] == '\r' || in[i] == '\n' ? AT_LINE_START : IN_LINE;
	}
	return n;
}

static void take_input(struct session *s)
{
	Lodge__Agent__V1__ExecRequest end = LODGE__AGENT__V1__EXEC_REQUEST__INIT;
	uint8_t in[PIECE_BYTES], out[2 * PIECE_BYTES];
	ssize_t n = read(STDIN_FILENO, in, s->is_terminal ? PIECE_BYTES / 2 : PIECE_BYTES);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n > 0 && s->is_terminal) {
		n = (ssize_t)typed(s, in, (size_t)n, out);
		send_data(s, out, (size_t)n);
	} else if (n > 0) {
		send_data(s, in, (size_t)n);
	} else {
		s->has_input = false;
		if (s->is_terminal) { /* it is gone */
			session_end(s, LODGE_SIGNALLED + SIGHUP);
			return;
		}
		end.stdin_end = true;
		session_send(s, &end);
	}
}

/* ---- from it ------------------------------------------------------------------------------------
 */

static void output_free(struct session *s)
{
	lodge_free(s->message);
	s->message = NULL;
}

/* Keeps the message until its output is written. */
static void take_message(struct session *s, ProtobufCMessage *message)
{
	const Lodge__Agent__V1__ExecResponse *r = (const Lodge__Agent__V1__ExecResponse *)message;

	s->ahead_bytes -= MIN(r->stdin_taken_bytes, s->ahead_bytes);
	if (r->exited) {
		s->exited = true;
		s->status = r->exited->signal ? LODGE_SIGNALLED + (int)MIN(r->exited->signal, 127U)
					      : (int)(r->exited->status & 0xff);
	}
	if (s->spec->start->detach && r->pid) {
		printf("%u\n", r->pid);
		s->exited = true;
		s->status = LODGE_OK;
	}
	s->message = message;
	s->out[0] = (struct output){STDOUT_FILENO, r->stdout_data.data, r->stdout_data.len};
	s->out[1] = (struct output){STDERR_FILENO, r->stderr_data.data, r->stderr_data.len};
	if (!s->out[0].len && !s->out[1].len)
		output_free(s);
}

/* Takes messages until one has output, or none is there. */
static void receive(struct session *s)
{
	while (!s->over && !s->message) {
		ProtobufCMessage *message;

		switch (lodge_next(s->r->client, 0, &message, &s->error)) {
		case LODGE_NEXT_MESSAGE:
			take_message(s, message);
			break;
		case LODGE_NEXT_NONE:
			return;
		case LODGE_NEXT_END:
			s->over = true;
			return;
		case LODGE_NEXT_FAILED:
			s->failed = true;
			session_end(s, SESSION_FAILED);
			return;
		}
	}
}

/* It is writable. */
static void write_output(struct session *s, struct output *o)
{
	ssize_t n = write(o->fd, o->data, MIN(o->len, (size_t)WRITE_BYTES));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 && o->fd == STDOUT_FILENO) { /* nobody reads any more */
		session_end(s, LODGE_SIGNALLED + SIGPIPE);
		return;
	}
	o->data += n < 0 ? o->len : (size_t)n;
	o->len -= n < 0 ? o->len : (size_t)n;
	if (!s->out[0].len && !s->out[1].len)
		output_free(s);
}

/* ---- both ---------------------------------------------------------------------------------------
 */

static void session_loop(struct session *s, int signal_fd)
{
	struct pollfd p[] = {
	    {.fd = signal_fd, .events = POLLIN},
	    {.events = POLLIN},
	    {.events = POLLIN},
	    {.events = POLLOUT},
	    {.events = POLLOUT},
	};

	for (;;) {
		int wait_ms = s->r->options->timeout_ms ? 1000 : -1; /* lodge_next() looks at it */
		bool room = s->ahead_bytes + PIECE_BYTES <= WINDOW;

		receive(s);
		if (s->over)
			return;
		p[1].fd = s->message ? -1 : lodge_fd(s->r->client);
		p[2].fd = s->has_input && room ? STDIN_FILENO : -1;
		p[3].fd = s->message && s->out[0].len ? STDOUT_FILENO : -1;
		p[4].fd = s->message && s->out[1].len ? STDERR_FILENO : -1;
		if (poll(p, ARRAY_LEN(p), wait_ms) < 0)
			continue;
		if (p[0].revents)
			send_signal(s, signal_fd);
		if (p[3].fd >= 0 && p[3].revents && !s->over)
			write_output(s, &s->out[0]);
		if (p[4].fd >= 0 && p[4].revents && !s->over)
			write_output(s, &s->out[1]);
		if (p[2].fd >= 0 && p[2].revents && !s->over)
			take_input(s);
	}
}

static int open_signals(int *ret_fd)
{
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(passed_signals); i++) {
		struct sigaction sa;

		/* what is ignored (nohup) stays so */
		if (!sigaction(passed_signals[i], NULL, &sa) && sa.sa_handler != SIG_IGN)
			sigaddset(&set, passed_signals[i]);
	}
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	*ret_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *ret_fd < 0 ? -errno : 0;
}

static int session_begin(struct session *s)
{
	Lodge__Agent__V1__ExecRequest inner = LODGE__AGENT__V1__EXEC_REQUEST__INIT;
	Lodge__Agent__V1__TerminalSize size = LODGE__AGENT__V1__TERMINAL_SIZE__INIT;
	Lodge__Agent__V1__ExecStart *start = s->spec->start;

	inner.start = start;
	if (s->spec->terminal) {
		if (!terminal_size(&size)) {
			size.rows = 24;
			size.columns = 80;
		}
		start->terminal = &size;
	}
	start->open_stdin = s->has_input && !s->spec->terminal;
	if (lodge_begin(s->r->client, "ExecInGuest", NULL, s->r->options->timeout_ms, &s->error)) {
		s->failed = true;
		return -1;
	}
	session_send(s, &inner);
	start->terminal = NULL;
	return s->failed ? -1 : 0;
}

static int session_failed(struct session *s)
{
	const struct lodge_error *e = &s->error;
	int status = remote_failed(s->r, e);

	if (e->status == LODGE_STATUS_DEADLINE_EXCEEDED && s->r->options->timeout_ms)
		return SESSION_TIMEOUT;
	if (strncmp(e->text, CANNOT_START, strlen(CANNOT_START)) != 0)
		return status;
	return e->status == LODGE_STATUS_NOT_FOUND ? SESSION_NOT_FOUND : SESSION_CANNOT;
}

bool session_on_terminal(void)
{
	return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

int session_run(struct remote *r, const struct session_spec *spec)
{
	struct session s = {.r = r, .spec = spec, .status = SESSION_FAILED};
	autofd int signal_fd = -1;
	int res = open_signals(&signal_fd);

	if (res)
		return remote_fail(r, LODGE_FAILED, "signals: %s", strerror(-res));
	s.is_terminal = spec->terminal && !tty_adopt(STDIN_FILENO);
	s.has_input = s.is_terminal || spec->input;
	if (!session_begin(&s)) {
		if (s.is_terminal && tty_raw())
			tty_say("lodge %s: the terminal takes no raw mode", r->command->name);
		session_loop(&s, signal_fd);
	}
	output_free(&s);
	tty_forget();
	if (s.failed)
		return session_failed(&s);
	if (s.over && !s.exited && s.status == SESSION_FAILED)
		return remote_fail(r, LODGE_FAILED, "the process's end was not told");
	return s.status;
}
