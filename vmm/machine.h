/*
 * A virtual machine: KVM, memory, vCPUs, devices and a booted kernel, made from one machine_config.
 *
 *   new --machine_start--> running --(event)--> ended --machine_free--> gone
 *
 * Threads: machine_start/free and the `ended` callback on the thread of the control loop that is
 * handed in; machine_new on any thread, after which the machine is the control loop's. One thread
 * for each vCPU, one for each disk, made by machine_new() and waiting for machine_start().
 * machine_stop() and machine_power_button() from any thread.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/legacy/uart.h"
#include "devices/platform.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/net.h"
#include "vmm/config.h"
#include "vmm/vcpu.h"

struct machine;

struct machine_callbacks {
	/* The machine has ended (vCPUs are stopped): on the control loop's thread, once. `reason`
	 * is one line for people, valid during the call. */
	void (*ended)(void *ctx, enum machine_event event, const char *reason);
	/*
	 * All that the machine needs is open, its threads exist and wait; next the kernel is read
	 * into memory. On machine_new()'s thread; NULL: nothing is to be done. An error ends
	 * machine_new().
	 */
	int (*lock_in)(void *ctx, struct err *err);
	/*
	 * A stream that the guest has opened to port `vsock_port` of the host (cid 2), or to the
	 * one that machine_vsock_port() says: the callee's from then on. On the control loop's
	 * thread, from machine_start() to machine_free(). NULL: that port is as any other.
	 */
	void (*vsock_accepted)(void *ctx, int fd);
	uint32_t vsock_port;
	void *ctx;
	/*
	 * Around what is the host's to open (KVM, vsock), and no file that the config names: `on`
	 * before, and not after. On machine_new()'s thread; NULL: there is no difference. An error
	 * ends machine_new().
	 */
	int (*as_host)(void *ctx, bool on, struct err *err);
	struct thread_hook *threads; /* of all threads of the machine; NULL: none */
};

/*
 * Opens all that the config names, then builds the machine. Errors name the thing and the cure.
 * `console` gets the serial port's output and may be NULL (output is thrown away).
 * The config must outlive the machine.
 */
int machine_new(const struct machine_config *config, struct loop *control,
		const struct uart_sink *console, const struct machine_callbacks *callbacks,
		struct machine **ret_machine, struct err *err);

void machine_start(struct machine *machine);

/* Ends the machine as MACHINE_STOPPED. */
void machine_stop(struct machine *machine);

/* Presses the ACPI power button: the guest may shut down, or not. */
void machine_power_button(struct machine *machine);

/*
 * Between machine_start() and `ended`, not while it is paused or being paused. The vCPUs stand
 * still between two instructions, and what the devices have taken from the guest is finished; then
 * `paused` is called from the control loop. Not called if the machine ends before.
 */
void machine_pause(struct machine *machine, void (*paused)(void *ctx), void *ctx);

/* After `paused`, before `ended`. The guest is told that it stood still (KVM_KVMCLOCK_CTRL). */
void machine_resume(struct machine *machine);

/*
 * What vCPU `n`, or disk `n`, has done. From the control loop's thread, between machine_start() and
 * `ended`; `n` is below what the config says.
 */
void machine_vcpu_stats(struct machine *machine, unsigned n, struct vcpu_stats *ret_stats);
void machine_disk_stats(struct machine *machine, unsigned n, struct virtio_blk_stats *ret_stats);

/* Of interface `n`, likewise; false: only whether the link is up, as the host's kernel moves its
 * packets, and counts them. */
bool machine_net_stats(struct machine *machine, unsigned n, struct virtio_net_stats *ret_stats);

/* Link of interface `n`, as of a cable. Up: the network is told where the guest is. Conditions as
 * above. */
void machine_net_set_link(struct machine *machine, unsigned n, bool up);

/*
 * Gives interface `n`, whose stream's other end has gone, another one, which is taken over. The
 * control loop's thread; from machine_start() on, after `ended` as well.
 */
void machine_net_reconnect(struct machine *machine, unsigned n, int fd);

/*
 * Makes disk `n` longer, image and device. `done` is called from the control loop, before `ended`
 * in any case: err->code 0, or why it is as it was. Conditions as of machine_vcpu_stats(); -EBUSY:
 * it is being done already; -ENOMEM: then `done` is not called.
 */
typedef void machine_resized_fn(void *ctx, uint64_t old_bytes, const struct err *err);
int machine_resize_disk(struct machine *machine, unsigned n, uint64_t size_bytes,
			machine_resized_fn *done, void *ctx);

/* The serial port, for input and break; NULL without a console. */
struct uart *machine_uart(struct machine *machine);

/* The device tree that the kernel finds, in guest memory; NULL: it finds none. Before
 * machine_start(). */
const void *machine_dtb(const struct machine *machine, size_t *ret_len);

/* The guest's vsock context id; 0: it has no vsock. */
uint32_t machine_cid(const struct machine *machine);

/* How the guest's ports are reached: true, by AF_VSOCK and its cid; false, by
 * machine_vsock_adopt(), or it has no vsock. */
bool machine_vsock_by_host(const struct machine *machine);

/*
 * Takes `fd` over, one end of a stream socketpair(2), and serves it as a connection accepted at the
 * built-in vsock's socket: "CONNECT <port>\n" is to come first, "OK <port>\n" is the answer, and an
 * end without a word means that the guest refused. Waits for the guest's driver; ends with a reset
 * of the device, or the machine. Where the guest is not reached so, it is closed. The control
 * loop's thread.
 */
void machine_vsock_adopt(struct machine *machine, int fd);

/* The host's port of vsock_accepted(): another than asked for where a process of the host, such as
 * another machine, has that on AF_VSOCK. 0: the machine has none. */
uint32_t machine_vsock_port(const struct machine *machine);

/* After `ended`, or before machine_start(). Flushes nothing: what the guest flushed is durable. */
void machine_free(struct machine *machine);

const char *machine_event_name(enum machine_event event);

#endif
