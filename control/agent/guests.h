/*
 * The methods of lodge.v1.Guests (proto/lodge.proto), for each server that passes them on.
 */
#ifndef CONTROL_AGENT_GUESTS_H
#define CONTROL_AGENT_GUESTS_H

#include "control/ttrpc/server.h"
#include "proto/lodge.pb-c.h"

#define GUESTS_SERVICE "lodge.v1.Guests"

#define GUESTS_TYPES(name, agents_name)           \
	&lodge__v1__##name##_request__descriptor, \
	    &lodge__agent__v1__##agents_name##_response__descriptor

#define GUESTS_BOTH_WAYS (TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM)

/* Rows of a table of struct ttrpc_method with these callbacks. */
#define GUESTS_METHODS(start, data, end, cancelled)                                                 \
	{"GetGuestFacts", GUESTS_TYPES(get_guest_facts, get_facts), 0, start, NULL, NULL,           \
	 cancelled},                                                                                \
	    {"MountInGuest", GUESTS_TYPES(mount_in_guest, mount), 0, start, NULL, NULL, cancelled}, \
	    {"UnmountInGuest", GUESTS_TYPES(unmount_in_guest, unmount), 0, start, NULL, NULL,       \
	     cancelled},                                                                            \
	    {"GrowGuestFilesystem",                                                                 \
	     GUESTS_TYPES(grow_guest_filesystem, grow_filesystem),                                  \
	     0,                                                                                     \
	     start,                                                                                 \
	     NULL,                                                                                  \
	     NULL,                                                                                  \
	     cancelled},                                                                            \
	    {"SetGuestTime", GUESTS_TYPES(set_guest_time, set_time), 0, start, NULL, NULL,          \
	     cancelled},                                                                            \
	    {"ListGuestFiles", GUESTS_TYPES(list_guest_files, list_files), 0, start, NULL, NULL,    \
	     cancelled},                                                                            \
	    {"MakeGuestEntry", GUESTS_TYPES(make_guest_entry, make_entry), 0, start, NULL, NULL,    \
	     cancelled},                                                                            \
	    {"ExecInGuest", GUESTS_TYPES(exec_in_guest, exec), GUESTS_BOTH_WAYS, start, data, end,  \
	     cancelled},                                                                            \
	    {"WriteGuestFile",                                                                      \
	     GUESTS_TYPES(write_guest_file, write_file),                                            \
	     GUESTS_BOTH_WAYS,                                                                      \
	     start,                                                                                 \
	     data,                                                                                  \
	     end,                                                                                   \
	     cancelled},                                                                            \
	{                                                                                           \
		"ReadGuestFile", GUESTS_TYPES(read_guest_file, read_file), TTRPC_SERVER_STREAM,     \
		    start, NULL, NULL, cancelled                                                    \
	}

#endif
