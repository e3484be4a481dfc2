/* Work off the loop's thread. See control/background.h. */
#include "control/background.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/thread.h"

#include <string.h>

static void *background_main(void *arg)
{
	struct background_job *job = arg;

	job->work(job);
	/* hands the job back: the loop's thread sees all that `work` wrote */
	loop_post(job->owner->loop, &job->msg);
	return NULL;
}

static void background_start(struct background *bg);

/* After a piece of work: the next one, or the end of background_drain(). */
static void background_next(struct background *bg)
{
	background_start(bg);
	if (bg->draining && !bg->running)
		loop_stop(bg->loop);
}

static void background_ended(struct loop_msg *m)
{
	struct background_job *job = container_of(m, struct background_job, msg);
	struct background *bg = job->owner;

	pthread_join(job->thread, NULL);
	bg->running--;
	job->done(job);
	background_next(bg);
}

/* Its own thread is refused: as good as can be. */
static void background_inline(struct loop_msg *m)
{
	struct background_job *job = container_of(m, struct background_job, msg);
	struct background *bg = job->owner;

	bg->running--;
	job->work(job);
	job->done(job);
	background_next(bg);
}

static void background_start(struct background *bg)
{
	const struct thread_opts opts = {.name = "background", .role = THREAD_CONTROL};

	while (bg->waiting && bg->running < BACKGROUND_MAX) {
		struct background_job *job = bg->waiting;
		struct err err = ERR_INIT;

		job->msg.fn = background_ended;
		if (thread_start(&opts, background_main, job, &job->thread, &err)) {
			log_warn("control: %s", err.msg);
			if (bg->running)
				return;
			job->msg.fn = background_inline;
			loop_post(bg->loop, &job->msg);
		}
		bg->running++;
		bg->waiting = job->next;
		if (!bg->waiting)
			bg->tail = &bg->waiting;
	}
}

void background_init(struct background *bg, struct loop *loop)
{
	*bg = (struct background){.loop = loop};
	bg->tail = &bg->waiting;
}

void background_run(struct background *bg, struct background_job *job)
{
	memset(&job->msg, 0, sizeof(job->msg));
	job->owner = bg;
	job->next = NULL;
	*bg->tail = job;
	bg->tail = &job->next;
	background_start(bg);
}

static void background_late(struct loop_timer *t)
{
	struct background *bg = container_of(t, struct background, timer);

	bg->timed_out = true;
	loop_stop(bg->loop);
}

bool background_drain(struct background *bg, unsigned timeout_ms)
{
	bg->draining = true;
	bg->timer.fn = background_late;
	loop_timer_arm(bg->loop, &bg->timer, loop_now_ns() + timeout_ms * UINT64_C(1000000));
	while ((bg->running || bg->waiting) && !bg->timed_out && !loop_run(bg->loop))
		;
	loop_timer_disarm(bg->loop, &bg->timer);
	return !bg->running && !bg->waiting;
}
