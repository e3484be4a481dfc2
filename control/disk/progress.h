/*
 * How far a long piece of work is, on standard error: one line that is redrawn on a terminal, or a
 * new line now and then where progress was asked for and there is none.
 */
#ifndef CONTROL_DISK_PROGRESS_H
#define CONTROL_DISK_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
	FILE *out; /* NULL: nothing is shown */
	bool redraw;
	bool shown;
	bool percent_only; /* the total is no number of bytes */
	const char *what;
	uint64_t total_bytes;
	uint64_t started_ns;
	uint64_t next_ns; /* not drawn again before */
};

/* `forced`: even where standard error is no terminal; `quiet`: never. */
void progress_begin(struct progress *p, const char *what, uint64_t total_bytes, bool forced,
		    bool quiet);

/* `done_bytes` of the total are done. Cheap: most calls draw nothing. */
void progress_at(struct progress *p, uint64_t done_bytes);

/* All is done, or nothing more will be (`done_bytes` < total). The terminal's line is cleared. */
void progress_end(struct progress *p, uint64_t done_bytes);

#define PROGRESS_TEXT_MAX 96
#define SIZE_HUMAN_MAX	  24

/* "convert: 45 %, 4.5 GiB of 10 GiB, 312 MiB/s" */
const char *progress_text(const struct progress *p, uint64_t done_bytes, uint64_t now_ns,
			  char text[PROGRESS_TEXT_MAX]);

/* "4.5 GiB": for people, rounded to three digits. */
const char *size_human(uint64_t bytes, char text[SIZE_HUMAN_MAX]);

#endif
