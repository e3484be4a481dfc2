#include "vmm/x86/acpi.h"
#include "base/cleanup.h"
#include "devices/legacy/legacy.h"
#include "vmm/x86/dsdt.h"
#include "vmm/x86/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Common header of a table (§5.2.6)
 *   0 signature  4 length  8 revision  9 checksum  10 OEM id  16 OEM table id
 *  24 OEM revision  28 creator id  32 creator revision
 */
#define HEADER_BYTES	36
#define HEADER_CHECKSUM 9

/* FADT (§5.2.9), the fields that are not zero */
#define FADT_BYTES	   276
#define FADT_DSDT	   40
#define FADT_PROFILE	   45
#define FADT_BOOT_ARCH	   109
#define FADT_FLAGS	   112
#define FADT_RESET_REG	   116
#define FADT_RESET_VALUE   128
#define FADT_MINOR	   131
#define FADT_X_DSDT	   140
#define FADT_SLEEP_CONTROL 244
#define FADT_SLEEP_STATUS  256
#define FADT_HYPERVISOR	   268

#define PROFILE_SERVER	 4
#define BOOT_NO_VGA	 (1u << 2)
#define BOOT_NO_ASPM	 (1u << 4)
#define BOOT_NO_CMOS_RTC (1u << 5)
#define FLAG_WBINVD	 (1u << 0)
#define FLAG_PROC_C1	 (1u << 2)
#define FLAG_PWR_BUTTON	 (1u << 4) /* no fixed one: it is a device */
#define FLAG_SLP_BUTTON	 (1u << 5)
#define FLAG_RESET_REG	 (1u << 10)
#define FLAG_HEADLESS	 (1u << 12)
#define FLAG_HW_REDUCED	 (1u << 20)

/* MADT (§5.2.12) */
#define MADT_LAPIC     0
#define MADT_IOAPIC    1
#define MADT_LAPIC_NMI 4
#define LAPIC_ENABLED  1
#define ALL_PROCESSORS 0xff

struct tables {
	uint8_t *buf;
	size_t cap, len;
	bool overflow;
};

/* Zeroed bytes at the end, or NULL. */
static uint8_t *take(struct tables *t, size_t len)
{
	uint8_t *p = t->buf + t->len;

	if (t->overflow || len > t->cap - t->len) {
		t->overflow = true;
		return NULL;
	}
	memset(p, 0, len);
	t->len += len;
	return p;
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	return (uint8_t)-sum;
}

/* Names in tables have a fixed width and no NUL. */
static void put_text(uint8_t *p, const char *text)
{
	while (*text)
		*p++ = (uint8_t)*text++;
}

/* A table begins at a multiple of 16; its length and checksum follow in table_end(). */
static size_t table_begin(struct tables *t, const char *signature, uint8_t revision)
{
	size_t at;
	uint8_t *p;

	take(t, -t->len & 15);
	at = t->len;
	p = take(t, HEADER_BYTES);
	if (!p)
		return at;
	put_text(p, signature);
	p[8] = revision;
	put_text(p + 10, "LODGE LODGEVM ");
	le32_store(p + 24, 1);
	put_text(p + 28, "LODG");
	le32_store(p + 32, 1);
	return at;
}

static gpa_t table_end(struct tables *t, size_t at)
{
	uint8_t *p = t->buf + at;

	if (t->overflow)
		return 0;
	le32_store(p + 4, (uint32_t)(t->len - at));
	p[HEADER_CHECKSUM] = checksum(p, t->len - at);
	return X86_ACPI + at;
}

static gpa_t add_dsdt(struct tables *t, const struct arch_boot *boot)
{
	size_t at = table_begin(t, "DSDT", 2);
	size_t len = 0;

	if (t->overflow || dsdt_build(boot, t->buf + t->len, t->cap - t->len, &len)) {
		t->overflow = true;
		return 0;
	}
	t->len += len;
	return table_end(t, at);
}

/* Generic address structure (§5.2.3.2): a port of one byte. */
static void port_gas(uint8_t *p, uint16_t port)
{
	p[0] = 1; /* system I/O */
	p[1] = 8; /* bits */
	p[3] = 1; /* byte access */
	le64_store(p + 4, port);
}

static gpa_t add_fadt(struct tables *t, const struct arch_boot *boot, gpa_t dsdt)
{
	size_t at = table_begin(t, "FACP", 6);
	uint8_t *p = take(t, FADT_BYTES - HEADER_BYTES);

	if (!p)
		return 0;
	p = t->buf + at;
	le32_store(p + FADT_DSDT, (uint32_t)dsdt);
	le64_store(p + FADT_X_DSDT, dsdt);
	p[FADT_PROFILE] = PROFILE_SERVER;
	/* No 8042: the controller only resets, and looking for a keyboard takes Linux long. */
	le16_store(p + FADT_BOOT_ARCH,
		   BOOT_NO_VGA | BOOT_NO_ASPM | (boot->rtc ? 0 : BOOT_NO_CMOS_RTC));
	le32_store(p + FADT_FLAGS, FLAG_WBINVD | FLAG_PROC_C1 | FLAG_PWR_BUTTON | FLAG_SLP_BUTTON |
				       FLAG_RESET_REG | FLAG_HEADLESS | FLAG_HW_REDUCED);
	port_gas(p + FADT_RESET_REG, ACPI_PM_RESET);
	p[FADT_RESET_VALUE] = ACPI_PM_RESET_VALUE;
	p[FADT_MINOR] = 4;
	port_gas(p + FADT_SLEEP_CONTROL, ACPI_PM_SLEEP_CONTROL);
	port_gas(p + FADT_SLEEP_STATUS, ACPI_PM_SLEEP_STATUS);
	put_text(p + FADT_HYPERVISOR, "LODGE");
	return table_end(t, at);
}

static gpa_t add_madt(struct tables *t, const struct arch_boot *boot)
{
	size_t at = table_begin(t, "APIC", 5);
	uint8_t *p = take(t, 8);

	if (!p)
		return 0;
	/* Flags stay 0: there are 8259s for kernels without ACPI, but no need to know of them. */
	le32_store(p, X86_LAPIC);
	for (unsigned i = 0; i < boot->config->cpus; i++) {
		p = take(t, 8);
		if (!p)
			return 0;
		p[0] = MADT_LAPIC;
		p[1] = 8;
		p[2] = (uint8_t)i; /* processor UID */
		p[3] = (uint8_t)i; /* APIC id */
		le32_store(p + 4, LAPIC_ENABLED);
	}
	p = take(t, 12);
	if (!p)
		return 0;
	p[0] = MADT_IOAPIC;
	p[1] = 12;
	le32_store(p + 4, X86_IOAPIC); /* first GSI: 0 */
	p = take(t, 6);
	if (!p)
		return 0;
	p[0] = MADT_LAPIC_NMI;
	p[1] = 6;
	p[2] = ALL_PROCESSORS;
	p[5] = 1; /* LINT1 */
	return table_end(t, at);
}

/* PCI Firmware 3.1 §4.1.2: one host bridge, bus 0 only. */
static gpa_t add_mcfg(struct tables *t, const struct arch_boot *boot)
{
	size_t at = table_begin(t, "MCFG", 1);
	uint8_t *p = take(t, 8 + 16);

	if (!p)
		return 0;
	le64_store(p + 8, boot->pci->ecam_gpa);
	return table_end(t, at);
}

static gpa_t add_xsdt(struct tables *t, const gpa_t *tables, unsigned n)
{
	size_t at = table_begin(t, "XSDT", 1);

	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = take(t, 8);

		if (p)
			le64_store(p, tables[i]);
	}
	return table_end(t, at);
}

/* §5.2.5.3: 0 signature, 8 checksum of 20 bytes, 9 OEM id, 15 revision, 20 length, 24 XSDT,
 * 32 checksum of all */
#define RSDP_BYTES 36

static void fill_rsdp(uint8_t *p, gpa_t xsdt)
{
	put_text(p, "RSD PTR ");
	put_text(p + 9, "LODGE ");
	p[15] = 2;
	le32_store(p + 20, RSDP_BYTES);
	le64_store(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_BYTES);
}

int acpi_build(const struct arch_boot *boot, uint8_t *buf, size_t cap, size_t *ret_len)
{
	struct tables t = {.buf = buf, .cap = cap};
	uint8_t *rsdp = take(&t, RSDP_BYTES);
	gpa_t tables[3], xsdt, dsdt;
	unsigned n = 0;

	dsdt = add_dsdt(&t, boot);
	tables[n++] = add_fadt(&t, boot, dsdt);
	tables[n++] = add_madt(&t, boot);
	if (boot->pci)
		tables[n++] = add_mcfg(&t, boot);
	xsdt = add_xsdt(&t, tables, n);
	if (t.overflow)
		return -ENOSPC;
	fill_rsdp(rsdp, xsdt);
	*ret_len = t.len;
	return 0;
}

int acpi_write(const struct gmem *mem, const struct arch_boot *boot, struct err *err)
{
	autofree uint8_t *buf = malloc(ACPI_TABLES_MAX);
	size_t len;
	int res = -ENOMEM;

	if (buf)
		res = acpi_build(boot, buf, ACPI_TABLES_MAX, &len);
	if (!res)
		res = gmem_write(mem, X86_ACPI, buf, len);
	return res ? err_sys(err, -res, "cannot write the ACPI tables") : 0;
}
