/* What the commands of `lodge disk` share. See control/disk/job.h. */
#include "control/disk/job.h"

#include "base/checked.h"
#include "base/json.h"
#include "control/command.h"
#include "disk/raw_tools.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- signals ----------------------------------------------------------------------------------
 */

static void signal_arrived(struct loop_op *op, int res)
{
	struct disk_job *job = container_of(op, struct disk_job, signal_op);

	job->waiting = false;
	if (res != (int)sizeof(job->siginfo))
		return; /* the loop is freed */
	job->signal = (int)job->siginfo.ssi_signo;
	if (job->copy)
		copy_cancel(job->copy);
}

int disk_job_begin(struct disk_job *job, const struct disk_args *args, struct err *err)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction sa;
	sigset_t mask;
	int r;

	*job = (struct disk_job){.args = args, .signal_fd = -1};
	r = loop_new(NULL, &job->loop, err);
	if (r)
		return r;
	sigemptyset(&mask);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		/* what nohup(1) or a script's & had ignored stays ignored */
		if (!sigaction(signals[i], NULL, &sa) && sa.sa_handler != SIG_IGN)
			sigaddset(&mask, signals[i]);
	}
	sigprocmask(SIG_BLOCK, &mask, &job->old_mask);
	job->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (job->signal_fd < 0) {
		r = err_sys(err, errno, "watching for signals");
		disk_job_end(job);
		return r;
	}
	job->signal_op.done = signal_arrived;
	return 0;
}

void disk_job_end(struct disk_job *job)
{
	if (!job->loop)
		return;
	loop_free(job->loop);
	job->loop = NULL;
	if (job->signal_fd >= 0)
		close(job->signal_fd);
	sigprocmask(SIG_SETMASK, &job->old_mask, NULL);
}

bool disk_job_go_on(struct disk_job *job)
{
	struct signalfd_siginfo info;

	/* the loop does not run, so nothing of it reads the descriptor meanwhile */
	if (!job->signal && read(job->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		job->signal = (int)info.ssi_signo;
	return !job->signal;
}

bool disk_job_at(void *ctx, uint64_t done, uint64_t total)
{
	struct disk_job *job = ctx;

	job->done_bytes = done;
	job->progress.total_bytes = total;
	progress_at(&job->progress, done);
	return disk_job_go_on(job);
}

/* ---- work -------------------------------------------------------------------------------------
 */

static void copied_to(void *ctx, uint64_t done_bytes)
{
	struct disk_job *job = ctx;

	job->done_bytes = MAX(job->done_bytes, done_bytes);
	progress_at(&job->progress, job->done_bytes);
}

int disk_job_copy(struct disk_job *job, const char *what, const struct copy_opts *opts,
		  struct copy_stats *ret_stats, struct err *err)
{
	struct copy_opts o = *opts;
	int r;

	o.loop = job->loop;
	o.progress = copied_to;
	o.progress_ctx = job;
	r = copy_new(&o, &job->copy, err);
	if (r)
		return r;
	if (!disk_job_go_on(job))
		copy_cancel(job->copy);
	else if (!job->waiting)
		loop_read(job->loop, &job->signal_op, job->signal_fd, &job->siginfo,
			  sizeof(job->siginfo));
	job->waiting = !job->signal;
	job->done_bytes = 0;
	progress_begin(&job->progress, what, o.len_bytes, job->args->progress, job->args->quiet);
	r = copy_run(job->copy, ret_stats, err);
	progress_end(&job->progress, r ? job->done_bytes : o.len_bytes);
	copy_free(job->copy);
	job->copy = NULL;
	return r;
}

/* A guest cannot use what does not fill a sector, but whoever copies a file wants all of it. */
static int check_whole_sectors(const struct image_opts *opts, struct err *err)
{
	struct raw_facts facts;
	int r = opts->format == IMAGE_RAW ? raw_facts(opts->path, &facts, err) : 0;

	if (opts->format != IMAGE_RAW || r || facts.size_bytes % IMAGE_SECTOR_BYTES == 0)
		return r;
	return err_set(err, EINVAL,
		       "%s is %" PRIu64
		       " bytes long, no multiple of %d; is it the right file? If so, "
		       "`lodge disk resize -f raw %s %" PRIu64 "` makes it whole",
		       opts->path, facts.size_bytes, IMAGE_SECTOR_BYTES, opts->path,
		       align_up(facts.size_bytes, IMAGE_SECTOR_BYTES));
}

int disk_job_open(struct disk_job *job, const struct image_opts *opts, struct image **ret_img,
		  struct err *err)
{
	struct image *img;
	int r = check_whole_sectors(opts, err);

	if (!r)
		r = image_open(opts, &img, err);
	if (r)
		return r;
	r = image_attach(img, job->loop, err);
	if (r) {
		image_close(img);
		return r;
	}
	*ret_img = img;
	return 0;
}

void disk_job_close(struct image *img)
{
	if (!img)
		return;
	image_detach(img);
	image_close(img);
}

/* ---- results ----------------------------------------------------------------------------------
 */

int disk_usage_error(const struct disk_args *args, const struct err *err)
{
	fprintf(stderr, "lodge disk %s: %s\n", args->command->name, err->msg);
	return LODGE_USAGE;
}

int disk_result(const struct disk_args *args, const struct disk_job *job, int r,
		const struct err *err)
{
	if (!r)
		return LODGE_OK;
	if (job && job->signal) {
		fprintf(stderr, "lodge disk %s: ended by SIG%s; %s\n", args->command->name,
			sigabbrev_np(job->signal),
			args->command->options & DISK_ARG_FORCE
			    ? "no file has been made"
			    : "the image is whole, and the command can be given again");
		return LODGE_SIGNALLED + job->signal;
	}
	fprintf(stderr, "lodge disk %s: %s\n", args->command->name, err->msg);
	return LODGE_FAILED;
}

void disk_print_result(const struct disk_args *args, const char *path, enum image_format format,
		       uint64_t size_bytes, const struct copy_stats *stats)
{
	struct json j = JSON_INIT(stdout);

	if (!args->json)
		return;
	json_object(&j, NULL);
	json_string(&j, "path", path);
	json_string(&j, "format", image_format_name(format));
	json_u64(&j, "size_bytes", size_bytes);
	if (stats) {
		json_u64(&j, "written_bytes", stats->written_bytes);
		json_u64(&j, "zeroed_bytes", stats->zeroed_bytes);
	}
	json_end(&j);
}
