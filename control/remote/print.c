/* Messages for people and for programs. See control/remote/print.h. */
#include "control/remote/print.h"

#include "base/checked.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

/* ---- enums --------------------------------------------------------------------------------------
 */

/* How much of "VM_STATE_RUNNING" is the name of its type, VmState. */
static size_t prefix_len(const char *type, const char *value)
{
	size_t n = 0;

	for (const char *p = type; *p; p++) {
		if (p != type && isupper((unsigned char)*p) && value[n++] != '_')
			return 0;
		if (value[n++] != toupper((unsigned char)*p))
			return 0;
	}
	return value[n] == '_' ? n + 1 : 0;
}

const char *print_enum(const ProtobufCEnumDescriptor *desc, int value, char text[PRINT_ENUM_MAX])
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(desc, value);

	if (v)
		snprintf(text, PRINT_ENUM_MAX, "%s",
			 v->name + prefix_len(desc->short_name, v->name));
	else
		snprintf(text, PRINT_ENUM_MAX, "%d", value);
	for (char *p = text; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return text;
}

/* ---- JSON ---------------------------------------------------------------------------------------
 */

static void print_value(struct json *j, const char *key, const ProtobufCFieldDescriptor *field,
			const void *value)
{
	char text[PRINT_ENUM_MAX];

	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		json_string(j, key, *(char *const *)value);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		json_bool(j, key, *(const protobuf_c_boolean *)value);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		json_string(j, key, print_enum(field->descriptor, *(const int *)value, text));
		break;
	case PROTOBUF_C_TYPE_INT32:
		json_u64(j, key, (uint64_t)MAX(*(const int32_t *)value, 0));
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		json_u64(j, key, *(const uint32_t *)value);
		break;
	case PROTOBUF_C_TYPE_INT64:
		json_u64(j, key, (uint64_t)MAX(*(const int64_t *)value, 0));
		break;
	case PROTOBUF_C_TYPE_UINT64:
		json_u64(j, key, *(const uint64_t *)value);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		if (!*(ProtobufCMessage *const *)value) {
			json_null(j, key);
			break;
		}
		json_object(j, key);
		print_fields(j, *(ProtobufCMessage *const *)value);
		json_end(j);
		break;
	default: /* no message that is printed has others */
		json_null(j, key);
		break;
	}
}

static size_t value_size(const ProtobufCFieldDescriptor *field)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_UINT64:
		return sizeof(uint64_t);
	default:
		return sizeof(uint32_t);
	}
}

void print_fields(struct json *j, const ProtobufCMessage *msg)
{
	for (unsigned i = 0; i < msg->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &msg->descriptor->fields[i];
		const char *at = (const char *)msg + field->offset;
		size_t n;

		if (field->label != PROTOBUF_C_LABEL_REPEATED) {
			print_value(j, field->name, field, at);
			continue;
		}
		n = *(const size_t *)(const void *)((const char *)msg + field->quantifier_offset);
		at = *(const char *const *)(const void *)at;
		json_array(j, field->name);
		for (size_t k = 0; k < n; k++)
			print_value(j, NULL, field, at + k * value_size(field));
		json_end(j);
	}
}

void print_json(const ProtobufCMessage *msg)
{
	struct json j = JSON_INIT(stdout);

	json_object(&j, NULL);
	print_fields(&j, msg);
	json_end(&j);
}

void print_json_line(const ProtobufCMessage *msg)
{
	struct json j = JSON_INIT(stdout);

	json_object_inline(&j, NULL);
	print_fields(&j, msg);
	json_end(&j);
}

/* ---- numbers ------------------------------------------------------------------------------------
 */

static const char *scaled(double value, double step, const char *units, char text[PRINT_NUMBER_MAX])
{
	unsigned u = 0;

	while (value >= step && units[u + 1]) {
		value /= step;
		u++;
	}
	if (value >= 99.95 || value == (double)(uint64_t)value)
		snprintf(text, PRINT_NUMBER_MAX, "%.0f", value);
	else
		snprintf(text, PRINT_NUMBER_MAX, "%.1f", value);
	if (u) {
		size_t len = strlen(text);

		text[len] = units[u];
		text[len + 1] = '\0';
	}
	return text;
}

const char *print_bytes(uint64_t bytes, char text[PRINT_NUMBER_MAX])
{
	return scaled((double)bytes, 1024, " KMGTPE", text);
}

const char *print_count(double count, char text[PRINT_NUMBER_MAX])
{
	return scaled(count, 1000, " kMGT", text);
}

const char *print_duration(uint64_t ns, char text[PRINT_NUMBER_MAX])
{
	uint64_t s = ns / 1000000000;

	if (s < 60)
		snprintf(text, PRINT_NUMBER_MAX, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(text, PRINT_NUMBER_MAX, "%" PRIu64 "m%02us", s / 60, (unsigned)(s % 60));
	else if (s < 86400)
		snprintf(text, PRINT_NUMBER_MAX, "%" PRIu64 "h%02um", s / 3600,
			 (unsigned)(s / 60 % 60));
	else
		snprintf(text, PRINT_NUMBER_MAX, "%" PRIu64 "d%02uh", s / 86400,
			 (unsigned)(s / 3600 % 24));
	return text;
}

/* How many bytes of control character stand there; 0: none. */
static size_t control_bytes(const char *text)
{
	unsigned char c = (unsigned char)text[0], next = c ? (unsigned char)text[1] : 0;

	if (c < ' ' || c == 0x7f)
		return 1;
	return c == 0xc2 && next >= 0x80 && next < 0xa0 ? 2 : 0;
}

void print_plain(const char *text)
{
	while (*text) {
		size_t n = control_bytes(text);

		putchar(n ? '?' : *text);
		text += n ? n : 1;
	}
}

void print_clean(char *text)
{
	char *to = text;

	while (*text) {
		size_t n = control_bytes(text);

		*to++ = n ? '?' : *text;
		text += n ? n : 1;
	}
	*to = '\0';
}
