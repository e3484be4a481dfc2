/*
 * ELF kernels: a vmlinux, as a file or as what a bzImage unpacks to, or a test payload.
 *
 * Only the ELF header and the program headers are read (System V ABI, "Program Loading"; x86-64
 * supplement). Segments go to their physical addresses. Entry is the physical address of the 64-bit
 * entry point; a file that names a virtual one is translated through its segment.
 */
#include "vmm/boot/kernel_priv.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "vmm/boot/place.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PAGE 4096

bool elf_is(const uint8_t *head, size_t len_bytes)
{
	return len_bytes >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

static const char *machine_name(unsigned machine)
{
	switch (machine) {
	case EM_386:
		return "32-bit x86 (i386)";
	case EM_X86_64:
		return "x86-64";
	case EM_AARCH64:
		return "64-bit ARM (aarch64)";
	case EM_ARM:
		return "32-bit ARM";
	case EM_RISCV:
		return "RISC-V";
	case EM_PPC:
		return "32-bit PowerPC";
	case EM_PPC64:
		return "64-bit PowerPC";
	case EM_S390:
		return "s390";
	case EM_MIPS:
		return "MIPS";
	case EM_SPARCV9:
		return "64-bit SPARC";
	case EM_LOONGARCH:
		return "LoongArch";
	default:
		return NULL;
	}
}

static unsigned machine_of(const uint8_t *head)
{
	const uint8_t *at = head + offsetof(Elf64_Ehdr, e_machine);

	return head[EI_DATA] == ELFDATA2MSB ? be16_load(at) : le16_load(at);
}

const char *elf_machine(const uint8_t *head, size_t len_bytes)
{
	return len_bytes < sizeof(Elf64_Ehdr) ? NULL : machine_name(machine_of(head));
}

static int check_ident(const uint8_t *head, struct err *err)
{
	bool big = head[EI_DATA] == ELFDATA2MSB;
	unsigned machine = machine_of(head);
	unsigned type = le16_load(head + offsetof(Elf64_Ehdr, e_type));

	if (machine != EM_X86_64) {
		const char *name = machine_name(machine);

		if (name)
			return err_set(err, ENOEXEC, "is for %s; this machine runs x86-64 kernels",
				       name);
		return err_set(err, ENOEXEC,
			       "is for ELF machine %u; this machine runs x86-64 kernels", machine);
	}
	if (head[EI_CLASS] != ELFCLASS64 || big)
		return err_set(err, ENOEXEC, "is an ELF file for x86-64 but not a 64-bit one");
	if (type == ET_REL)
		return err_set(err, ENOEXEC,
			       "is an object file or a kernel module, not a linked kernel");
	if (type != ET_EXEC && type != ET_DYN)
		return err_set(err, ENOEXEC, "is an ELF file of type %u, not an executable", type);
	return 0;
}

/* One PT_LOAD header; takes it into the image. */
static int take_segment(struct elf_image *image, const Elf64_Phdr *ph, uint64_t file_bytes,
			struct err *err)
{
	struct elf_segment seg = {.gpa = le64toh(ph->p_paddr),
				  .mem_bytes = le64toh(ph->p_memsz),
				  .file_offset = le64toh(ph->p_offset),
				  .file_bytes = le64toh(ph->p_filesz)};
	uint64_t end;

	if (!seg.mem_bytes)
		return 0;
	if (seg.file_bytes > seg.mem_bytes)
		return err_set(err, ENOEXEC, "is damaged: a segment of 0x%llx bytes holds 0x%llx",
			       (unsigned long long)seg.mem_bytes,
			       (unsigned long long)seg.file_bytes);
	if (!ck_range(seg.file_offset, seg.file_bytes, file_bytes))
		return err_set(err, EBADMSG,
			       "is truncated: a segment takes 0x%llx bytes at 0x%llx and there are "
			       "0x%llx in all; copy or build it again",
			       (unsigned long long)seg.file_bytes,
			       (unsigned long long)seg.file_offset, (unsigned long long)file_bytes);
	if (!ck_add(seg.gpa, seg.mem_bytes, &end) || end > UINT64_MAX - PAGE)
		return err_set(err, ENOEXEC, "is damaged: a segment at 0x%llx has 0x%llx bytes",
			       (unsigned long long)seg.gpa, (unsigned long long)seg.mem_bytes);
	if (seg.gpa < KERNEL_LOWEST_GPA)
		return err_set(err, ENOEXEC,
			       "wants to be loaded at physical address 0x%llx; link it at 1 MiB or "
			       "above",
			       (unsigned long long)seg.gpa);
	for (unsigned i = 0; i < image->nsegments; i++) {
		const struct elf_segment *other = &image->segments[i];

		if (seg.gpa < other->gpa + other->mem_bytes && other->gpa < end)
			return err_set(err, ENOEXEC,
				       "is damaged: its segments at 0x%llx and 0x%llx overlap",
				       (unsigned long long)other->gpa, (unsigned long long)seg.gpa);
	}
	if (image->nsegments == ELF_SEGMENTS_MAX)
		return err_set(err, ENOEXEC, "has more than %d segments", ELF_SEGMENTS_MAX);
	image->start = MIN(image->start, align_down(seg.gpa, PAGE));
	image->end = MAX(image->end, align_up(end, PAGE));
	image->segments[image->nsegments++] = seg;
	return 0;
}

static bool in_segments(const struct elf_image *image, gpa_t gpa)
{
	for (unsigned i = 0; i < image->nsegments; i++)
		if (gpa >= image->segments[i].gpa &&
		    gpa - image->segments[i].gpa < image->segments[i].mem_bytes)
			return true;
	return false;
}

/* The physical address of an entry point that may be a virtual one. */
static int take_entry(struct elf_image *image, uint64_t entry, const uint8_t *phdrs, unsigned n,
		      struct err *err)
{
	if (in_segments(image, entry)) {
		image->entry = entry;
		return 0;
	}
	for (unsigned i = 0; i < n; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, phdrs + i * sizeof(ph), sizeof(ph));

		uint64_t offset = entry - le64toh(ph.p_vaddr);

		if (le32toh(ph.p_type) == PT_LOAD && offset < le64toh(ph.p_memsz)) {
			image->entry = le64toh(ph.p_paddr) + offset;
			return 0;
		}
	}
	return err_set(err, ENOEXEC, "has its entry point 0x%llx outside of all segments",
		       (unsigned long long)entry);
}

int elf_parse(const uint8_t *head, size_t len_bytes, uint64_t file_bytes,
	      struct elf_image *ret_image, struct err *err)
{
	struct elf_image image = {.start = UINT64_MAX};
	Elf64_Ehdr eh;
	int r;

	if (len_bytes < sizeof(eh))
		return err_set(err, EBADMSG, "is truncated: it ends within its ELF header");
	r = check_ident(head, err);
	if (r < 0)
		return r;
	memcpy(&eh, head, sizeof(eh));

	uint64_t at = le64toh(eh.e_phoff);
	unsigned n = le16toh(eh.e_phnum);
	uint64_t phdrs_bytes = n * sizeof(Elf64_Phdr);

	if (!n || le16toh(eh.e_phentsize) != sizeof(Elf64_Phdr))
		return err_set(err, ENOEXEC, "has no program headers that say where it is loaded");
	if (!ck_range(at, phdrs_bytes, file_bytes))
		return err_set(err, EBADMSG, "is truncated: it ends before its program headers");
	if (!ck_range(at, phdrs_bytes, len_bytes))
		return err_set(err, ENOEXEC,
			       "has its program headers at 0x%llx; they must be in the first 0x%zx "
			       "bytes",
			       (unsigned long long)at, len_bytes);
	for (unsigned i = 0; i < n; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, head + at + i * sizeof(ph), sizeof(ph));
		if (le32toh(ph.p_type) != PT_LOAD)
			continue;
		r = take_segment(&image, &ph, file_bytes, err);
		if (r < 0)
			return r;
	}
	if (!image.nsegments)
		return err_set(err, ENOEXEC, "has nothing to load");
	r = take_entry(&image, le64toh(eh.e_entry), head + at, n, err);
	if (r < 0)
		return r;
	*ret_image = image;
	return 0;
}

int elf_fits(const struct elf_image *image, const struct gmem *mem, struct err *err)
{
	return kernel_fits(mem, image->start, image->end, err);
}

int elf_place(const struct elf_image *image, const struct gmem *mem, uint64_t offset,
	      const uint8_t *data, uint64_t len_bytes)
{
	for (unsigned i = 0; i < image->nsegments; i++) {
		const struct elf_segment *seg = &image->segments[i];
		uint64_t from = MAX(offset, seg->file_offset);
		uint64_t to = MIN(offset + len_bytes, seg->file_offset + seg->file_bytes);

		if (from >= to)
			continue;

		int r = place_bytes(mem, seg->gpa + (from - seg->file_offset),
				    data + (from - offset), to - from);

		if (r < 0)
			return r;
	}
	return 0;
}
