/*
 * What the commands of `lodge disk` share while they work: the loop, the signals that ask for an
 * end, the progress, and how a result is told.
 *
 * SIGINT, SIGTERM and SIGHUP, unless ignored, are blocked from begin to end and looked for at
 * points where stopping is safe: what is being written stays whole, and what was to be new is never
 * there in half.
 *
 * Threads: one, the main one.
 */
#ifndef CONTROL_DISK_JOB_H
#define CONTROL_DISK_JOB_H

#include "base/err.h"
#include "base/loop.h"
#include "control/disk/args.h"
#include "control/disk/progress.h"
#include "disk/copy.h"
#include "disk/image.h"

#include <signal.h>
#include <sys/signalfd.h>

struct disk_job {
	const struct disk_args *args;
	struct loop *loop;
	struct progress progress;
	int signal; /* that asked for the end; 0: none */
	/* private */
	int signal_fd;
	bool waiting; /* signal_op is with the loop */
	sigset_t old_mask;
	struct loop_op signal_op;
	struct signalfd_siginfo siginfo;
	struct copy *copy; /* at work */
	uint64_t done_bytes;
};

int disk_job_begin(struct disk_job *job, const struct disk_args *args, struct err *err);
void disk_job_end(struct disk_job *job);

/* False: a signal asked for the end. For work that does not run on the loop. */
bool disk_job_go_on(struct disk_job *job);

/* Shows progress as well; fits tool_progress.at and qcow2_check_ops.progress. */
bool disk_job_at(void *job, uint64_t done, uint64_t total);

/* copy_run() with the job's loop, progress and signals. `what` begins the line of progress. The
 * context of the other callbacks stays the caller's. -ECANCELED: a signal came. */
int disk_job_copy(struct disk_job *job, const char *what, const struct copy_opts *opts,
		  struct copy_stats *ret_stats, struct err *err);

/* Opens an image and attaches it to the job's loop. */
int disk_job_open(struct disk_job *job, const struct image_opts *opts, struct image **ret_img,
		  struct err *err);

/* Detaches and closes; NULL is accepted. */
void disk_job_close(struct image *img);

/* ---- results ---- */

/* The arguments are wrong: says so and gives the exit status. */
int disk_usage_error(const struct disk_args *args, const struct err *err);

/* 0 or the -errno of `err`: says what failed and gives the exit status. `job` may be NULL. */
int disk_result(const struct disk_args *args, const struct disk_job *job, int r,
		const struct err *err);

/* With --json, one object that tells what a command made; `stats` may be NULL. */
void disk_print_result(const struct disk_args *args, const char *path, enum image_format format,
		       uint64_t size_bytes, const struct copy_stats *stats);

#endif
