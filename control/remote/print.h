/*
 * Messages for people and for programs.
 *
 * Threads: one.
 */
#ifndef CONTROL_REMOTE_PRINT_H
#define CONTROL_REMOTE_PRINT_H

#include "base/json.h"

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

/* Every field of a message by its name in the .proto file, as members of the object that is open.
 * Enums are their value's name without the type's, in lower case: "running". */
void print_fields(struct json *j, const ProtobufCMessage *msg);

/* The message alone: over several lines, or on one. */
void print_json(const ProtobufCMessage *msg);
void print_json_line(const ProtobufCMessage *msg);

#define PRINT_ENUM_MAX 32

/* "running" of VM_STATE_RUNNING; a number that is not known: itself. */
const char *print_enum(const ProtobufCEnumDescriptor *desc, int value, char text[PRINT_ENUM_MAX]);

#define PRINT_NUMBER_MAX 24

/* "5", "12.3K", "512M": three or four digits of a size in bytes. */
const char *print_bytes(uint64_t bytes, char text[PRINT_NUMBER_MAX]);
/* "5", "12.3k", "4.56M": likewise of a count or a rate, in powers of 1000. */
const char *print_count(double count, char text[PRINT_NUMBER_MAX]);
/* "12s", "3m05s", "2h07m", "9d04h" */
const char *print_duration(uint64_t ns, char text[PRINT_NUMBER_MAX]);

/* On standard output, control characters as '?'. */
void print_plain(const char *text);

/* Control characters become '?', in place: those of ASCII, and those of ISO 6429 that terminals
 * take from UTF-8 as well. */
void print_clean(char *text);

#endif
