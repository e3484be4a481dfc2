/*
 * The list of items and its two ways onto paper.
 */
#include "control/doctor/doctor.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "control/version.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char *const status_names[] = {
    [DOCTOR_OK] = "ok",
    [DOCTOR_WARN] = "warn",
    [DOCTOR_MISSING] = "missing",
};

struct doctor_item *doctor_add(struct doctor *doctor, const char *name)
{
	struct doctor_item *item;

	assert(doctor->nitems < DOCTOR_ITEMS_MAX);
	item = &doctor->items[doctor->nitems++];
	memset(item, 0, sizeof(*item));
	item->name = name;
	return item;
}

void doctor_found(struct doctor_item *item, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(item->found, sizeof(item->found), fmt, ap);
	va_end(ap);
}

void doctor_cure(struct doctor_item *item, enum doctor_status status, const char *fmt, ...)
{
	va_list ap;

	item->status = status;
	va_start(ap, fmt);
	vsnprintf(item->cure, sizeof(item->cure), fmt, ap);
	va_end(ap);
}

int doctor_read(const struct doctor *doctor, const char *path, char *ret_text, size_t size)
{
	char full[PATH_MAX];
	autofd int fd = -1;
	ssize_t n;

	if (snprintf(full, sizeof(full), "%s%s", doctor->root, path) >= (int)sizeof(full))
		return -ENAMETOOLONG;
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, ret_text, size - 1);
	if (n < 0)
		return -errno;
	ret_text[n] = '\0';
	ret_text[strcspn(ret_text, "\n")] = '\0';
	return 0;
}

int doctor_read_number(const struct doctor *doctor, const char *path, uint64_t *ret_value)
{
	char text[64], *end;
	unsigned long long value;
	int rc = doctor_read(doctor, path, text, sizeof(text));

	if (rc)
		return rc;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text)
		return -EINVAL;
	*ret_value = value;
	return 0;
}

void doctor_examine(struct doctor *doctor)
{
	doctor_kvm(doctor);
	doctor_devices(doctor);
	doctor_programs(doctor);
	doctor_io_uring(doctor);
	doctor_sandbox(doctor);
	doctor_memory(doctor);
	doctor_limits(doctor);
}

bool doctor_verdict(const struct doctor *doctor)
{
	for (unsigned i = 0; i < doctor->nitems; i++) {
		if (doctor->items[i].needed && doctor->items[i].status == DOCTOR_MISSING)
			return false;
	}
	return true;
}

/* ---- the table ----------------------------------------------------------------------------------
 */

#define NAME_COLUMNS   14
#define STATUS_COLUMNS 9
#define TEXT_MIN       24

/* `text` broken at spaces into lines of `width`, each after the first indented. */
static void print_wrapped(FILE *out, const char *text, unsigned indent, unsigned width)
{
	size_t len = strlen(text);

	while (len > width) {
		size_t cut = width;

		while (cut && text[cut] != ' ')
			cut--;
		if (!cut)
			cut = MIN(len, strcspn(text, " ")); /* a long word stays in one piece */
		fprintf(out, "%.*s\n", (int)cut, text);
		text += cut + strspn(text + cut, " ");
		len = strlen(text);
		if (len)
			fprintf(out, "%*s", (int)indent, "");
	}
	if (len)
		fprintf(out, "%s\n", text);
}

void doctor_print(const struct doctor *doctor, FILE *out, unsigned columns)
{
	const unsigned indent = NAME_COLUMNS + STATUS_COLUMNS;
	unsigned width, n = 0;

	columns = columns ? columns : 80;
	width = MAX(columns, indent + TEXT_MIN) - indent;
	for (unsigned i = 0; i < doctor->nitems; i++) {
		const struct doctor_item *item = &doctor->items[i];

		fprintf(out, "%-*s%-*s", NAME_COLUMNS, item->name, STATUS_COLUMNS,
			status_names[item->status]);
		print_wrapped(out, *item->found ? item->found : "-", indent, width);
		if (*item->cure) {
			fprintf(out, "%*s-> ", (int)indent, "");
			print_wrapped(out, item->cure, indent + 3, width - 3);
		}
	}
	if (doctor_verdict(doctor)) {
		fputs("\nGuests can run on this host.\n", out);
		return;
	}
	fputs("\nGuests cannot run on this host; what is in the way:", out);
	for (unsigned i = 0; i < doctor->nitems; i++) {
		if (doctor->items[i].needed && doctor->items[i].status == DOCTOR_MISSING)
			fprintf(out, "%s %s", n++ ? "," : "", doctor->items[i].name);
	}
	fputs(".\n", out);
}

/* ---- JSON (RFC 8259) ----------------------------------------------------------------------------
 */

void doctor_print_json(const struct doctor *doctor, FILE *out)
{
	struct utsname uts;

	fprintf(out, "{\n  \"version\": \"%s\",\n", LODGE_VERSION);
	if (uname(&uts) == 0) {
		fputs("  \"kernel\": ", out);
		json_write_string(out, uts.release);
		fputs(",\n  \"machine\": ", out);
		json_write_string(out, uts.machine);
		fputs(",\n", out);
	}
	fprintf(out, "  \"guests_can_run\": %s,\n  \"items\": [",
		doctor_verdict(doctor) ? "true" : "false");
	for (unsigned i = 0; i < doctor->nitems; i++) {
		const struct doctor_item *item = &doctor->items[i];

		fprintf(out, "%s\n    {\"name\": ", i ? "," : "");
		json_write_string(out, item->name);
		fprintf(out, ", \"status\": \"%s\", \"needed\": %s, \"found\": ",
			status_names[item->status], item->needed ? "true" : "false");
		json_write_string(out, item->found);
		fputs(", \"cure\": ", out);
		json_write_string(out, item->cure);
		fputc('}', out);
	}
	fputs("\n  ]\n}\n", out);
}
