/*
 * bzImage: Linux Documentation/arch/x86/boot.rst ("The Linux/x86 Boot Protocol"), 2.08 to 2.15.
 *
 *	file
 *	0                 real-mode part: setup_sects + 1 sectors; setup header at 0x1f1
 *	code_offset       protected-mode part: syssize * 16 bytes; 64-bit entry at +0x200
 *	  payload_offset  the packed vmlinux; its last four bytes are its unpacked size
 *	...               whatever else (a signature)
 *
 * The payload is unpacked here and becomes an ELF kernel (elf.c). A payload in a format that is not
 * ours unpacks itself: the protected-mode part is loaded and entered at its 64-bit entry.
 */
#include "vmm/boot/kernel_priv.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "vmm/boot/place.h"
#include "vmm/boot/unpack.h"

#include <errno.h>
#include <string.h>

#define SECTOR 512

/* offsets in the file */
#define SETUP_SECTS	 0x1f1 /* u8; 0 means 4 */
#define SYSSIZE		 0x1f4 /* u32, units of 16 bytes */
#define BOOT_FLAG	 0x1fe /* u16: 0xaa55 */
#define JUMP_LEN	 0x201 /* u8: the header ends at 0x202 + this */
#define HEADER		 0x202 /* "HdrS" */
#define VERSION		 0x206 /* u16 */
#define KERNEL_VERSION	 0x20e /* u16: offset of a string, less 0x200 */
#define LOADFLAGS	 0x211 /* u8 */
#define INITRD_ADDR_MAX	 0x22c /* u32 */
#define KERNEL_ALIGNMENT 0x230 /* u32 */
#define RELOCATABLE	 0x234 /* u8 */
#define XLOADFLAGS	 0x236 /* u16, from 2.12 */
#define PAYLOAD_OFFSET	 0x248 /* u32, from 2.08, within the protected-mode part */
#define PAYLOAD_LENGTH	 0x24c /* u32 */
#define PREF_ADDRESS	 0x258 /* u64, from 2.10 */
#define INIT_SIZE	 0x260 /* u32, from 2.10 */
#define HEADER_END_MIN	 0x250 /* end of what 2.08 has */
#define HEADER_END_210	 0x264

#define LOADED_HIGH	0x01
#define XLF_KERNEL_64	0x0001
#define ENTRY_64_OFFSET 0x200

bool bzimage_is(const uint8_t *file, uint64_t len_bytes)
{
	return len_bytes >= VERSION && !memcmp(file + HEADER, "HdrS", 4) &&
	       le16_load(file + BOOT_FLAG) == 0xaa55;
}

/* "6.1.0-37-cloud-amd64 (user@host) #1 SMP ...": the first word, where there is one. */
static void parse_release(struct bzimage *image, const uint8_t *file)
{
	uint64_t at = le16_load(file + KERNEL_VERSION);
	size_t n = 0;

	if (!at)
		return;
	at += 0x200;
	while (at + n < image->code_offset && n < sizeof(image->release) - 1 &&
	       file[at + n] > ' ' && file[at + n] < 0x7f) {
		image->release[n] = (char)file[at + n];
		n++;
	}
	image->release[n] = '\0';
}

static int parse_sizes(struct bzimage *image, const uint8_t *file, uint64_t len_bytes,
		       struct err *err)
{
	uint64_t sectors = file[SETUP_SECTS] ? file[SETUP_SECTS] : 4;
	uint64_t payload = le32_load(file + PAYLOAD_OFFSET);
	unsigned long long announced;

	image->code_offset = (sectors + 1) * SECTOR;
	image->code_bytes = (uint64_t)le32_load(file + SYSSIZE) * 16;
	image->payload_bytes = le32_load(file + PAYLOAD_LENGTH);
	announced = image->code_offset + image->code_bytes;
	if (!ck_range(image->code_offset, image->code_bytes, len_bytes))
		return err_set(
		    err, EBADMSG,
		    "is truncated: its header announces %llu bytes and the file has %llu; "
		    "copy or build it again",
		    announced, (unsigned long long)len_bytes);
	if (!ck_range(payload, image->payload_bytes, image->code_bytes) ||
	    image->payload_bytes <= UNPACK_MAGIC_LEN + 4)
		return err_set(
		    err, ENOEXEC,
		    "is damaged: its header places a payload of %llu bytes at %llu of %llu",
		    (unsigned long long)image->payload_bytes, (unsigned long long)payload,
		    (unsigned long long)image->code_bytes);
	image->payload_offset = image->code_offset + payload;
	return 0;
}

int bzimage_parse(const uint8_t *file, uint64_t len_bytes, struct bzimage *ret_image,
		  struct err *err)
{
	struct bzimage image = {0};
	int r;

	if (len_bytes < HEADER_END_MIN)
		return err_set(err, EBADMSG, "is truncated: it ends within its setup header");
	image.version = le16_load(file + VERSION);
	if (image.version < 0x208 || !(file[LOADFLAGS] & LOADED_HIGH))
		return err_set(err, ENOEXEC,
			       "has boot protocol %u.%02u; 2.08 is needed (Linux 2.6.26 or later, "
			       "bzImage)",
			       image.version >> 8, image.version & 0xff);
	if (image.version >= 0x20a && len_bytes < HEADER_END_210)
		return err_set(err, EBADMSG, "is truncated: it ends within its setup header");
	r = parse_sizes(&image, file, len_bytes, err);
	if (r < 0)
		return r;

	image.entry_64 = image.version >= 0x20c && (le16_load(file + XLOADFLAGS) & XLF_KERNEL_64);
	if (image.version >= 0x20c && !image.entry_64)
		return err_set(
		    err, ENOEXEC,
		    "is for 32-bit x86 (i386), or has no 64-bit entry; this machine runs "
		    "x86-64 kernels");
	image.relocatable = file[RELOCATABLE];
	image.alignment = le32_load(file + KERNEL_ALIGNMENT);
	image.preferred = KERNEL_LOWEST_GPA;
	image.init_bytes = image.code_bytes;
	if (image.version >= 0x20a) {
		image.preferred = le64_load(file + PREF_ADDRESS);
		image.init_bytes = MAX(image.init_bytes, le32_load(file + INIT_SIZE));
	}
	image.initrd_max = le32_load(file + INITRD_ADDR_MAX);
	image.header_bytes =
	    MIN(HEADER + file[JUMP_LEN] - BZIMAGE_HEADER_OFFSET, KERNEL_SETUP_HEADER_MAX);
	image.header_bytes = (unsigned)MIN(image.header_bytes, len_bytes - BZIMAGE_HEADER_OFFSET);
	parse_release(&image, file);
	*ret_image = image;
	return 0;
}

/* Takes the unpacked vmlinux: first its headers, then each piece to its segments. */
struct vmlinux_sink {
	struct unpack_sink sink;
	const struct gmem *mem;
	struct elf_image elf;
	bool parsed;
	uint8_t head[ELF_HEAD_MAX];
	size_t head_len;
	uint64_t offset;   /* bytes seen */
	uint64_t expected; /* bytes in all */
	struct err *err;
};

static int vmlinux_headers(struct vmlinux_sink *v)
{
	int r;

	if (!elf_is(v->head, v->head_len))
		return err_set(v->err, ENOEXEC,
			       "holds something that is not an ELF kernel; it is damaged");
	r = elf_parse(v->head, v->head_len, v->expected, &v->elf, v->err);
	if (r < 0)
		return r;
	r = elf_fits(&v->elf, v->mem, v->err);
	if (r < 0)
		return r;
	v->parsed = true;
	return elf_place(&v->elf, v->mem, 0, v->head, v->head_len);
}

static int vmlinux_write(struct unpack_sink *sink, const uint8_t *data, size_t len_bytes)
{
	struct vmlinux_sink *v = (struct vmlinux_sink *)sink;
	int r;

	if (!v->parsed) {
		size_t want = MIN(v->expected, sizeof(v->head)) - v->head_len;
		size_t n = MIN(len_bytes, want);

		memcpy(v->head + v->head_len, data, n);
		v->head_len += n;
		v->offset += n;
		data += n;
		len_bytes -= n;
		if (n < want)
			return 0;
		r = vmlinux_headers(v);
		if (r < 0)
			return r;
	}
	r = elf_place(&v->elf, v->mem, v->offset, data, len_bytes);
	v->offset += len_bytes;
	return r;
}

static int load_unpacked(const struct bzimage *image, enum unpack_format format,
			 const uint8_t *file, const struct gmem *mem, struct kernel_loaded *loaded,
			 struct err *err)
{
	const uint8_t *payload = file + image->payload_offset;
	uint64_t len = image->payload_bytes, total = 0;
	struct vmlinux_sink v = {.sink.write = vmlinux_write, .mem = mem, .err = err};
	int r;

	/* Linux appends the unpacked size to every format but gzip, which ends with it anyway. */
	v.expected = format == UNPACK_NONE ? len : le32_load(payload + len - 4);
	if (format != UNPACK_NONE && format != UNPACK_GZIP)
		len -= 4;
	if (v.expected < UNPACK_MAGIC_LEN || v.expected > KERNEL_UNPACKED_MAX ||
	    (image->version >= 0x20a && v.expected > image->init_bytes))
		return err_set(err, ENOEXEC,
			       "is damaged: its %s payload says that it unpacks to %llu bytes, its "
			       "header allows %llu",
			       unpack_name(format), (unsigned long long)v.expected,
			       (unsigned long long)MIN(image->init_bytes, KERNEL_UNPACKED_MAX));

	r = unpack_stream(format, payload, len, v.expected, &v.sink, &total);
	if (r == -EBADMSG || r == -EFBIG || (r == 0 && total != v.expected))
		return err_set(
		    err, EBADMSG,
		    "cannot be unpacked: its %s payload is damaged; copy or build it again",
		    unpack_name(format));
	if (r < 0)
		return err_sys(err, -r, "cannot be unpacked into guest memory");
	loaded->entry = v.elf.entry;
	loaded->start = v.elf.start;
	loaded->end = v.elf.end;
	return 0;
}

/* Where the image that unpacks itself is put: where it likes best, or as low as it may. */
static int choose_address(const struct bzimage *image, const struct gmem *mem, gpa_t *ret_gpa,
			  struct err *err)
{
	gpa_t gpa = image->preferred;
	gpa_t low = MAX(KERNEL_LOWEST_GPA, image->alignment);

	if (gpa < KERNEL_LOWEST_GPA || gpa > UINT64_MAX - image->init_bytes)
		return err_set(
		    err, ENOEXEC,
		    "is damaged: its header prefers load address 0x%llx for 0x%llx bytes",
		    (unsigned long long)gpa, (unsigned long long)image->init_bytes);
	if (image->relocatable && is_pow2(image->alignment) && low < gpa &&
	    !gmem_ro(mem, gpa, image->init_bytes))
		gpa = low;
	*ret_gpa = gpa;
	return kernel_fits(mem, gpa, gpa + image->init_bytes, err);
}

static int load_packed(const struct bzimage *image, const uint8_t *file, const struct gmem *mem,
		       struct kernel_loaded *loaded, struct err *err)
{
	gpa_t gpa = 0;
	int r;

	if (!image->entry_64)
		return err_set(
		    err, ENOEXEC,
		    "is packed in a way that lodge does not know, and has no 64-bit entry "
		    "to unpack itself; use a kernel from 3.8 on, or its vmlinux");
	if (image->code_bytes <= ENTRY_64_OFFSET)
		return err_set(err, ENOEXEC, "is damaged: it ends before its 64-bit entry");
	r = choose_address(image, mem, &gpa, err);
	if (r < 0)
		return r;
	r = place_bytes(mem, gpa, file + image->code_offset, image->code_bytes);
	if (r < 0)
		return err_sys(err, -r, "cannot be copied into guest memory");
	loaded->entry = gpa + ENTRY_64_OFFSET;
	loaded->start = gpa;
	loaded->end = gpa + image->init_bytes;
	return 0;
}

int bzimage_load(const struct bzimage *image, const uint8_t *file, const struct gmem *mem,
		 struct kernel_loaded *ret_loaded, struct err *err)
{
	struct kernel_loaded loaded = {.initrd_max = image->initrd_max,
				       .setup_header_len = image->header_bytes};
	enum unpack_format format =
	    unpack_detect(file + image->payload_offset, image->payload_bytes);
	int r;

	if (format == UNPACK_UNKNOWN)
		r = load_packed(image, file, mem, &loaded, err);
	else
		r = load_unpacked(image, format, file, mem, &loaded, err);
	if (r < 0)
		return r;
	memcpy(loaded.setup_header, file + BZIMAGE_HEADER_OFFSET, image->header_bytes);
	*ret_loaded = loaded;
	return 0;
}
