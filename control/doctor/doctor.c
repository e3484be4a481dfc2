/*
 * The checks in their order, and the two ways of their items onto paper.
 */
#include "control/doctor/doctor.h"

#include "base/checked.h"
#include "base/json.h"
#include "control/version.h"

#include <string.h>
#include <sys/utsname.h>

static const char *const status_names[] = {
    [DOCTOR_OK] = "ok",
    [DOCTOR_WARN] = "warn",
    [DOCTOR_MISSING] = "missing",
};

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
