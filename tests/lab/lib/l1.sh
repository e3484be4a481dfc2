# shellcheck shell=bash
# The image of the lab's host, L1: a Debian tree as an ext4 image that is never written (L1 puts a
# tmpfs over it), Debian's cloud kernel, and a small boot archive that finds the image.
# Sourced after common.sh and debian.sh.

LAB_L1_IMAGE_SIZE=3G

LAB_L1_PACKAGES=(
	# the host itself, and tools for tests
	bash btrfs-progs busybox-static ca-certificates coreutils dosfstools e2fsprogs erofs-utils expect fdisk gdb-minimal iproute2
	iputils-ping kmod libcap2-bin make nftables procps psmisc python3-minimal socat squashfs-tools strace
	util-linux uuid-runtime xfsprogs xz-utils zstd lz4 bsdextrautils acl attr
	# what lodge is compared with, and load generators
	fio iperf3 nfs-kernel-server passt qemu-utils
	# what lodge starts: one server for each VM that is given a directory
	nfs-ganesha nfs-ganesha-vfs
	# what lodge is linked with, and its sanitizer builds
	libasan8 libcmocka0 libfdt1 liblz4-1 liblzma5 libmnl0 libprotobuf-c1 libseccomp2 libtsan2
	libubsan1 liburing2 libzstd1 zlib1g
)

# l1_root_build DIR: DIR/root.img and DIR/busybox.
l1_root_build() {
	local dir=$1 tree=$1/tree kernel

	need_packages e2fsprogs
	kernel=$(debian_kernel)
	debian_tree "$tree" "${LAB_L1_PACKAGES[@]}" "$LAB_QEMU_PACKAGE"
	rm -rf "$tree"/usr/share/{doc,man,locale,info,lintian}
	cp -a "$kernel/lib/modules" "$tree/usr/lib/"
	mkdir -p "$tree"/lab/{src,out,guest}
	echo lab >"$tree/etc/hostname"
	printf '127.0.0.1 localhost lab\n::1 localhost\n' >"$tree/etc/hosts"
	in_tree "$tree" groupadd -f --system kvm
	cp "$tree/bin/busybox" "$dir/busybox"
	step "making the image of the lab's host" \
		mke2fs -q -t ext4 -O '^has_journal' -m 0 -L lab -d "$tree" "$dir/root.img" "$LAB_L1_IMAGE_SIZE"
	rm -rf "$tree"
}

l1_root() {
	cached l1-root "$(hash_of "$LAB_L1_IMAGE_SIZE" "${LAB_L1_PACKAGES[@]}" "$LAB_QEMU_PACKAGE" "$(debian_tree_recipe)" \
		"$(declare -f l1_root_build)")" l1_root_build
}

# l1_boot_build DIR: DIR/vmlinuz, and DIR/boot.cpio with the modules for the root disk, the agent,
# and what starts it; apart from the root so that a change of these costs no new root.
l1_boot_build() {
	local dir=$1 boot=$1/boot kernel root file

	need_packages cpio kmod
	kernel=$(debian_kernel)
	root=$(l1_root)
	mkdir -p "$boot"/{bin,dev,lab,proc,sys,modules,ro,rw,root}
	cp "$root/busybox" "$boot/bin/busybox"
	cp "$LAB_DIR/l1/boot-init" "$boot/init"
	cp "$LAB_DIR"/l1/{init,agent.py,prepare} "$LAB_DIR/lib/wire.py" "$boot/lab/"
	chmod 755 "$boot/init" "$boot"/lab/{init,agent.py,prepare}
	printf '%s\n' "${LAB_L1_MODULES[@]}" >"$boot/lab/modules"
	modprobe -d "$kernel" -S "$(cat "$kernel/version")" -a --show-depends "${LAB_L1_BOOT_MODULES[@]}" |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
		while read -r file; do
			cp "$file" "$boot/modules/"
			basename "$file" >>"$boot/modules/order"
		done
	(cd "$boot" && find . | LC_ALL=C sort | cpio --quiet --reproducible -R 0:0 -o -H newc) >"$dir/boot.cpio"
	cp "$kernel/vmlinuz" "$dir/vmlinuz"
	rm -rf "$boot"
}

l1_boot() {
	local root
	root=$(l1_root)
	cached l1-boot "$(hash_of "$root" "${LAB_L1_BOOT_MODULES[@]}" "${LAB_L1_MODULES[@]}" "$LAB_DIR/lib/wire.py" "$LAB_DIR"/l1/* \
		"$(declare -f l1_boot_build)")" l1_boot_build
}
