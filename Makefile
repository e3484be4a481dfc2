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

BASE := err log json gmem loop loop_spin loop_uring loop_ring loop_epoll loop_try loop_workers loop_pool

DISK := image lock raw raw_probe raw_io raw_sync raw_map \
	qcow2/header qcow2/extension qcow2/file qcow2/cache qcow2/l2 qcow2/refcount qcow2/alloc \
	qcow2/commit qcow2/writeback qcow2/table qcow2/engine qcow2/read qcow2/split qcow2/compressed qcow2/inflate qcow2/write qcow2/link qcow2/zero_discard \
	qcow2/open qcow2/backing qcow2/map qcow2/names qcow2/tools qcow2/create qcow2/resize qcow2/check qcow2/repair \
	qcow2/snapshot qcow2/store
DISK += raw_tools copy copy_runs create_file

DEVICES := bus platform \
	legacy/uart legacy/uart_tx legacy/i8042 legacy/rtc legacy/pvpanic legacy/acpi_pm \
	pci/pci_dev pci/pci_host pci/msix \
	virtio/virtq virtio/virtio virtio/virtio_pci virtio/virtio_pci_common virtio/virtio_mmio virtio/virtio_loop \
	virtio/blk virtio/blk_request virtio/rng

VMM := config cmdline kvm vcpu memory irq exits thread \
	machine machine_devices machine_boot machine_io machine_end \
	boot/kernel boot/bzimage boot/elf boot/unpack boot/unlz4 boot/place boot/initramfs boot/cpio boot/modules \
	x86/boot x86/cpu x86/cpuid x86/cpu_features x86/acpi x86/dsdt x86/aml x86/e820 x86/speed

CONTROL := main cmd_run cmd_doctor parse options options_disk escape tty console \
	doctor doctor_kvm doctor_io doctor_memory \
	cmd_disk disk/args disk/progress disk/job disk/options disk/new_image disk/backing disk/create disk/info disk/check disk/resize \
	disk/convert disk/map disk/rebase disk/commit disk/snapshot disk/discard

# unit tests: tests/unit/<floor>/<name>.c, linked with that floor and those below
TESTS_BASE    := test_err test_log test_json test_bytes test_checked test_gmem test_loop \
	test_loop_stream test_loop_event test_loop_pool
TESTS_DISK    := test_raw test_raw_open test_raw_fault test_qcow2_fault test_qcow2_crash test_qcow2_images test_qcow2_header \
	test_qcow2_cache test_qcow2_refcount test_qcow2_map test_qcow2_repair test_qcow2_tools test_qcow2_data_file
TESTS_DISK    += test_copy test_create_file test_raw_tools
TESTS_VIRTIO  := test_virtq test_virtq_notify test_virtio test_virtio_notify test_virtio_hostile \
	test_blk test_blk_requests test_blk_queues test_blk_raw test_rng
TESTS_DEVICES := test_bus test_uart test_i8042 test_rtc test_pvpanic test_acpi_pm test_pci \
	$(TESTS_VIRTIO)
TESTS_VMM     := test_config test_unpack test_kernel test_kernel_bad test_initramfs test_cpuid test_acpi
TESTS_CONTROL := test_parse test_options test_console test_doctor test_disk_args

# libFuzzer targets: tests/fuzz/<name>.c
FUZZ := fuzz_virtq fuzz_blk fuzz_kernel fuzz_devices fuzz_qcow2_read fuzz_qcow2_write \
	fuzz_qcow2_header fuzz_qcow2_snapshot fuzz_qcow2_tables

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
$(B)/libcontrol.a: $(filter-out %/main.o,$(CONTROL_O))

%.a:
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

LIBS_BASE    := $(B)/libbase.a
LIBS_DISK    := $(B)/libdisk.a $(LIBS_BASE)
LIBS_DEVICES := $(B)/libdevices.a $(LIBS_DISK)
LIBS_VMM     := $(B)/libvmm.a $(LIBS_DEVICES)
LIBS_CONTROL := $(B)/libcontrol.a $(LIBS_VMM)

$(B)/lodge: $(CONTROL_O) $(LIBS_VMM) $(B)/.floors-ok
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(CONTROL_O) $(LIBS_VMM) $(LDLIBS)

$(B)/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

-include $(patsubst %.o,%.d,$(BASE_O) $(DISK_O) $(DEVICES_O) $(VMM_O) $(CONTROL_O))

# ---- guest: what runs inside, static, embedded into the executable ------------------------------

GUEST_INIT := main say conf modules root handover

# musl comes without the kernel's headers: link the three folders of the host's
LINUX_INCLUDE := $(B)/linux-include
GUEST_CFLAGS := -std=gnu17 -Os -g $(WARN) -I. -isystem $(LINUX_INCLUDE) -D_GNU_SOURCE \
	-ffunction-sections -fdata-sections

$(LINUX_INCLUDE)/.ok:
	$(Q)mkdir -p $(@D) && ln -sfn /usr/include/linux $(@D)/linux && ln -sfn /usr/include/asm-generic $(@D)/asm-generic && \
		ln -sfn /usr/include/$$($(CC) -print-multiarch)/asm $(@D)/asm && touch $@

GUEST_INIT_O := $(patsubst %,$(B)/guest/init/%.o,$(GUEST_INIT))

$(B)/guest/init/%.o: guest/init/%.c | $(LINUX_INCLUDE)/.ok
	$(call say,MUSL,$<)
	$(Q)mkdir -p $(@D) && $(MUSL_CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/guest/init/init: $(GUEST_INIT_O)
	$(call say,LD,$@)
	$(Q)$(MUSL_CC) -static -Wl,--gc-sections -Wl,-z,noseparate-code -s -o $@ $^

$(B)/guest/init_blob.o: guest/init_blob.S $(B)/guest/init/init
	$(call say,AS,$<)
	$(Q)mkdir -p $(@D) && $(CC) -I$(B)/guest/init -c -o $@ $<

-include $(GUEST_INIT_O:.o=.d)

# ---- tests --------------------------------------------------------------------------------------

define unit_rule
$(B)/tests/unit/$(2): $(B)/tests/unit/$(2).o $(3) $$(LIBS_$(1))
	$$(call say,LD,$$@)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) -o $$@ $$(filter %.o,$$^) $$(LIBS_$(1)) -lcmocka $$(LDLIBS)
UNIT += $(B)/tests/unit/$(2)
-include $(B)/tests/unit/$(2).d
endef

# a device under test stands on plain memory and recorded interrupts
FAKE_PLATFORM := $(B)/tests/unit/fake_platform.o

$(foreach t,$(TESTS_BASE),$(eval $(call unit_rule,BASE,$(t),)))
$(foreach t,$(TESTS_DISK),$(eval $(call unit_rule,DISK,$(t),)))
$(foreach t,$(TESTS_DEVICES),$(eval $(call unit_rule,DEVICES,$(t),$(FAKE_PLATFORM))))

# and virtio devices on a driver of the tests' own
VIRTIO_DRIVER := tests/unit/virtio_driver.o
$(addprefix $(B)/tests/unit/,$(TESTS_VIRTIO)): $(B)/$(VIRTIO_DRIVER)
$(addprefix $(B)/tests/unit/,$(filter test_blk%,$(TESTS_VIRTIO))): $(addprefix $(B)/tests/unit/,blk_rig.o fake_image.o)
-include $(addprefix $(B)/tests/unit/,fake_platform.d virtio_driver.d blk_rig.d fake_image.d)

$(foreach t,$(TESTS_VMM),$(eval $(call unit_rule,VMM,$(t),)))
$(foreach t,$(TESTS_CONTROL),$(eval $(call unit_rule,CONTROL,$(t),)))

# a qcow2 image under random requests; tests/disk/run has qemu-img judge
$(B)/tests/disk/torture: $(B)/tests/disk/torture.o $(LIBS_DISK)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIBS_DISK) $(LDLIBS)
-include $(B)/tests/disk/torture.d

.PHONY: unit
unit: $(UNIT)
	$(Q)tests/run-unit $(UNIT)

FUZZ_BINS := $(patsubst %,$(B)/fuzz/%,$(FUZZ))
FUZZ_LIB  := $(patsubst %,%.c,$(addprefix base/,$(BASE)) $(addprefix disk/,$(DISK)) \
	$(addprefix devices/,$(DEVICES)) $(addprefix vmm/boot/,kernel bzimage elf unpack unlz4 place))
FUZZ_OBJS := $(patsubst %.c,$(B)/fuzz/obj/%.o,$(FUZZ_LIB))

$(B)/fuzz/obj/%.o: %.c
	$(call say,FUZZCC,$<)
	$(Q)mkdir -p $(@D) && $(CLANG) $(CPPFLAGS) -std=gnu17 -O1 -g -fPIE -pthread \
		-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -MMD -MP -c -o $@ $<

$(B)/fuzz/%: $(B)/fuzz/obj/tests/fuzz/%.o $(FUZZ_OBJS)
	$(call say,LD,$@)
	$(Q)$(CLANG) -fsanitize=fuzzer,address,undefined -pthread -o $@ $^ $(LDLIBS)

# as the unit tests of devices do
$(addprefix $(B)/fuzz/,fuzz_virtq fuzz_blk): \
	$(addprefix $(B)/fuzz/obj/,$(VIRTIO_DRIVER) tests/unit/fake_platform.o)

# stands on the same platform as the unit tests
$(B)/fuzz/fuzz_devices: $(B)/fuzz/obj/tests/unit/fake_platform.o

-include $(FUZZ_OBJS:.o=.d) $(patsubst %,$(B)/fuzz/obj/tests/fuzz/%.d,$(FUZZ))

.PHONY: fuzz
fuzz: $(FUZZ_BINS)
.SECONDARY:

# ---- payloads: tiny programs that direct tests boot on /dev/kvm instead of a kernel ----------------

PAYLOADS := hello reset triple-fault panic button spin hostile blk
PAYLOAD_LIB := start lib pci

PAYLOAD_CFLAGS := -std=gnu17 -O2 -g $(WARN) -ffreestanding -nostdlib -static -fno-pic -no-pie -mno-sse \
	-mno-red-zone -mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
	-fno-asynchronous-unwind-tables -Iguest/payload/lib
PAYLOAD_LIB_O := $(patsubst %,$(B)/payload/lib/%.o,$(PAYLOAD_LIB))

$(B)/payload/%.o: guest/payload/%.c
	$(call say,PAYLOAD,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(PAYLOAD_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/payload/%.o: guest/payload/%.S
	$(call say,PAYLOAD,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(PAYLOAD_CFLAGS) -c -o $@ $<

$(B)/payload/%.elf: $(B)/payload/%.o $(PAYLOAD_LIB_O) guest/payload/lib/payload.ld
	$(call say,LD,$@)
	$(Q)$(CC) $(PAYLOAD_CFLAGS) -Wl,-T,guest/payload/lib/payload.ld -Wl,--build-id=none \
		-Wl,--no-warn-rwx-segments -o $@ $(filter %.o,$^)

-include $(patsubst %,$(B)/payload/%.d,$(PAYLOADS)) $(PAYLOAD_LIB_O:.o=.d)

DIRECT := test_machine

$(B)/tests/direct/%: $(B)/tests/direct/%.o $(B)/tests/direct/direct.o $(LIBS_VMM)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIBS_VMM) -lcmocka $(LDLIBS)

-include $(patsubst %,$(B)/tests/direct/%.d,$(DIRECT))

.PHONY: payloads direct direct-build
payloads: $(patsubst %,$(B)/payload/%.elf,$(PAYLOADS))

direct-build: payloads $(patsubst %,$(B)/tests/direct/%,$(DIRECT))

direct: direct-build
	$(Q)B=$(B) tests/direct/run $(DIRECT)

# ---- checks ---------------------------------------------------------------------------------------

# what the house rules forbid fails the build, not a review
$(B)/.floors-ok: tests/check-floors $(wildcard base/*.[ch] disk/*.[ch] disk/*/*.[ch] devices/*.[ch] devices/*/*.[ch] \
		vmm/*.[ch] vmm/*/*.[ch] control/*.[ch] control/*/*.[ch])
	$(call say,CHECK,floors)
	$(Q)mkdir -p $(@D) && tests/check-floors && touch $@

SOURCES = $(shell git ls-files -co --exclude-standard '*.c' '*.h')

.PHONY: fmt fmt-check lint
fmt:
	$(Q)clang-format -i $(SOURCES)

fmt-check:
	$(Q)clang-format --dry-run -Werror $(SOURCES)

lint: fmt-check
	$(Q)tests/check-floors
	$(Q)cppcheck --quiet --std=c11 --inline-suppr --error-exitcode=1 --enable=warning,portability,performance \
		--suppressions-list=tests/lint/cppcheck.suppress -I. -D_GNU_SOURCE base disk devices vmm control guest/init
	$(Q)clang-tidy --quiet --warnings-as-errors='*' \
		$(filter-out tests/% guest/%,$(filter %.c,$(SOURCES))) -- -std=gnu17 $(CPPFLAGS) 2>tests/lint/.log || \
		{ cat tests/lint/.log; exit 1; }
	$(Q)rm -f tests/lint/.log
	$(Q)shellcheck -x -e SC2187 $$(git ls-files -co --exclude-standard tests .ci | xargs grep -lE '^#!.*(ba)?sh' )

.PHONY: check
check:
	$(Q)tests/check

.PHONY: demo
demo:
	$(Q)tests/demo

# ---- benchmarks -----------------------------------------------------------------------------------

BENCH := $(B)/bench/init $(B)/bench/first_line $(B)/bench/disk_bench

# the host's side of a disk, without a guest
$(B)/bench/disk_bench: $(B)/tests/bench/disk_bench.o $(LIBS_DISK)
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIBS_DISK) $(LDLIBS)
-include $(B)/tests/bench/disk_bench.d

$(B)/bench/%: tests/bench/%.c | $(LINUX_INCLUDE)/.ok
	$(call say,MUSL,$<)
	$(Q)mkdir -p $(@D) && $(MUSL_CC) $(GUEST_CFLAGS) -static -s -o $@ $<

.PHONY: bench bench-build
bench-build: all $(BENCH) $(B)/payload/blk.elf

bench: bench-build
	$(Q)tests/bench/bench

# ---- guest tests ----------------------------------------------------------------------------------

# /init of the guests that tests/guest boots
GUEST_TEST := main facts end console pattern blk blkio vdev rig ring_cases rings poke

GUEST_TEST_O := $(patsubst %,$(B)/tests/guest/init/%.o,$(GUEST_TEST))

$(B)/tests/guest/init/%.o: tests/guest/init/%.c | $(LINUX_INCLUDE)/.ok
	$(call say,MUSL,$<)
	$(Q)mkdir -p $(@D) && $(MUSL_CC) $(GUEST_CFLAGS) -pthread -MMD -MP -c -o $@ $<

$(B)/tests/guest/guest-init: $(GUEST_TEST_O)
	$(call say,LD,$@)
	$(Q)$(MUSL_CC) -static -pthread -Wl,--gc-sections -s -o $@ $^

-include $(GUEST_TEST_O:.o=.d)

.PHONY: guest-tests guest-init
guest-init: $(B)/tests/guest/guest-init
guest-tests:
	$(Q)tests/guest/run

# ---- packages, installation -----------------------------------------------------------------------

DEPS_BUILD := gcc make pkg-config musl-tools liburing-dev zlib1g-dev libzstd-dev liblz4-dev liblzma-dev
DEPS_TEST  := libcmocka-dev clang libclang-rt-14-dev clang-format clang-tidy cppcheck shellcheck mandoc \
	acpica-tools qemu-utils cpio python3 e2fsprogs

.PHONY: deps deps-build
deps:
	$(Q)tests/install-packages $(DEPS_BUILD) $(DEPS_TEST)

deps-build:
	$(Q)tests/install-packages $(DEPS_BUILD)

MAN := $(wildcard man/*.[18])

.PHONY: install
install: $(B)/lodge
	install -D -m 0755 $(B)/lodge $(DESTDIR)$(PREFIX)/bin/lodge
	for page in $(MAN); do \
		install -D -m 0644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit; done
	install -D -m 0644 control/completion/lodge.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lodge
	install -D -m 0644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/lodge/LICENSE

.PHONY: clean help
clean:
	rm -rf build

help:
	@echo 'make              build/lodge            make SAN=asan|tsan   build/asan/lodge, build/tsan/lodge'
	@echo 'make STATIC=1     build/static/lodge     make WERROR=1        warnings are errors'
	@echo 'make deps         install the packages   make install         PREFIX=$(PREFIX) DESTDIR='
	@echo 'make demo         boot a Debian guest    make check           every test'
	@echo 'make unit         unit tests             make fuzz            build the fuzzers'
	@echo 'make fmt          format                 make lint            format, clang-tidy, cppcheck, shellcheck'
	@echo 'make bench        figures beside QEMU    make clean'
