/*
 * A table for people: columns as wide as their longest cell, numbers to the right.
 *
 * Threads: one.
 */
#ifndef CONTROL_REMOTE_TABLE_H
#define CONTROL_REMOTE_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 16

struct table_column {
	const char *title;
	bool right;
};

struct table {
	const struct table_column *columns;
	unsigned ncolumns;
	char **cells; /* row by row */
	size_t ncells, cap;
	bool failed; /* out of memory: what is missing is not printed */
};

/* More columns than there may be do not compile. */
#define TABLE_INIT(c)                                                                          \
	{                                                                                      \
		.columns = (c),                                                                \
		.ncolumns =                                                                    \
		    sizeof(c) / sizeof((c)[0]) +                                               \
		    0 * sizeof(char[sizeof(c) / sizeof((c)[0]) <= TABLE_COLUMNS_MAX ? 1 : -1]) \
	}

/* The next cell, row by row. Control characters become '?'. */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints at most `rows` rows, each cut at `width` columns (0: not cut), lines ended by `newline`.
 */
void table_print(const struct table *t, FILE *out, size_t rows, unsigned width,
		 const char *newline);
void table_free(struct table *t);

#endif
