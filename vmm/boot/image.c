/*
 * Image: the kernel of 64-bit Arm, Linux Documentation/arm64/booting.rst "Call the kernel image".
 *
 *	offset  size
 *	 0       8    code
 *	 8       8    text_offset: from a multiple of 2 MiB to where the Image lies
 *	16       8    image_size: what it takes from there on, bss included; 0 before Linux 3.17,
 *	              whose text_offset is not to be believed either
 *	24       8    flags; bit 0: big-endian
 *	56       4    "ARM\x64"
 *
 * Packed, an Image is the whole file (Image.gz), or the payload of an EFI zboot image (Linux
 * drivers/firmware/efi/libstub/zboot-header.S):
 *
 *	 0       2    "MZ"
 *	 4       4    "zimg"
 *	 8       4    offset of the payload in the file
 *	12       4    its length; its last four bytes are its unpacked size, but for gzip's
 *
 * It is unpacked twice: its first bytes when the file is opened, all when it is loaded.
 */
#include "vmm/boot/kernel_priv.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "vmm/boot/place.h"

#include <errno.h>
#include <string.h>

#define IMAGE_HEAD	64
#define TEXT_OFFSET	8
#define IMAGE_SIZE	16
#define FLAGS		24
#define MAGIC		56
#define FLAG_BIG	1u
#define OLD_TEXT_OFFSET 0x80000 /* of kernels that do not say their size */
#define ALIGNMENT	(2 * MIB)
#define PAGE		4096

#define ZBOOT_HEAD    16
#define ZBOOT_OFFSET  8
#define ZBOOT_PAYLOAD 12

static bool has_header(const uint8_t *p, uint64_t len_bytes)
{
	return len_bytes >= IMAGE_HEAD && !memcmp(p + MAGIC, "ARM\x64", 4);
}

static bool is_zboot(const uint8_t *file, uint64_t len_bytes)
{
	return len_bytes >= ZBOOT_HEAD && !memcmp(file, "MZ", 2) && !memcmp(file + 4, "zimg", 4);
}

static bool is_packed(enum unpack_format format)
{
	return format != UNPACK_UNKNOWN && format != UNPACK_NONE;
}

bool image_is(const uint8_t *file, uint64_t len_bytes)
{
	return has_header(file, len_bytes) || is_zboot(file, len_bytes) ||
	       is_packed(unpack_detect(file, len_bytes));
}

/* The first bytes that come out of a packed file. */
struct head_sink {
	struct unpack_sink sink;
	uint8_t head[IMAGE_HEAD];
	size_t len;
};

static int head_write(struct unpack_sink *sink, const uint8_t *data, size_t len_bytes)
{
	struct head_sink *h = (struct head_sink *)sink;
	size_t n = MIN(len_bytes, sizeof(h->head) - h->len);

	memcpy(h->head + h->len, data, n);
	h->len += n;
	return h->len == sizeof(h->head) ? -ECANCELED : 0;
}

void image_show(const struct arm64_image *image, const uint8_t *file, struct unpack_sink *sink)
{
	uint64_t total;

	(void)unpack_stream(image->format, file + image->offset, image->packed_bytes,
			    KERNEL_UNPACKED_MAX, sink, &total);
}

static int find_zboot(const uint8_t *file, uint64_t len_bytes, struct arm64_image *image,
		      struct err *err)
{
	image->offset = le32_load(file + ZBOOT_OFFSET);
	image->packed_bytes = le32_load(file + ZBOOT_PAYLOAD);
	if (!ck_range(image->offset, image->packed_bytes, len_bytes))
		return err_set(err, EBADMSG,
			       "is truncated: its payload of %llu bytes at %llu ends past the "
			       "file's %llu; copy or build it again",
			       (unsigned long long)image->packed_bytes,
			       (unsigned long long)image->offset, (unsigned long long)len_bytes);
	image->format = unpack_detect(file + image->offset, image->packed_bytes);
	if (!is_packed(image->format))
		return err_set(
		    err, ENOEXEC,
		    "is an EFI zboot image packed in a way that lodge does not know; give "
		    "the Image");
	if (image->format != UNPACK_GZIP && image->packed_bytes > 4)
		image->packed_bytes -= 4;
	return 0;
}

static int parse_header(const uint8_t *head, struct arm64_image *image, struct err *err)
{
	image->text_offset = le64_load(head + TEXT_OFFSET);
	image->mem_bytes = le64_load(head + IMAGE_SIZE);
	if (le64_load(head + FLAGS) & FLAG_BIG)
		return err_set(err, ENOEXEC,
			       "is a big-endian kernel; this machine starts little-endian ones");
	if (!image->mem_bytes)
		image->text_offset = OLD_TEXT_OFFSET;
	if (image->text_offset >= ALIGNMENT || !is_aligned(image->text_offset, PAGE) ||
	    image->mem_bytes > KERNEL_UNPACKED_MAX)
		return err_set(
		    err, ENOEXEC, "is damaged: its header asks for %llu bytes at offset 0x%llx",
		    (unsigned long long)image->mem_bytes, (unsigned long long)image->text_offset);
	return 0;
}

int image_parse(const uint8_t *file, uint64_t len_bytes, struct arm64_image *ret_image,
		struct err *err)
{
	struct arm64_image image = {.packed_bytes = len_bytes, .format = UNPACK_NONE};
	struct head_sink h = {.sink.write = head_write};
	int r = 0;

	if (is_zboot(file, len_bytes))
		r = find_zboot(file, len_bytes, &image, err);
	else if (!has_header(file, len_bytes))
		image.format = unpack_detect(file, len_bytes);
	if (r < 0)
		return r;
	if (image.format == UNPACK_NONE) {
		memcpy(h.head, file, sizeof(h.head));
	} else {
		image_show(&image, file, &h.sink);
		if (!has_header(h.head, h.len))
			return err_set(err, ENOEXEC,
				       "is packed with %s and holds no Image for 64-bit ARM "
				       "(aarch64), or is damaged",
				       unpack_name(image.format));
	}
	r = parse_header(h.head, &image, err);
	if (!r)
		*ret_image = image;
	return r;
}

/* Takes the unpacked Image to its place. */
struct place_sink {
	struct unpack_sink sink;
	const struct gmem *mem;
	gpa_t gpa, end;
};

static int place_write(struct unpack_sink *sink, const uint8_t *data, size_t len_bytes)
{
	struct place_sink *p = (struct place_sink *)sink;
	int r;

	if (len_bytes > p->end - p->gpa)
		return -EFBIG;
	r = place_bytes(p->mem, p->gpa, data, len_bytes);
	p->gpa += len_bytes;
	return r;
}

int image_load(const struct arm64_image *image, const uint8_t *file, int fd, const struct gmem *mem,
	       struct kernel_loaded *ret_loaded, struct err *err)
{
	const struct gmem_region *ram = gmem_region_at(mem, 0);
	gpa_t start = align_up(ram->gpa, ALIGNMENT) + image->text_offset;
	uint64_t bytes = image->mem_bytes, total, need_mib;
	struct place_sink p = {.sink.write = place_write, .mem = mem, .gpa = start};
	int r;

	/* An old kernel, or a file with more than it says: what is there has room anyway. */
	if (image->format == UNPACK_NONE)
		bytes = MAX(bytes, image->packed_bytes);
	if (!bytes)
		return err_set(
		    err, ENOEXEC,
		    "is packed and does not say how large it is; give its Image, unpacked");
	need_mib = (image->text_offset + bytes) / MIB + 1;
	if (!gmem_ro(mem, start, bytes))
		return err_set(
		    err, ENOMEM,
		    "needs at least %llu MiB of memory and the guest has %llu MiB; give it "
		    "more (--memory)",
		    (unsigned long long)need_mib,
		    (unsigned long long)(gmem_total_bytes(mem) / MIB));
	p.end = start + bytes;
	if (image->format == UNPACK_NONE)
		r = place_file(mem, start, fd, 0, image->packed_bytes);
	else
		r = unpack_stream(image->format, file + image->offset, image->packed_bytes,
				  KERNEL_UNPACKED_MAX, &p.sink, &total);
	if (r == -EBADMSG || r == -EFBIG)
		return err_set(err, EBADMSG,
			       "cannot be unpacked: it is damaged; copy or build it again");
	if (r < 0)
		return err_sys(err, -r, "cannot be copied into guest memory");
	*ret_loaded = (struct kernel_loaded){
	    .entry = start,
	    .start = start,
	    .end = align_up(p.end, PAGE),
	};
	return 0;
}
