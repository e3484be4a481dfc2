/*
 * MC146818 real-time clock and its memory, without interrupts.
 *
 * Motorola MC146818A data sheet: registers 0x00-0x09 time and alarm, 0x0a-0x0d control and status,
 * 0x0e-0x7f memory, of which 0x32 is the century (as ACPI's FADT and PC firmware have it).
 *
 * The clock is the host's UTC plus the offset that the guest made by setting it. The time is taken
 * at each access. Status A says "update in progress" for the last 2 ms of a second (the chip: 2.2),
 * so that a guest that sees it clear has that long to read all registers unchanged.
 *
 *   SET clear: registers follow the clock; a write moves the clock
 *   SET set:   registers stand still in `time`; clearing SET moves the clock to them
 *
 * Threads: any; `lock`.
 */
#include "devices/legacy/legacy.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define PORT_INDEX 0x70
#define PORTS	   2

#define NS_PER_S	 1000000000L
#define UPDATE_WINDOW_NS 2000000L
#define INDEX_MASK	 0x7f /* bit 7 is the NMI mask */

enum {
	REG_SEC = 0x00,
	REG_MIN = 0x02,
	REG_HOUR = 0x04,
	REG_WDAY = 0x06,
	REG_MDAY = 0x07,
	REG_MONTH = 0x08,
	REG_YEAR = 0x09,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c,
	REG_D = 0x0d,
	REG_CENTURY = 0x32,
};

#define A_UIP	 0x80
#define A_RESET	 0x26 /* 32768 Hz time base, 1024 Hz periodic rate */
#define B_24H	 0x02
#define B_BINARY 0x04
#define B_SET	 0x80
#define D_VALID	 0x80
#define HOUR_PM	 0x80

/* All that the guest can see. */
struct rtc_state {
	uint8_t index;
	uint8_t ram[128]; /* control registers, alarm and memory; the time's places are not used */
	int64_t offset_s; /* guest's time less host's */
	struct tm time;	  /* while B_SET */
};

struct rtc {
	const struct platform *plat;
	pthread_mutex_t lock;
	struct rtc_state s;
};

static bool is_time(unsigned reg)
{
	switch (reg) {
	case REG_SEC:
	case REG_MIN:
	case REG_HOUR:
	case REG_WDAY:
	case REG_MDAY:
	case REG_MONTH:
	case REG_YEAR:
	case REG_CENTURY:
		return true;
	default:
		return false;
	}
}

static struct timespec host_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts;
}

static void time_get(const struct rtc_state *s, struct tm *ret_tm)
{
	time_t t = (time_t)(host_now().tv_sec + s->offset_s);

	if (s->ram[REG_B] & B_SET)
		*ret_tm = s->time;
	else
		gmtime_r(&t, ret_tm); /* years have four digits: it cannot overflow */
}

/* The fields are in range but for the 31st of a short month, which timegm() carries over. */
static void time_put(struct rtc_state *s, struct tm *tm)
{
	if (s->ram[REG_B] & B_SET)
		s->time = *tm;
	else
		s->offset_s = (int64_t)timegm(tm) - host_now().tv_sec;
}

static uint8_t encode(const struct rtc_state *s, int v)
{
	return (uint8_t)(s->ram[REG_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static int decode(const struct rtc_state *s, uint8_t v)
{
	return s->ram[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 0xf);
}

static int decode_within(const struct rtc_state *s, uint8_t v, int min, int max)
{
	int n = decode(s, v);

	return n < min ? min : n > max ? max : n;
}

static uint8_t encode_hour(const struct rtc_state *s, int hour)
{
	int hour12 = hour % 12 ? hour % 12 : 12;

	if (s->ram[REG_B] & B_24H)
		return encode(s, hour);
	return encode(s, hour12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc_state *s, uint8_t v)
{
	if (s->ram[REG_B] & B_24H)
		return decode_within(s, v, 0, 23);
	return decode(s, v & (uint8_t)~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

static uint8_t time_read(const struct rtc_state *s, unsigned reg)
{
	struct tm tm;

	time_get(s, &tm);
	switch (reg) {
	case REG_SEC:
		return encode(s, tm.tm_sec);
	case REG_MIN:
		return encode(s, tm.tm_min);
	case REG_HOUR:
		return encode_hour(s, tm.tm_hour);
	case REG_WDAY:
		return encode(s, tm.tm_wday + 1);
	case REG_MDAY:
		return encode(s, tm.tm_mday);
	case REG_MONTH:
		return encode(s, tm.tm_mon + 1);
	case REG_YEAR:
		return encode(s, (tm.tm_year + 1900) % 100);
	default:
		return encode(s, (tm.tm_year + 1900) / 100);
	}
}

static void time_write(struct rtc_state *s, unsigned reg, uint8_t v)
{
	struct tm tm;
	int year;

	time_get(s, &tm);
	year = tm.tm_year + 1900;
	switch (reg) {
	case REG_SEC:
		tm.tm_sec = decode_within(s, v, 0, 59);
		break;
	case REG_MIN:
		tm.tm_min = decode_within(s, v, 0, 59);
		break;
	case REG_HOUR:
		tm.tm_hour = decode_hour(s, v);
		break;
	case REG_MDAY:
		tm.tm_mday = decode_within(s, v, 1, 31);
		break;
	case REG_MONTH:
		tm.tm_mon = decode_within(s, v, 1, 12) - 1;
		break;
	case REG_YEAR:
		tm.tm_year = year / 100 * 100 + decode_within(s, v, 0, 99) - 1900;
		break;
	case REG_CENTURY:
		tm.tm_year = decode_within(s, v, 0, 99) * 100 + year % 100 - 1900;
		break;
	default: /* the day of the week follows from the date */
		return;
	}
	time_put(s, &tm);
}

static void status_b_write(struct rtc_state *s, uint8_t v)
{
	bool was_set = s->ram[REG_B] & B_SET;
	struct tm tm;

	time_get(s, &tm);
	s->ram[REG_B] = v;
	if (was_set || (v & B_SET))
		time_put(s, &tm);
}

static uint8_t rtc_reg_read(const struct rtc_state *s, unsigned reg)
{
	if (is_time(reg))
		return time_read(s, reg);
	switch (reg) {
	case REG_A:
		if (!(s->ram[REG_B] & B_SET) && host_now().tv_nsec >= NS_PER_S - UPDATE_WINDOW_NS)
			return s->ram[REG_A] | A_UIP;
		return s->ram[REG_A];
	case REG_C:
		return 0; /* no interrupt has happened */
	case REG_D:
		return D_VALID;
	default:
		return s->ram[reg];
	}
}

static void rtc_reg_write(struct rtc_state *s, unsigned reg, uint8_t v)
{
	if (is_time(reg)) {
		time_write(s, reg, v);
		return;
	}
	switch (reg) {
	case REG_A:
		s->ram[REG_A] = v & (uint8_t)~A_UIP;
		break;
	case REG_B:
		status_b_write(s, v);
		break;
	case REG_C:
	case REG_D:
		break;
	default:
		s->ram[reg] = v;
		break;
	}
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned size)
{
	struct rtc *rtc = dev;
	uint64_t value = 0;

	AUTOLOCK(&rtc->lock);
	for (unsigned i = 0; i < size; i++) {
		/* The index is write-only. */
		uint8_t byte = offset + i ? rtc_reg_read(&rtc->s, rtc->s.index) : 0xff;

		value |= (uint64_t)byte << (8 * i);
	}
	return value;
}

static void rtc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct rtc *rtc = dev;

	AUTOLOCK(&rtc->lock);
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));

		if (offset + i)
			rtc_reg_write(&rtc->s, rtc->s.index, byte);
		else
			rtc->s.index = byte & INDEX_MASK;
	}
}

static const struct bus_ops rtc_ops = {rtc_read, rtc_write};

int rtc_new(const struct platform *plat, struct rtc **ret_dev, struct err *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	struct bus_range range = {PORT_INDEX, PORTS, &rtc_ops, rtc, "rtc"};
	int r;

	if (!rtc)
		return err_sys(err, ENOMEM, "rtc");
	/* The first conversion of a time reads the zone's file: now, while files can be opened. */
	tzset();
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->plat = plat;
	rtc->s.ram[REG_A] = A_RESET;
	rtc->s.ram[REG_B] = B_24H;
	r = bus_add(plat->pio, &range, err);
	if (r) {
		pthread_mutex_destroy(&rtc->lock);
		free(rtc);
		return r;
	}
	*ret_dev = rtc;
	return 0;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	bus_remove(rtc->plat->pio, PORT_INDEX, rtc);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}
