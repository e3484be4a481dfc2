# lodge: one non-recursive Makefile. `make help` lists the targets.
#
#   make [SAN=asan|tsan] [STATIC=1] [WERROR=1] [V=1]
#
# One static library per floor. A test links its own floor and those below it, so that a call upward
# does not link; tests/check-floors looks at the includes as well.

SAN     ?=
STATIC  ?=
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= cc
CLANG   ?= clang
MUSL_CC ?= musl-gcc

B := build$(if $(SAN),/$(SAN))$(if $(STATIC),/static)

# ---- sources, floor by floor ------------------------------------------------------------------

BASE := err log gmem loop loop_uring loop_epoll

DISK := image raw

DEVICES := bus platform \
	legacy/uart legacy/i8042 legacy/rtc legacy/pvpanic legacy/acpi_pm \
	pci/pci_dev pci/pci_host pci/msix \
	virtio/virtq virtio/virtio virtio/virtio_pci virtio/virtio_mmio virtio/blk virtio/rng

VMM := config machine kvm vcpu memory irq exits \
	boot/kernel boot/bzimage boot/elf boot/unpack boot/initramfs boot/modules \
	x86/boot x86/cpuid x86/acpi x86/e820

CONTROL := main cmd_run cmd_doctor options console doctor

# unit tests: tests/unit/<floor>/<name>.c, linked with that floor and those below
TESTS_BASE    := test_err test_log test_bytes test_checked test_gmem test_loop
TESTS_DISK    := test_raw
TESTS_DEVICES := test_bus test_uart test_i8042 test_rtc test_pvpanic test_acpi_pm test_pci \
	test_virtq test_virtio test_blk test_rng
TESTS_VMM     := test_config test_kernel test_initramfs test_cpuid test_acpi
TESTS_CONTROL := test_options

# libFuzzer targets: tests/fuzz/<name>.c
FUZZ := fuzz_virtq fuzz_kernel

# ---- flags ------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wshadow -Wcast-qual -Wvla -Wmissing-prototypes -Wstrict-prototypes \
	-Wimplicit-fallthrough $(if $(WERROR),-Werror)
OPT  := -O2 -g
CPPFLAGS += -I. -I$(B) -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64
CFLAGS   += -std=gnu17 $(OPT) $(WARN) -fno-strict-aliasing -fstack-protector-strong -fPIE -pthread \
	-ffunction-sections -fdata-sections
LDFLAGS  += -pthread -Wl,--gc-sections -Wl,-z,relro,-z,now $(if $(STATIC),-static-pie,-pie -Wl,--as-needed)
LDLIBS   := -luring -lz -lzstd -llz4 -llzma

ifeq ($(SAN),asan)
CFLAGS  += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
LDFLAGS += -fsanitize=address,undefined
else ifeq ($(SAN),tsan)
CFLAGS  += -fsanitize=thread -fno-omit-frame-pointer
LDFLAGS += -fsanitize=thread
else ifneq ($(SAN),)
$(error SAN=$(SAN): asan or tsan)
endif
ifeq ($(SAN),)
CPPFLAGS += $(if $(NO_FORTIFY),,-D_FORTIFY_SOURCE=2)
endif

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2))

# ---- build ------------------------------------------------------------------------------------

.PHONY: all
all: $(B)/lodge

obj = $(patsubst %,$(B)/$(1)/%.o,$(2))

BASE_O    := $(call obj,base,$(BASE))
DISK_O    := $(call obj,disk,$(DISK))
DEVICES_O := $(call obj,devices,$(DEVICES))
VMM_O     := $(call obj,vmm,$(VMM)) $(B)/guest/init_blob.o
CONTROL_O := $(call obj,control,$(CONTROL))

$(B)/libbase.a: $(BASE_O)
$(B)/libdisk.a: $(DISK_O)
$(B)/libdevices.a: $(DEVICES_O)
$(B)/libvmm.a: $(VMM_O)

%.a:
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

LIBS_BASE    := $(B)/libbase.a
LIBS_DISK    := $(B)/libdisk.a $(LIBS_BASE)
LIBS_DEVICES := $(B)/libdevices.a $(LIBS_DISK)
LIBS_VMM     := $(B)/libvmm.a $(LIBS_DEVICES)

$(B)/lodge: $(CONTROL_O) $(LIBS_VMM) $(B)/.floors-ok
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(CONTROL_O) $(LIBS_VMM) $(LDLIBS)

$(B)/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

-include $(patsubst %.o,%.d,$(BASE_O) $(DISK_O) $(DEVICES_O) $(VMM_O) $(CONTROL_O))
