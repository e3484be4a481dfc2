/* A table for people. See control/remote/table.h. */
#include "control/remote/table.h"

#include "base/checked.h"
#include "control/remote/print.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GAP 2

void table_cell(struct table *t, const char *fmt, ...)
{
	va_list ap;
	char *text;
	int n;

	if (t->failed)
		return;
	if (t->ncells == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : (size_t)8 * t->ncolumns;
		char **cells = reallocarray(t->cells, cap, sizeof(*cells));

		t->failed = !cells;
		if (!cells)
			return;
		t->cells = cells;
		t->cap = cap;
	}
	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	t->failed = n < 0;
	if (n < 0)
		return;
	print_clean(text);
	t->cells[t->ncells++] = text;
}

/* Characters, of which UTF-8's later bytes are none. */
static unsigned text_width(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* The first `width` characters. */
static int text_cut(const char *text, unsigned width)
{
	const char *p = text;

	for (; *p; p++) {
		if (((unsigned char)*p & 0xc0) != 0x80 && !width--)
			break;
	}
	return (int)(p - text);
}

static void print_row(const struct table *t, const char *const *cells, const unsigned *widths,
		      FILE *out, unsigned width)
{
	unsigned left = width ? width : ~0u;

	for (unsigned i = 0; i < t->ncolumns && left; i++) {
		bool last = i + 1 == t->ncolumns;
		unsigned own = MIN(text_width(cells[i]), left);
		unsigned pad = MIN(widths[i] - MIN(own, widths[i]), left - own);

		if (t->columns[i].right)
			fprintf(out, "%*s", (int)pad, "");
		fprintf(out, "%.*s", text_cut(cells[i], own), cells[i]);
		if (!t->columns[i].right && !last)
			fprintf(out, "%*s", (int)pad, "");
		left -= own + pad;
		if (!last) {
			unsigned gap = MIN(left, (unsigned)GAP);

			fprintf(out, "%*s", (int)gap, "");
			left -= gap;
		}
	}
}

void table_print(const struct table *t, FILE *out, size_t rows, unsigned width, const char *newline)
{
	size_t nrows = MIN(t->ncells / t->ncolumns, rows);
	const char *titles[TABLE_COLUMNS_MAX];
	unsigned widths[TABLE_COLUMNS_MAX];

	for (unsigned i = 0; i < t->ncolumns; i++) {
		titles[i] = t->columns[i].title;
		widths[i] = text_width(titles[i]);
		for (size_t row = 0; row < nrows; row++)
			widths[i] = MAX(widths[i], text_width(t->cells[row * t->ncolumns + i]));
	}
	print_row(t, titles, widths, out, width);
	fputs(newline, out);
	for (size_t row = 0; row < nrows; row++) {
		print_row(t, (const char *const *)&t->cells[row * t->ncolumns], widths, out, width);
		fputs(newline, out);
	}
}

void table_free(struct table *t)
{
	while (t->ncells)
		free(t->cells[--t->ncells]);
	free(t->cells);
	t->cells = NULL;
	t->cap = 0;
}
