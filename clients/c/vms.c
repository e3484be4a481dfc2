/*
 * Prints the VMs of a server, then what happens to them.
 *
 *   cc vms.c $(pkg-config --cflags --libs lodge) -o vms
 *   ./vms [--list]        ($LODGE_SOCKET: another socket than the default)
 */
#include <lodge.h>

#include <stdio.h>
#include <string.h>

static const char *state_name(VmTools__Concierge__VmState state)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
	    &vm_tools__concierge__vm_state__descriptor, (int)state);

	return value ? value->name : "?";
}

static int print_event(void *ctx, const ProtobufCMessage *message)
{
	const Lodge__V1__VmEvent *event = (const Lodge__V1__VmEvent *)message;

	(void)ctx;
	if (event->initial_done || event->initial)
		return 0;
	if (event->state)
		printf("%s: %s\n", event->name, state_name(event->state));
	else
		printf("%s has ended: %s\n", event->name, event->reason);
	return fflush(stdout); /* anything but 0 ends the stream */
}

static int list(struct lodge_client *client, struct lodge_error *error)
{
	Lodge__V1__ListVmsRequest request = LODGE__V1__LIST_VMS_REQUEST__INIT;
	const Lodge__V1__ListVmsResponse *vms;
	ProtobufCMessage *reply;
	int status = lodge_call(client, "ListVms", &request.base, 5000, &reply, error);

	if (status)
		return status;
	vms = (const Lodge__V1__ListVmsResponse *)reply;
	for (size_t i = 0; i < vms->n_vms; i++)
		printf("%s: %s, process %d\n", vms->vms[i]->name, state_name(vms->vms[i]->state),
		       vms->vms[i]->pid);
	lodge_free(reply);
	return LODGE_STATUS_OK;
}

static int watch(struct lodge_client *client, struct lodge_error *error)
{
	Lodge__V1__WatchEventsRequest request = LODGE__V1__WATCH_EVENTS_REQUEST__INIT;
	int status = lodge_begin(client, "WatchEvents", &request.base, 0, error);

	return status ? status : lodge_each(client, print_event, NULL, error);
}

int main(int argc, char **argv)
{
	struct lodge_client *client;
	struct lodge_error error;
	int status = lodge_connect(NULL, &client, &error);

	if (!status) {
		status = list(client, &error);
		if (!status && !(argc > 1 && !strcmp(argv[1], "--list")))
			status = watch(client, &error);
		lodge_close(client);
	}
	if (status)
		fprintf(stderr, "vms: %s\n", error.text);
	return status ? 1 : 0;
}
