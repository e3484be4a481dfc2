/* Lines on the console. */
#include "init.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512

static size_t append(char *line, size_t at, const char *text)
{
	size_t len = strlen(text);

	if (len > LINE_MAX_BYTES - 1 - at) /* room for the newline */
		len = LINE_MAX_BYTES - 1 - at;
	memcpy(line + at, text, len);
	return at + len;
}

void say_line(const char *first, ...)
{
	char line[LINE_MAX_BYTES];
	size_t n = append(line, 0, "lodge-init: ");
	va_list ap;

	va_start(ap, first);
	for (const char *s = first; s; s = va_arg(ap, const char *))
		n = append(line, n, s);
	va_end(ap);
	line[n++] = '\n';

	/* nobody to tell when even this fails */
	ssize_t r = write(STDERR_FILENO, line, n);

	(void)r;
}
