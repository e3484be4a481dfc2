/*
 * Any bytes of a client against the ttrpc server with one method of each kind, cut at places that
 * the input chooses: no crash, no leak, every handler is completed.
 */
#include "tests/unit/ttrpc_rig.h"

#include <fcntl.h>
#include <stdint.h>

/* A round takes what one write brought; the input is cut into at most so many. */
#define WRITES_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void stop(struct loop_msg *m)
{
	(void)m;
}

/* Lets the server take what was written: its own work goes on in rounds of the loop. */
static void turn(struct rig *rig)
{
	static struct loop_msg msg = {.fn = stop};

	for (int i = 0; i < 4; i++) {
		loop_post(rig->loop, &msg);
		loop_stop(rig->loop);
		(void)loop_run(rig->loop);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char sink[4096];
	struct rig rig;
	unsigned writes = 0;

	rig_open(&rig, LOOP_EPOLL);
	fcntl(rig.peer, F_SETFL, O_NONBLOCK);
	while (size > 1 && writes++ < WRITES_MAX) {
		size_t n = MIN((size_t)data[0] + 1, size - 1);

		if (writes == WRITES_MAX)
			n = size - 1;
		if (write(rig.peer, data + 1, n) < 0)
			break;
		data += n + 1;
		size -= n + 1;
		turn(&rig);
		while (read(rig.peer, sink, sizeof(sink)) > 0)
			;
		if (rig.nheld == RIG_HELD)
			rig_release_all(&rig);
	}
	rig_close(&rig);
	return 0;
}
