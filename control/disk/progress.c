/* Progress of long work. See control/disk/progress.h. */
#include "control/disk/progress.h"

#include "base/checked.h"
#include "base/loop.h"

#include <inttypes.h>
#include <unistd.h>

#define SECOND_NS   UINT64_C(1000000000)
#define REDRAW_NS   (SECOND_NS / 10)
#define NEW_LINE_NS SECOND_NS
#define FIRST_NS    (SECOND_NS / 4) /* what is over sooner shows nothing */

const char *size_human(uint64_t bytes, char text[SIZE_HUMAN_MAX])
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	unsigned u = 0;

	while (value >= 1024 && u + 1 < ARRAY_LEN(units)) {
		value /= 1024;
		u++;
	}
	/* 999.5 and more would be written with a fourth digit by %.3g: as an exponent */
	if (value >= 999.5)
		snprintf(text, SIZE_HUMAN_MAX, "%.0f %s", value, units[u]);
	else
		snprintf(text, SIZE_HUMAN_MAX, "%.3g %s", value, units[u]);
	return text;
}

const char *progress_text(const struct progress *p, uint64_t done_bytes, uint64_t now_ns,
			  char text[PROGRESS_TEXT_MAX])
{
	char done[SIZE_HUMAN_MAX], total[SIZE_HUMAN_MAX], rate[SIZE_HUMAN_MAX];
	uint64_t elapsed_ns = now_ns > p->started_ns ? now_ns - p->started_ns : 1;
	double per_second = (double)done_bytes * (double)SECOND_NS / (double)elapsed_ns;
	/* by 100 first would overflow where images are large */
	double percent = p->total_bytes ? (double)done_bytes * 100 / (double)p->total_bytes : 100;

	if (p->percent_only) {
		snprintf(text, PROGRESS_TEXT_MAX, "%s: %u %%", p->what, (unsigned)percent);
		return text;
	}
	snprintf(text, PROGRESS_TEXT_MAX, "%s: %u %%, %s of %s, %s/s", p->what, (unsigned)percent,
		 size_human(done_bytes, done), size_human(p->total_bytes, total),
		 size_human((uint64_t)per_second, rate));
	return text;
}

void progress_begin(struct progress *p, const char *what, uint64_t total_bytes, bool forced,
		    bool quiet)
{
	bool terminal = isatty(STDERR_FILENO);

	*p = (struct progress){
	    .out = !quiet && (terminal || forced) ? stderr : NULL,
	    .redraw = terminal,
	    .what = what,
	    .total_bytes = total_bytes,
	    .started_ns = loop_now_ns(),
	};
	p->next_ns = p->started_ns + FIRST_NS;
}

static void draw(struct progress *p, uint64_t done_bytes, uint64_t now_ns)
{
	char text[PROGRESS_TEXT_MAX];

	progress_text(p, done_bytes, now_ns, text);
	/* a longer line before it is erased to the end (ECMA-48 EL) */
	fprintf(p->out, p->redraw ? "\r%s\033[K" : "%s\n", text);
	fflush(p->out);
	p->shown = true;
	p->next_ns = now_ns + (p->redraw ? REDRAW_NS : NEW_LINE_NS);
}

void progress_at(struct progress *p, uint64_t done_bytes)
{
	uint64_t now_ns;

	if (!p->out)
		return;
	now_ns = loop_now_ns();
	if (now_ns >= p->next_ns)
		draw(p, done_bytes, now_ns);
}

void progress_end(struct progress *p, uint64_t done_bytes)
{
	if (!p->out)
		return;
	if (!p->redraw)
		draw(p, done_bytes, loop_now_ns());
	else if (p->shown)
		fputs("\r\033[K", p->out);
	fflush(p->out);
	p->out = NULL;
}
