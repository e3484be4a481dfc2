/* The table of calls. See proto/agent.proto. */
#include "guest/agent/agent.h"
#include "guest/agent/calls.h"
#include "guest/agent/exec.h"
#include "guest/agent/file.h"
#include "guest/agent/listen.h"
#include "guest/agent/shutdown.h"

#include <errno.h>

enum ttrpc_code agent_code(int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
	case ENXIO:
	case ENODEV:
	case ESRCH:
		return TTRPC_NOT_FOUND;
	case EPERM:
	case EACCES:
		return TTRPC_PERMISSION_DENIED;
	case EINVAL:
	case ENAMETOOLONG:
	case ELOOP:
	case E2BIG:
	case ERANGE:
		return TTRPC_INVALID_ARGUMENT;
	case ENOMEM:
	case ENOSPC:
	case EDQUOT:
	case EMFILE:
	case ENFILE:
	case EAGAIN:
		return TTRPC_RESOURCE_EXHAUSTED;
	default:
		return TTRPC_FAILED_PRECONDITION;
	}
}

void agent_fail(struct ttrpc_call *call, const struct err *err)
{
	ttrpc_call_fail(call, agent_code(err->code), "%.*s", ERR_MSG_MAX, err->msg);
}

#define JOB(fn, output)                                                        \
	static void fn##_start(void *agent, struct ttrpc_call *call,           \
			       const ProtobufCMessage *request)                \
	{                                                                      \
		job_start(agent, call, request, fn,                            \
			  &lodge__agent__v1__##output##_response__descriptor); \
	}

JOB(call_get_facts, get_facts)
JOB(call_configure_network, configure_network)
JOB(call_mount, mount)
JOB(call_unmount, unmount)
JOB(call_grow_filesystem, grow_filesystem)
JOB(call_set_time, set_time)
JOB(call_list_files, list_files)
JOB(call_make_entry, make_entry)

#define MESSAGES(name)                                            \
	.input = &lodge__agent__v1__##name##_request__descriptor, \
	.output = &lodge__agent__v1__##name##_response__descriptor

#define JOB_METHOD(method, message)                                                 \
	{                                                                           \
		.name = method, MESSAGES(message), .start = call_##message##_start, \
		.cancelled = job_cancelled                                          \
	}

static const struct ttrpc_method methods[] = {
    {.name = "Authenticate", MESSAGES(authenticate), .start = listen_authenticate},
    JOB_METHOD("GetFacts", get_facts),
    JOB_METHOD("ConfigureNetwork", configure_network),
    JOB_METHOD("Mount", mount),
    JOB_METHOD("Unmount", unmount),
    JOB_METHOD("GrowFilesystem", grow_filesystem),
    JOB_METHOD("SetTime", set_time),
    JOB_METHOD("ListFiles", list_files),
    JOB_METHOD("MakeEntry", make_entry),
    {.name = "Exec",
     MESSAGES(exec),
     .flags = TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM,
     .start = exec_start,
     .data = exec_data,
     .data_end = exec_data_end,
     .cancelled = exec_cancelled},
    {.name = "WriteFile",
     MESSAGES(write_file),
     .flags = TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM,
     .start = write_file_start,
     .data = write_file_data,
     .data_end = write_file_data_end,
     .cancelled = file_cancelled},
    {.name = "ReadFile",
     MESSAGES(read_file),
     .flags = TTRPC_CLIENT_STREAM | TTRPC_SERVER_STREAM,
     .start = read_file_start,
     .data = read_file_data,
     .data_end = read_file_data_end,
     .cancelled = file_cancelled},
    {.name = "Shutdown", MESSAGES(shutdown), .start = shutdown_start},
};

static const struct ttrpc_service service = {
    .name = "lodge.agent.v1.Agent",
    .methods = methods,
    .nmethods = sizeof(methods) / sizeof(methods[0]),
};

const struct ttrpc_service *const agent_services[] = {&service, NULL};
