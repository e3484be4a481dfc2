/* SetTime: after the host slept, or the guest was paused. */
#include "guest/agent/calls.h"

#include "proto/agent.pb-c.h"

#include <errno.h>
#include <time.h>

#define NS_PER_S INT64_C(1000000000)

int call_set_time(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	const Lodge__Agent__V1__SetTimeRequest *r =
	    (const Lodge__Agent__V1__SetTimeRequest *)message;
	Lodge__Agent__V1__SetTimeResponse *ret = (Lodge__Agent__V1__SetTimeResponse *)reply;
	struct timespec now, ts = {.tv_sec = (time_t)(r->time_ns / NS_PER_S),
				   .tv_nsec = (long)(r->time_ns % NS_PER_S)};

	if (r->time_ns <= 0)
		return err_set(err, EINVAL, "time %lld is not after 1970", (long long)r->time_ns);
	clock_gettime(CLOCK_REALTIME, &now);
	if (clock_settime(CLOCK_REALTIME, &ts) < 0)
		return err_sys(err, errno, "setting the guest's clock");
	ret->step_ns = r->time_ns - ((int64_t)now.tv_sec * NS_PER_S + now.tv_nsec);
	return 0;
}
