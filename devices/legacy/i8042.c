/*
 * i8042 keyboard controller with nothing plugged in, and the two PC system control ports.
 *
 *   0x60  data                  0x61  system control B: speaker and timer gates
 *   0x64  status, command       0x92  system control A: A20 gate, fast reset
 *
 * IBM PS/2 Technical Reference (keyboard and auxiliary device controller; system control ports).
 * A driver's probe gets an answer to every command at once, so that it never runs into a timeout:
 * the controller and the keyboard interface are healthy, the auxiliary interface is not there, and
 * bytes for a keyboard go nowhere. There is no interrupt, as nothing is ever typed.
 *
 * Every way to pull the reset line is MACHINE_REBOOT: pulse command, output port bit 0, port 0x92.
 *
 * Threads: any; `lock`.
 */
#include "devices/legacy/legacy.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdbool.h>

#define PORT_DATA     0x60
#define PORT_SYSCTL_B 0x61
#define PORT_CMD      0x64
#define PORT_SYSCTL_A 0x92

#define STATUS_OBF    0x01 /* a byte waits at 0x60 */
#define STATUS_SYSTEM 0x04 /* self-test passed */
#define STATUS_CMD    0x08 /* last write went to 0x64 */
#define STATUS_UNLOCK 0x10 /* the key lock is open */

#define CTR_SYSTEM     0x04
#define CTR_KBD_OFF    0x10
#define CTR_AUX_OFF    0x20
#define CTR_TRANSLATE  0x40
#define CTR_AT_RESET   (CTR_SYSTEM | CTR_KBD_OFF | CTR_AUX_OFF | CTR_TRANSLATE)
#define SELF_TEST_GOOD 0x55
#define KBD_TEST_GOOD  0x00
#define AUX_TEST_BAD   0x02 /* clock line stuck high: nobody there */
#define INPUT_PORT     0x80 /* keyboard not inhibited */
#define OUT_RESET      0x01 /* low: the processor is in reset */
#define OUT_A20	       0x02

#define SYSCTL_A_RESET 0x01
#define SYSCTL_A_A20   0x02
#define SYSCTL_B_GATES 0x03 /* timer 2 gate, speaker */
#define SYSCTL_B_REF   0x10 /* memory refresh, toggles */
#define SYSCTL_B_OUT2  0x20 /* timer 2 output */

enum {
	CMD_READ_CTR = 0x20,
	CMD_RAM_END = 0x3f,
	CMD_WRITE_CTR = 0x60,
	CMD_WRITE_RAM_END = 0x7f,
	CMD_AUX_DISABLE = 0xa7,
	CMD_AUX_ENABLE = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_DISABLE = 0xad,
	CMD_KBD_ENABLE = 0xae,
	CMD_READ_INPUT = 0xc0,
	CMD_READ_OUTPUT = 0xd0,
	CMD_WRITE_OUTPUT = 0xd1,
	CMD_KBD_LOOP = 0xd2,
	CMD_AUX_LOOP = 0xd3,
	CMD_WRITE_AUX = 0xd4,
	CMD_PULSE = 0xf0, /* up to 0xff: the lines whose bit is clear */
};

/* All that the guest can see. */
struct i8042_state {
	uint8_t status;
	uint8_t ram[32]; /* [0] is the controller's command byte */
	uint8_t out_port;
	uint8_t out_byte;
	uint8_t cmd; /* waits for its parameter at 0x60; 0: none */
	uint8_t sysctl_a, sysctl_b;
};

struct i8042 {
	const struct platform *plat;
	pthread_mutex_t lock;
	struct i8042_state s;
};

static void reply(struct i8042_state *s, uint8_t byte)
{
	s->out_byte = byte;
	s->status |= STATUS_OBF;
}

/* True: the reset line was pulled. */
static bool command(struct i8042_state *s, uint8_t cmd)
{
	s->cmd = 0;
	s->status |= STATUS_CMD;

	if (cmd >= CMD_READ_CTR && cmd <= CMD_RAM_END) {
		reply(s, s->ram[cmd - CMD_READ_CTR]);
		return false;
	}
	if (cmd >= CMD_WRITE_CTR && cmd <= CMD_WRITE_RAM_END) {
		s->cmd = cmd;
		return false;
	}
	if (cmd >= CMD_PULSE)
		return !(cmd & OUT_RESET);

	switch (cmd) {
	case CMD_AUX_DISABLE:
		s->ram[0] |= CTR_AUX_OFF;
		break;
	case CMD_AUX_ENABLE:
		s->ram[0] &= (uint8_t)~CTR_AUX_OFF;
		break;
	case CMD_KBD_DISABLE:
		s->ram[0] |= CTR_KBD_OFF;
		break;
	case CMD_KBD_ENABLE:
		s->ram[0] &= (uint8_t)~CTR_KBD_OFF;
		break;
	case CMD_AUX_TEST:
		reply(s, AUX_TEST_BAD);
		break;
	case CMD_SELF_TEST:
		s->status |= STATUS_SYSTEM;
		s->ram[0] = CTR_AT_RESET;
		reply(s, SELF_TEST_GOOD);
		break;
	case CMD_KBD_TEST:
		reply(s, KBD_TEST_GOOD);
		break;
	case CMD_READ_INPUT:
		reply(s, INPUT_PORT);
		break;
	case CMD_READ_OUTPUT:
		reply(s, s->out_port);
		break;
	case CMD_WRITE_OUTPUT:
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP:
	case CMD_WRITE_AUX:
		s->cmd = cmd;
		break;
	default:
		break;
	}
	return false;
}

/* True: the reset line was pulled. */
static bool data(struct i8042_state *s, uint8_t byte)
{
	uint8_t cmd = s->cmd;

	s->cmd = 0;
	s->status &= (uint8_t)~STATUS_CMD;

	if (cmd >= CMD_WRITE_CTR && cmd <= CMD_WRITE_RAM_END) {
		s->ram[cmd - CMD_WRITE_CTR] = byte;
		return false;
	}
	switch (cmd) {
	case CMD_WRITE_OUTPUT:
		s->out_port = byte | OUT_RESET;
		return !(byte & OUT_RESET);
	case CMD_KBD_LOOP:
		reply(s, byte);
		break;
	case CMD_AUX_LOOP:
		/* Without the status bit that marks auxiliary data, which says: no such port. */
		reply(s, 0);
		break;
	default: /* for a keyboard or a mouse */
		break;
	}
	return false;
}

static uint8_t port_read_locked(struct i8042_state *s, unsigned port)
{
	switch (port) {
	case PORT_DATA:
		s->status &= (uint8_t)~STATUS_OBF;
		return s->out_byte;
	case PORT_SYSCTL_B:
		s->sysctl_b ^= SYSCTL_B_REF;
		return s->sysctl_b | SYSCTL_B_OUT2;
	case PORT_SYSCTL_A:
		return s->sysctl_a;
	default:
		return s->status;
	}
}

static bool port_write_locked(struct i8042_state *s, unsigned port, uint8_t byte)
{
	switch (port) {
	case PORT_DATA:
		return data(s, byte);
	case PORT_SYSCTL_B:
		s->sysctl_b = (s->sysctl_b & SYSCTL_B_REF) | (byte & SYSCTL_B_GATES);
		return false;
	case PORT_SYSCTL_A:
		s->sysctl_a = byte & SYSCTL_A_A20;
		return byte & SYSCTL_A_RESET;
	default:
		return command(s, byte);
	}
}

static uint64_t ports_read(struct i8042 *dev, unsigned port, unsigned size)
{
	uint64_t value = 0;

	AUTOLOCK(&dev->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)port_read_locked(&dev->s, port + i) << (8 * i);
	return value;
}

static void ports_write(struct i8042 *dev, unsigned port, unsigned size, uint64_t value)
{
	bool reset = false;

	pthread_mutex_lock(&dev->lock);
	for (unsigned i = 0; i < size; i++)
		reset |= port_write_locked(&dev->s, port + i, (uint8_t)(value >> (8 * i)));
	pthread_mutex_unlock(&dev->lock);
	if (reset)
		dev->plat->ops->machine_event(dev->plat->ctx, MACHINE_REBOOT);
}

#define PORTS_OPS(name, port)                                                               \
	static uint64_t name##_read(void *dev, uint64_t offset, unsigned size)              \
	{                                                                                   \
		return ports_read(dev, (port) + (unsigned)offset, size);                    \
	}                                                                                   \
	static void name##_write(void *dev, uint64_t offset, unsigned size, uint64_t value) \
	{                                                                                   \
		ports_write(dev, (port) + (unsigned)offset, size, value);                   \
	}                                                                                   \
	static const struct bus_ops name##_ops = {name##_read, name##_write}

PORTS_OPS(data, PORT_DATA);
PORTS_OPS(cmd, PORT_CMD);
PORTS_OPS(sysctl_a, PORT_SYSCTL_A);

static const struct bus_range i8042_ranges[] = {
    {PORT_DATA, 2, &data_ops, NULL, "i8042 data"}, /* and system control B */
    {PORT_CMD, 1, &cmd_ops, NULL, "i8042 command"},
    {PORT_SYSCTL_A, 1, &sysctl_a_ops, NULL, "system control A"},
};

int i8042_new(const struct platform *plat, struct i8042 **ret_dev, struct err *err)
{
	struct i8042 *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return err_sys(err, ENOMEM, "i8042");
	pthread_mutex_init(&dev->lock, NULL);
	dev->plat = plat;
	dev->s = (struct i8042_state){
	    .status = STATUS_UNLOCK | STATUS_SYSTEM,
	    .ram = {CTR_AT_RESET},
	    .out_port = OUT_RESET | OUT_A20,
	    .sysctl_a = SYSCTL_A_A20,
	};
	for (unsigned i = 0; i < ARRAY_LEN(i8042_ranges); i++) {
		struct bus_range range = i8042_ranges[i];
		int r;

		range.dev = dev;
		r = bus_add(plat->pio, &range, err);
		if (r) {
			i8042_free(dev);
			return r;
		}
	}
	*ret_dev = dev;
	return 0;
}

void i8042_free(struct i8042 *dev)
{
	if (!dev)
		return;
	for (unsigned i = 0; i < ARRAY_LEN(i8042_ranges); i++)
		bus_remove(dev->plat->pio, i8042_ranges[i].base, dev);
	pthread_mutex_destroy(&dev->lock);
	free(dev);
}
