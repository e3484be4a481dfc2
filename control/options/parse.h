/*
 * The small languages of the command line: sizes, numbers, switches, lists of key=value, and the
 * guess at what a mistyped word was meant to be.
 *
 * Values come from scripts and people, so each function takes all of its text or refuses it:
 * nothing is skipped, no number wraps.
 */
#ifndef CONTROL_OPTIONS_PARSE_H
#define CONTROL_OPTIONS_PARSE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "64M": a decimal number and K, M, G or T (powers of 1024, either case), or bytes without a
 * unit. -EINVAL: not that; -ERANGE: more than 64 bits. */
int parse_size(const char *text, uint64_t *ret_bytes);

/* Decimal, without sign or spaces. -EINVAL: not that; -ERANGE: outside min..max. */
int parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret_value);

/* "on" or "off"; -EINVAL. */
int parse_switch(const char *text, bool *ret_on);

#define PARSE_SIZE_TEXT_MAX 24

/* The shortest exact way to write a size ("512M"). */
const char *parse_size_text(uint64_t bytes, char text[PARSE_SIZE_TEXT_MAX]);

/*
 * The next key=value of a list with commas between. A comma within a value is written twice.
 * *cursor starts at the list and ends at NULL. Key and value are the caller's to free; the value
 * is NULL where there is no '='. Returns 1, 0 at the end, or -errno: -EINVAL for an empty key.
 */
int parse_pair(const char **cursor, char **ret_key, char **ret_value, struct err *err);

/*
 * Which of `names` (NULL-terminated) `word` was probably meant to be; NULL when none is near.
 * Near: at most one letter in three is missing, wrong, too many or swapped with its neighbour.
 */
const char *parse_suggest(const char *word, const char *const *names);

#endif
