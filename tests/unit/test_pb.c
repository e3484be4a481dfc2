/* proto/pb: what is taken from the wire and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/pb.h"
#include "proto/vm_concierge.pb-c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DESC &vm_tools__concierge__start_vm_request__descriptor

static int unpack(const void *data, size_t len, ProtobufCMessage **ret_msg)
{
	struct err err = ERR_INIT;
	int res = pb_unpack(DESC, data, len, ret_msg, &err);

	assert_int_equal(res, -err.code);
	assert_true(!res || err.msg[0]);
	return res;
}

static void takes_what_was_packed(void **state)
{
	VmTools__Concierge__StartVmRequest in = VM_TOOLS__CONCIERGE__START_VM_REQUEST__INIT;
	const VmTools__Concierge__StartVmRequest *out;
	ProtobufCMessage *msg;
	char name[] = "m\xc3\xb6we";
	uint8_t wire[64];
	size_t len;

	(void)state;
	in.name = name;
	in.cpus = 3;
	len = protobuf_c_message_pack(&in.base, wire);
	assert_int_equal(unpack(wire, len, &msg), 0);
	out = (const VmTools__Concierge__StartVmRequest *)msg;
	assert_string_equal(out->name, name);
	assert_int_equal(out->cpus, 3);
	pb_free(msg);
}

static void takes_nothing_as_the_empty_message(void **state)
{
	ProtobufCMessage *msg;

	(void)state;
	assert_int_equal(unpack(NULL, 0, &msg), 0);
	assert_string_equal(((const VmTools__Concierge__StartVmRequest *)msg)->name, "");
	pb_free(msg);
	pb_free(NULL);
}

static void takes_fields_it_does_not_know(void **state)
{
	static const uint8_t wire[] = "\xfa\xff\x03\x02hi\x22\x01n"; /* field 8191, then name */
	ProtobufCMessage *msg;

	(void)state;
	assert_int_equal(unpack(wire, sizeof(wire) - 1, &msg), 0);
	assert_string_equal(((const VmTools__Concierge__StartVmRequest *)msg)->name, "n");
	pb_free(msg);
}

static void refuses_what_does_not_parse(void **state)
{
	static const char *const wires[] = {
	    "\x22", /* a key alone */
	    "\x22\x05"
	    "ab",					    /* shorter than it says */
	    "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", /* a varint without end */
	    "\x23\x24",					    /* a group */
	    "\x0a\x02\x0a\x05",				    /* an inner message that is cut */
	    "\x25"
	    "abc", /* 32 bits that are 24 */
	};
	ProtobufCMessage *msg;

	(void)state;
	for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++)
		assert_int_equal(unpack(wires[i], strlen(wires[i]), &msg), -EBADMSG);
}

static void refuses_a_nul_in_a_string(void **state)
{
	ProtobufCMessage *msg;

	(void)state;
	assert_int_equal(unpack("\x22\x03"
				"a\0b",
				5, &msg),
			 -EBADMSG);
	/* in an inner message too: vm.kernel */
	assert_int_equal(unpack("\x0a\x05\x0a\x03"
				"a\0b",
				7, &msg),
			 -EBADMSG);
}

static void refuses_text_that_is_no_utf8(void **state)
{
	static const char *const texts[] = {
	    "\x80", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff",
	};
	ProtobufCMessage *msg;
	char wire[16];

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		size_t len = strlen(texts[i]);

		wire[0] = 0x22;
		wire[1] = (char)len;
		memcpy(wire + 2, texts[i], len);
		assert_int_equal(unpack(wire, len + 2, &msg), -EBADMSG);
	}
	assert_true(pb_text_valid("\xf0\x9f\x90\xa7", 4));
}

/* Two bytes on the wire are a disk of more than a hundred in memory. */
static void refuses_to_be_blown_up(void **state)
{
	size_t len = 4 * 1024 * 1024;
	uint8_t *wire = malloc(len);
	ProtobufCMessage *msg;

	(void)state;
	for (size_t i = 0; i < len; i += 2) {
		wire[i] = 0x12;
		wire[i + 1] = 0;
	}
	assert_int_equal(unpack(wire, len, &msg), -E2BIG);
	free(wire);
}

static void cleans_text_for_the_wire(void **state)
{
	char text[] = "a\xff"
		      "b\xc3\xb6\xc3";

	(void)state;
	pb_text_clean(text);
	assert_string_equal(text, "a?b\xc3\xb6?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(takes_what_was_packed),
	    cmocka_unit_test(takes_nothing_as_the_empty_message),
	    cmocka_unit_test(takes_fields_it_does_not_know),
	    cmocka_unit_test(refuses_what_does_not_parse),
	    cmocka_unit_test(refuses_a_nul_in_a_string),
	    cmocka_unit_test(refuses_text_that_is_no_utf8),
	    cmocka_unit_test(refuses_to_be_blown_up),
	    cmocka_unit_test(cleans_text_for_the_wire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
