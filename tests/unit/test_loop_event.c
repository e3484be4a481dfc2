/* base/loop: watches, timers and messages, over both backends. */
#include "tests/unit/loop_fixture.h"

#include <sched.h>
#include <stdatomic.h>

/* Watches */

struct kicked {
	struct loop_watch w;
	struct loop *loop;
	int fd;
	atomic_int kicks; /* counted before each */
	int seen, stopped;
};

static void *kick(void *arg)
{
	struct kicked *k = arg;

	for (int i = 0; i < KICKS; i++) {
		atomic_fetch_add(&k->kicks, 1);
		eventfd_write(k->fd, 1);
		if (i % 64 == 0)
			sched_yield();
	}
	return NULL;
}

static void kicked(struct loop_watch *w)
{
	struct kicked *k = container_of(w, struct kicked, w);

	k->seen = atomic_load(&k->kicks);
	if (k->seen == KICKS)
		loop_stop(k->loop);
}

static void kicked_stopped(struct loop_watch *w)
{
	struct kicked *k = container_of(w, struct kicked, w);

	k->stopped++;
	loop_stop(k->loop);
}

/* After each kick the watch runs; also when the loop ends and begins meanwhile. */
static void watch_misses_no_kick(void **state)
{
	struct loop *loop = loop_of(state);
	struct kicked k = {.w = {.fn = kicked, .stopped = kicked_stopped},
			   .loop = loop,
			   .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	pthread_t thread;

	loop_watch(loop, &k.w, k.fd);
	assert_int_equal(pthread_create(&thread, NULL, kick, &k), 0);
	for (int i = 0; i < 100; i++) {
		loop_stop(loop);
		assert_int_equal(loop_run(loop), 0);
	}
	if (k.seen < KICKS)
		assert_int_equal(loop_run(loop), 0);
	pthread_join(thread, NULL);
	assert_int_equal(k.seen, KICKS);

	loop_unwatch(&k.w);
	assert_int_equal(k.stopped, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(k.stopped, 1);
	close(k.fd);
}

/* Of what was told once, another watch of the same descriptor says nothing. */
static void watch_after_a_watch_begins_anew(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1), again = watching_new(loop, 1);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	loop_watch(loop, &t.w, fd);
	eventfd_write(fd, 1);
	assert_int_equal(loop_run(loop), 0);
	loop_unwatch(&t.w);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);

	loop_watch(loop, &again.w, fd);
	for (int i = 0; i < 3; i++) {
		loop_stop(loop);
		assert_int_equal(loop_run(loop), 0);
	}
	assert_int_equal(again.calls, 0);
	eventfd_write(fd, 1);
	assert_int_equal(loop_run(loop), 0);
	assert_true(again.calls > 0);
	loop_unwatch(&again.w);
	assert_int_equal(loop_run(loop), 0);
	close(fd);
}

static void unwatch_from_its_callback(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1);
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	uint64_t count;

	t.unwatch = true;
	loop_watch(loop, &t.w, fd);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
	assert_int_equal(t.calls, 1);
	/* the descriptor is the caller's again */
	eventfd_write(fd, 5);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.calls, 1);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(count, 5);
	close(fd);
}

static void unwatch_before_running(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1);
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

	loop_watch(loop, &t.w, fd);
	loop_unwatch(&t.w);
	loop_unwatch(&t.w);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
	assert_int_equal(t.calls, 0);
	close(fd);
}

/* A number that is used again for another descriptor is another descriptor. */
static void watch_again_after_close(void **state)
{
	struct loop *loop = loop_of(state);

	for (int i = 0; i < 50; i++) {
		struct watching t = watching_new(loop, 1);
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), copy = dup(fd);

		t.unwatch = i % 2;
		loop_watch(loop, &t.w, fd);
		eventfd_write(copy, 1);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(t.calls, 1);
		if (!t.unwatch) {
			loop_unwatch(&t.w);
			assert_int_equal(loop_run(loop), 0);
		}
		assert_int_equal(t.stopped, 1);
		close(fd);
		eventfd_write(copy, 1); /* nobody watches any more */
		loop_stop(loop);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(t.calls, 1);
		close(copy);
	}
}

static void watch_of_a_bad_descriptor_can_be_ended(void **state)
{
	struct loop *loop = loop_of(state);
	struct watching t = watching_new(loop, 1);

	loop_watch(loop, &t.w, 9999);
	loop_stop(loop);
	assert_int_equal(loop_run(loop), 0);
	loop_unwatch(&t.w);
	assert_int_equal(t.stopped, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(t.stopped, 1);
}

/* Timers */

struct ticking {
	struct loop_timer timer;
	struct loop *loop;
	int id, *order, *n;
	uint64_t fired_ns;
	int again;
};

static void ticking_fn(struct loop_timer *tm)
{
	struct ticking *t = container_of(tm, struct ticking, timer);

	t->fired_ns = loop_now_ns();
	if (t->order)
		t->order[(*t->n)++] = t->id;
	if (t->again-- > 0)
		loop_timer_arm(t->loop, tm, t->fired_ns + NS_PER_MS);
	else if (t->id == 99)
		loop_stop(t->loop);
}

static void timers_fire_in_order_and_not_early(void **state)
{
	struct loop *loop = loop_of(state);
	static const int delay_ms[] = {30, 10, 20, 0, 10, 5};
	int order[8], n = 0;
	struct ticking t[7];
	uint64_t start = loop_now_ns(), at[7];

	for (int i = 0; i < 6; i++) {
		t[i] = (struct ticking){
		    .timer.fn = ticking_fn, .loop = loop, .id = i, .order = order, .n = &n};
		at[i] = start + (uint64_t)delay_ms[i] * NS_PER_MS;
		loop_timer_arm(loop, &t[i].timer, at[i]);
	}
	t[6] = (struct ticking){.timer.fn = ticking_fn, .loop = loop, .id = 99};
	loop_timer_arm(loop, &t[6].timer, start + 40 * NS_PER_MS);
	loop_timer_disarm(loop, &t[5].timer);
	loop_timer_disarm(loop, &t[5].timer);
	at[2] = start + 35 * NS_PER_MS;
	loop_timer_arm(loop, &t[2].timer, at[2]); /* moved */

	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(n, 5);
	assert_memory_equal(order, ((int[]){3, 1, 4, 0, 2}), 5 * sizeof(int));
	for (int i = 0; i < 5; i++)
		assert_true(t[i].fired_ns >= at[i]);
}

static void timer_arms_itself_again(void **state)
{
	struct loop *loop = loop_of(state);
	int order[16], n = 0;
	struct ticking t = {
	    .timer.fn = ticking_fn, .loop = loop, .id = 99, .order = order, .n = &n, .again = 9};

	loop_timer_arm(loop, &t.timer, 0); /* long due */
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(n, 10);
}

static void always_due_timer_lets_io_through(void **state)
{
	struct loop *loop = loop_of(state);
	struct rec r = rec_new(loop, NULL);
	struct ticking t = {.timer.fn = ticking_fn, .loop = loop, .again = INT32_MAX};
	struct writer w = {.text = "t"};
	pthread_t th;
	int p[2];
	char b;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	w.fd = p[1];
	loop_timer_arm(loop, &t.timer, 0);
	loop_read(loop, &r.op, p[0], &b, 1);
	assert_int_equal(pthread_create(&th, NULL, write_text, &w), 0);
	run_one(loop, &r);
	pthread_join(th, NULL);
	loop_timer_disarm(loop, &t.timer);
	close(p[0]);
	close(p[1]);
}

/* Messages */

enum { POSTERS = 4, POSTS = 5000 };

struct posting {
	struct loop *loop;
	struct post {
		struct loop_msg msg;
		struct posting *p;
		int n;
	} posts[POSTS];
	int next;
	int *left;
};

static void post_fn(struct loop_msg *m)
{
	struct post *post = container_of(m, struct post, msg);

	assert_int_equal(post->n, post->p->next); /* in the order of its thread */
	post->p->next++;
	if (!--*post->p->left)
		loop_stop(post->p->loop);
}

static void *post_all(void *arg)
{
	struct posting *p = arg;

	for (int i = 0; i < POSTS; i++) {
		p->posts[i] = (struct post){.msg.fn = post_fn, .p = p, .n = i};
		loop_post(p->loop, &p->posts[i].msg);
	}
	return NULL;
}

static void posts_of_many_threads_arrive_in_order(void **state)
{
	struct loop *loop = loop_of(state);
	struct posting *p = calloc(POSTERS, sizeof(*p));
	int left = POSTERS * POSTS;
	pthread_t t[POSTERS];

	for (int i = 0; i < POSTERS; i++) {
		p[i].loop = loop;
		p[i].left = &left;
		assert_int_equal(pthread_create(&t[i], NULL, post_all, &p[i]), 0);
	}
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(p[i].next, POSTS);
	}
	free(p);
}

/* Each side waits for the other's message: a wake-up that is lost shows as a hang. */
struct pingpong {
	struct loop_msg msg;
	struct loop *loop, *other;
	struct pingpong *peer;
	int left;
};

static void pingpong_fn(struct loop_msg *m)
{
	struct pingpong *p = container_of(m, struct pingpong, msg);

	if (p->left-- > 0)
		loop_post(p->other, &p->peer->msg);
	else
		loop_stop(p->other);
	if (p->left < 0)
		loop_stop(p->loop);
}

static void two_loops_wake_each_other(void **state)
{
	struct fixture *f = *state;
	struct loop *a = loop_of(state), *b;
	struct loop_opts opts = {.backend = f->backend};
	struct err err = ERR_INIT;
	pthread_t t;

	assert_int_equal(loop_new(&opts, &b, &err), 0);
	struct pingpong pa = {.msg.fn = pingpong_fn, .loop = a, .other = b, .left = 20000};
	struct pingpong pb = {.msg.fn = pingpong_fn, .loop = b, .other = a, .left = 20000};

	pa.peer = &pb;
	pb.peer = &pa;
	loop_post(a, &pa.msg);
	assert_int_equal(pthread_create(&t, NULL, run_thread, b), 0);
	assert_int_equal(loop_run(a), 0);
	pthread_join(t, NULL);
	assert_int_equal(pa.left, -1);
	loop_free(b); /* by another thread than the one that ran it */
}

struct batch {
	struct loop_msg deferred;
	struct loop_op op[4];
	struct loop *loop;
	int done, signals, done_at_signal, again;
};

static void batch_signal(struct loop_msg *m)
{
	struct batch *b = container_of(m, struct batch, deferred);

	b->signals++;
	b->done_at_signal = b->done;
	if (b->again-- > 0)
		loop_defer(b->loop, m);
	else
		loop_stop(b->loop);
}

static struct batch *the_batch;

static void batch_done(struct loop_op *op, int res)
{
	(void)op;
	assert_int_equal(res, -ECANCELED);
	the_batch->done++;
	loop_defer(the_batch->loop, &the_batch->deferred);
	loop_defer(the_batch->loop, &the_batch->deferred);
}

static void defer_runs_once_for_a_batch(void **state)
{
	struct loop *loop = loop_of(state);
	struct batch b = {.deferred.fn = batch_signal, .loop = loop};
	char c;
	int p[2];

	the_batch = &b;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	for (int i = 0; i < 4; i++) {
		b.op[i].done = batch_done;
		loop_read(loop, &b.op[i], p[0], &c, 1);
		loop_cancel(loop, &b.op[i]);
	}
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(b.signals, 1);
	assert_int_equal(b.done_at_signal, 4);

	b.again = 3; /* deferring from a deferred call: again, and without sleeping */
	loop_defer(loop, &b.deferred);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(b.signals, 5);
	close(p[0]);
	close(p[1]);
}

static void *post_and_stop(void *arg)
{
	struct posting *p = arg;

	p->posts[0] = (struct post){.msg.fn = post_fn, .p = p};
	loop_post(p->loop, &p->posts[0].msg);
	loop_stop(p->loop);
	return NULL;
}

static void stop_of_a_sleeping_loop(void **state)
{
	struct loop *loop = loop_of(state);
	struct posting *p = calloc(1, sizeof(*p));

	p->loop = loop;
	for (int i = 0; i < 200; i++) {
		int left = 2;
		pthread_t t;

		p->next = 0;
		p->left = &left;
		assert_int_equal(pthread_create(&t, NULL, post_and_stop, p), 0);
		assert_int_equal(loop_run(loop), 0);
		pthread_join(t, NULL);
		assert_int_equal(left, 1);
	}
	free(p);
}

/* Spinners */

struct busy {
	struct loop *loop;
	struct loop_op op;
	struct loop_msg msg;
	struct loop_spinner spinner;
	int fd;
	unsigned rounds, looks;
};

static bool busy_look(struct loop_spinner *s)
{
	struct busy *b = container_of(s, struct busy, spinner);

	b->looks++;
	return false;
}

static void busy_round(struct busy *b)
{
	if (++b->rounds == 1000)
		loop_stop(b->loop);
}

static void busy_polled(struct loop_op *op, int res)
{
	struct busy *b = container_of(op, struct busy, op);

	assert_true(res > 0);
	busy_round(b);
	if (b->rounds < 1000)
		loop_poll(b->loop, op, b->fd, POLLOUT);
}

static void busy_deferred(struct loop_msg *m)
{
	struct busy *b = container_of(m, struct busy, msg);

	busy_round(b);
	if (b->rounds < 1000)
		loop_defer(b->loop, m);
}

/* A loop that always has something to do still looks at what rings no bell, all the time. */
static void busy_loops_look(void **state)
{
	struct loop *loop = loop_of(state);

	for (int deferred = 0; deferred < 2; deferred++) {
		struct busy b = {.loop = loop,
				 .op.done = busy_polled,
				 .msg.fn = busy_deferred,
				 .spinner = {.look = busy_look, .settle = busy_look},
				 .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

		loop_spin(loop, &b.spinner);
		if (deferred)
			loop_defer(loop, &b.msg);
		else
			loop_poll(loop, &b.op, b.fd, POLLOUT);
		assert_int_equal(loop_run(loop), 0);
		assert_true(b.looks > 500);
		loop_unspin(loop, &b.spinner);
		close(b.fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(busy_loops_look),
	    BOTH(watch_misses_no_kick),
	    BOTH(watch_after_a_watch_begins_anew),
	    BOTH(unwatch_from_its_callback),
	    BOTH(unwatch_before_running),
	    BOTH(watch_again_after_close),
	    BOTH(watch_of_a_bad_descriptor_can_be_ended),
	    BOTH(timers_fire_in_order_and_not_early),
	    BOTH(timer_arms_itself_again),
	    BOTH(always_due_timer_lets_io_through),
	    BOTH(posts_of_many_threads_arrive_in_order),
	    BOTH(two_loops_wake_each_other),
	    BOTH(defer_runs_once_for_a_batch),
	    BOTH(stop_of_a_sleeping_loop),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
