/*
 * `lodge top`: what each VM does now, from the difference of two answers of GetMetrics.
 *
 * A VM whose process was not there at the first of the two is shown without rates.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/options/parse.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"
#include "control/remote/table.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_S     2
#define INTERVAL_MAX_S 3600
#define CTRL_C	       0x03
#define CLEAR	       "\033[H\033[J"

struct top_options {
	struct remote_options remote;
	unsigned interval_s;
	bool once;
};

static int set_once(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct top_options *)target)->once = true;
	return 0;
}

static int set_interval(void *target, const char *value, struct err *err)
{
	if (parse_unsigned(value, 1, INTERVAL_MAX_S, &((struct top_options *)target)->interval_s))
		return err_set(err, EINVAL, "'%s' is not a number of seconds from 1 to %d", value,
			       INTERVAL_MAX_S);
	return 0;
}

static const struct option_setting top_settings[] = {
    {"once", NULL, set_once, "print one table, and end"},
    {"interval", "SECONDS", set_interval, "time between two tables, over which is measured (2)"},
    REMOTE_SETTINGS,
};

/* ---- what is measured ---------------------------------------------------------------------------
 */

/* Sums that only grow while a VM lives. */
struct totals {
	uint64_t cpu_ns, exits;
	uint64_t reads, writes, read_bytes, write_bytes; /* of all disks */
	uint64_t rx_bytes, tx_bytes;			 /* of all interfaces */
};

static void add_operation(const Lodge__V1__BlockOperationMetrics *op, uint64_t *operations,
			  uint64_t *bytes)
{
	if (!op)
		return;
	*operations += op->operations;
	*bytes += op->bytes;
}

static struct totals totals_of(const Lodge__V1__VmMetrics *vm)
{
	struct totals t = {.cpu_ns = vm->cpu_time_ns};

	for (size_t i = 0; i < vm->n_vcpus; i++) {
		for (size_t k = 0; k < vm->vcpus[i]->n_exits; k++)
			t.exits += vm->vcpus[i]->exits[k]->count;
	}
	for (size_t i = 0; i < vm->n_disks; i++) {
		add_operation(vm->disks[i]->read, &t.reads, &t.read_bytes);
		add_operation(vm->disks[i]->write, &t.writes, &t.write_bytes);
	}
	for (size_t i = 0; i < vm->n_networks; i++) {
		t.rx_bytes += vm->networks[i]->rx_bytes;
		t.tx_bytes += vm->networks[i]->tx_bytes;
	}
	return t;
}

struct sample {
	ProtobufCMessage *msg; /* a GetMetricsResponse; NULL: none yet */
	uint64_t time_ns;
};

static const Lodge__V1__GetMetricsResponse *metrics_of(const struct sample *s)
{
	return (const Lodge__V1__GetMetricsResponse *)s->msg;
}

/* The same VM in an earlier sample; NULL: it was not there. */
static const Lodge__V1__VmMetrics *find_before(const struct sample *before,
					       const Lodge__V1__VmMetrics *vm)
{
	if (!before->msg)
		return NULL;
	for (size_t i = 0; i < metrics_of(before)->n_vms; i++) {
		const Lodge__V1__VmMetrics *old = metrics_of(before)->vms[i];

		if (old->pid == vm->pid && !strcmp(old->name, vm->name))
			return old;
	}
	return NULL;
}

/* What a VM does now. */
struct rates {
	const Lodge__V1__VmMetrics *vm;
	bool known;							   /* the rest */
	double cpu_percent, exits, reads, writes, read_bytes, write_bytes; /* per second */
	double rx_bytes, tx_bytes;
};

static double per_second(uint64_t now, uint64_t before, double seconds)
{
	return now > before ? (double)(now - before) / seconds : 0;
}

static struct rates rates_of(const struct sample *now, const struct sample *before,
			     const Lodge__V1__VmMetrics *vm)
{
	const Lodge__V1__VmMetrics *old = find_before(before, vm);
	double seconds = (double)(now->time_ns - before->time_ns) / 1e9;
	struct rates r = {.vm = vm, .known = old && seconds > 0};
	struct totals a, b;

	if (!r.known)
		return r;
	a = totals_of(old);
	b = totals_of(vm);
	r.cpu_percent = per_second(b.cpu_ns, a.cpu_ns, seconds) / 1e7;
	r.exits = per_second(b.exits, a.exits, seconds);
	r.reads = per_second(b.reads, a.reads, seconds);
	r.writes = per_second(b.writes, a.writes, seconds);
	r.read_bytes = per_second(b.read_bytes, a.read_bytes, seconds);
	r.write_bytes = per_second(b.write_bytes, a.write_bytes, seconds);
	r.rx_bytes = per_second(b.rx_bytes, a.rx_bytes, seconds);
	r.tx_bytes = per_second(b.tx_bytes, a.tx_bytes, seconds);
	return r;
}

/* The busiest first. */
static int by_use(const void *a, const void *b)
{
	const struct rates *x = a, *y = b;

	if (x->cpu_percent != y->cpu_percent)
		return x->cpu_percent < y->cpu_percent ? 1 : -1;
	return strcmp(x->vm->name, y->vm->name);
}

/* ---- printing -----------------------------------------------------------------------------------
 */

static void rate_cell(struct table *t, const struct rates *r, double rate, bool is_bytes)
{
	char text[PRINT_NUMBER_MAX];

	if (!r->known)
		table_cell(t, "-");
	else if (is_bytes)
		table_cell(t, "%s", print_bytes((uint64_t)rate, text));
	else
		table_cell(t, "%s", print_count((double)(uint64_t)(rate + 0.5), text));
}

static void print_table(const struct rates *rates, size_t n, size_t rows, unsigned width,
			const char *newline)
{
	static const struct table_column columns[] = {
	    {"NAME", false},   {"PID", true},	   {"UP", true},	{"CPU%", true},
	    {"MEM", true},     {"OF", true},	   {"EXITS/S", true},	{"READ/S", true},
	    {"WRITE/S", true}, {"READ B/S", true}, {"WRITE B/S", true}, {"RX B/S", true},
	    {"TX B/S", true},
	};
	struct table t = TABLE_INIT(columns);

	for (size_t i = 0; i < n; i++) {
		const struct rates *r = &rates[i];
		char text[PRINT_NUMBER_MAX];

		table_cell(&t, "%s", r->vm->name);
		table_cell(&t, "%d", r->vm->pid);
		table_cell(&t, "%s", print_duration(r->vm->uptime_ns, text));
		if (r->known)
			table_cell(&t, "%.1f", r->cpu_percent);
		else
			table_cell(&t, "-");
		table_cell(&t, "%s", print_bytes(r->vm->resident_bytes, text));
		table_cell(&t, "%s", print_bytes(r->vm->memory_bytes, text));
		rate_cell(&t, r, r->exits, false);
		rate_cell(&t, r, r->reads, false);
		rate_cell(&t, r, r->writes, false);
		rate_cell(&t, r, r->read_bytes, true);
		rate_cell(&t, r, r->write_bytes, true);
		rate_cell(&t, r, r->rx_bytes, true);
		rate_cell(&t, r, r->tx_bytes, true);
	}
	table_print(&t, stdout, rows, width, newline);
	table_free(&t);
}

static void json_rate(struct json *j, const char *key, const struct rates *r, double rate)
{
	if (r->known)
		json_u64(j, key, (uint64_t)(rate + 0.5));
	else
		json_null(j, key);
}

static void print_rates_json(const struct rates *rates, size_t n, double seconds)
{
	struct json j = JSON_INIT(stdout);

	json_object_inline(&j, NULL);
	json_u64(&j, "interval_ms", (uint64_t)(seconds * 1e3));
	json_array(&j, "vms");
	for (size_t i = 0; i < n; i++) {
		const struct rates *r = &rates[i];

		json_object(&j, NULL);
		json_string(&j, "name", r->vm->name);
		json_u64(&j, "pid", (uint64_t)MAX(r->vm->pid, 0));
		json_u64(&j, "uptime_ns", r->vm->uptime_ns);
		json_u64(&j, "resident_bytes", r->vm->resident_bytes);
		json_u64(&j, "memory_bytes", r->vm->memory_bytes);
		json_rate(&j, "cpu_permille", r, r->cpu_percent * 10);
		json_rate(&j, "exits_per_second", r, r->exits);
		json_rate(&j, "reads_per_second", r, r->reads);
		json_rate(&j, "writes_per_second", r, r->writes);
		json_rate(&j, "read_bytes_per_second", r, r->read_bytes);
		json_rate(&j, "write_bytes_per_second", r, r->write_bytes);
		json_rate(&j, "rx_bytes_per_second", r, r->rx_bytes);
		json_rate(&j, "tx_bytes_per_second", r, r->tx_bytes);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
}

/* ---- the screen ---------------------------------------------------------------------------------
 */

struct top {
	struct remote *r;
	const struct top_options *options;
	bool is_screen; /* the table stays in place, and keys are read */
	int signal_fd;
	bool printed;
};

static bool print_sample(struct top *t, const struct sample *now, const struct sample *before)
{
	const Lodge__V1__GetMetricsResponse *m = metrics_of(now);
	double seconds = (double)(now->time_ns - before->time_ns) / 1e9;
	autofree struct rates *rates = calloc(m->n_vms + 1, sizeof(*rates));
	struct winsize size = {.ws_row = 0};

	if (!rates) {
		remote_fail(t->r, LODGE_FAILED, "out of memory");
		return false;
	}
	for (size_t i = 0; i < m->n_vms; i++)
		rates[i] = rates_of(now, before, m->vms[i]);
	qsort(rates, m->n_vms, sizeof(*rates), by_use);
	if (t->options->remote.json) {
		print_rates_json(rates, m->n_vms, before->msg ? seconds : 0);
	} else if (t->is_screen && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row > 3) {
		printf(CLEAR "lodge top: %zu VMs; q quits\r\n", m->n_vms);
		print_table(rates, m->n_vms, size.ws_row - 3u, size.ws_col, "\r\n");
	} else {
		if (t->printed)
			putchar('\n');
		print_table(rates, m->n_vms, SIZE_MAX, 0, t->is_screen ? "\r\n" : "\n");
	}
	t->printed = true;
	return remote_flush();
}

/* False: the user, or a signal, has said that it is enough. */
static bool wait_interval(struct top *t)
{
	uint64_t ms = t->options->interval_s * UINT64_C(1000);
	struct pollfd p[2] = {
	    {.fd = t->signal_fd, .events = POLLIN},
	    {.fd = t->is_screen ? STDIN_FILENO : -1, .events = POLLIN},
	};
	char key;

	if (poll(p, ARRAY_LEN(p), (int)ms) <= 0)
		return true;
	if (p[0].revents)
		return false;
	if (read(STDIN_FILENO, &key, 1) != 1)
		return false;
	return key != 'q' && key != 'Q' && key != CTRL_C; /* another: at once */
}

static bool take_sample(struct remote *r, struct sample *ret_sample)
{
	Lodge__V1__GetMetricsRequest request = LODGE__V1__GET_METRICS_REQUEST__INIT;
	struct timespec now;

	ret_sample->msg = remote_call(r, "GetMetrics", &request.base);
	clock_gettime(CLOCK_MONOTONIC, &now);
	ret_sample->time_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return ret_sample->msg != NULL;
}

static int top_loop(struct top *t)
{
	struct sample before = {.msg = NULL}, now;
	int status = LODGE_OK;

	for (bool go_on = true; go_on;) {
		if (!take_sample(t->r, &now)) {
			status = t->r->status;
			break;
		}
		/* one table needs two samples */
		if (before.msg || !t->options->once) {
			if (!before.msg)
				before.time_ns = now.time_ns;
			go_on = print_sample(t, &now, &before) && !t->options->once;
			status = t->r->status;
		}
		lodge_free(before.msg);
		before = now;
		go_on = go_on && wait_interval(t);
	}
	lodge_free(before.msg);
	return status;
}

static int top_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct top_options *o = (const struct top_options *)r->options;
	struct top t = {.r = r, .options = o, .signal_fd = -1};
	sigset_t set;
	int status;

	(void)operands;
	(void)noperands;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t.signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (t.signal_fd < 0)
		return remote_fail(r, LODGE_FAILED, "signals: %s", strerror(errno));
	t.is_screen = !o->once && !o->remote.json && isatty(STDOUT_FILENO) &&
		      !tty_adopt(STDIN_FILENO) && tty_foreground();
	if (t.is_screen)
		tty_raw();
	status = top_loop(&t);
	tty_forget();
	close(t.signal_fd);
	return status;
}

static const struct remote_command top_command = {
    .name = "top",
    .usage = "",
    .about = "Shows what each VM does now, the busiest first: CPU, memory of the process and what\n"
	     "the guest was given, exits, disk operations and bytes for each second. q quits.\n",
    .settings = top_settings,
    .nsettings = ARRAY_LEN(top_settings),
    .run = top_run,
};

int cmd_top(int argc, char **argv)
{
	struct top_options options = {.interval_s = INTERVAL_S};

	return remote_run(&top_command, &options.remote, argc, argv);
}

void cmd_top_help(void)
{
	remote_help(&top_command);
}
