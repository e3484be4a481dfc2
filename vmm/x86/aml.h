/*
 * Writes ACPI machine language (ACPI 6.4 §20) and resource descriptors (§6.4): the few terms that
 * our DSDT is made of.
 *
 * A block (scope, device, method, ...) is opened by aml_<what>() and closed by aml_end(); its
 * length is put in when it closes. Whatever does not fit sets `overflow` and is dropped, to be
 * looked at once in the end.
 */
#ifndef VMM_X86_AML_H
#define VMM_X86_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH_MAX 8

struct aml {
	uint8_t *buf; /* the caller's */
	size_t cap, len;
	bool overflow;
	size_t open[AML_DEPTH_MAX]; /* where the body of each open block begins */
	unsigned depth;
};

void aml_init(struct aml *aml, void *buf, size_t cap);

/* ---- blocks. Names have four letters. ---- */

void aml_scope_sb(struct aml *aml); /* \_SB */
void aml_device(struct aml *aml, const char *name);
void aml_method(struct aml *aml, const char *name, unsigned nargs);
void aml_if_local0_bit(struct aml *aml, uint8_t mask);		       /* If (Local0 & mask) */
void aml_package(struct aml *aml, const char *name, uint8_t elements); /* Name (name, Package) */
void aml_end(struct aml *aml);

/* ---- terms ---- */

void aml_int(struct aml *aml, uint64_t value);
void aml_name_int(struct aml *aml, const char *name, uint64_t value);
void aml_name_string(struct aml *aml, const char *name, const char *text);
/* Seven characters, "PNP0A08". */
void aml_name_eisaid(struct aml *aml, const char *name, const char *id);
/* An I/O region of `len` bytes and, over its first, a field of 8 bits. */
void aml_io_byte(struct aml *aml, const char *region, const char *field, uint16_t port);
void aml_local0_from(struct aml *aml, const char *field);
void aml_notify(struct aml *aml, const char *device, uint8_t value);

/* ---- resources: collected, then put into a block as its _CRS ---- */

#define AML_CRS_MAX 256

struct aml_crs {
	uint8_t bytes[AML_CRS_MAX];
	size_t len;
	bool overflow;
};

void aml_crs_io(struct aml_crs *crs, uint16_t base, uint8_t len);
/* Edge-triggered, active high. */
void aml_crs_irq(struct aml_crs *crs, uint32_t gsi, bool shared);
void aml_crs_mem32(struct aml_crs *crs, uint32_t base, uint32_t len);
/* Windows that a bridge hands on. */
void aml_crs_bus_window(struct aml_crs *crs, uint16_t first, uint16_t last);
void aml_crs_mem_window(struct aml_crs *crs, uint64_t base, uint64_t len);
void aml_name_crs(struct aml *aml, const struct aml_crs *crs);

#endif
