# shellcheck shell=bash
# What guests of the lab boot: Debian's cloud kernel with its modules, and an unprepared Debian
# root file system; and the disk on which L1 sees them.  Sourced after common.sh, debian.sh and tiny.sh.

LAB_GUEST_ROOT_SIZE=2G
# L1's view of the artefacts has a fixed size, so that a snapshot fits any content.
LAB_GUEST_DISK_SIZE=6G

LAB_GUEST_PACKAGES=(
	dbus e2fsprogs fio iperf3 iproute2 iputils-ping kmod procps systemd-sysv udev util-linux
)

# guest_root_build DIR: DIR/debian.img, a Debian as debootstrap makes it, plus a host name and an
# empty root password.  Nothing in it knows of lodge.
guest_root_build() {
	local dir=$1 tree=$1/tree

	need_packages e2fsprogs
	debian_tree "$tree" "${LAB_GUEST_PACKAGES[@]}"
	echo guest >"$tree/etc/hostname"
	in_tree "$tree" passwd -d root
	step "making the guest's root file system" \
		mke2fs -q -t ext4 -d "$tree" "$dir/debian.img" "$LAB_GUEST_ROOT_SIZE"
	rm -rf "$tree"
}

guest_root() {
	cached guest-root "$(hash_of "$LAB_GUEST_ROOT_SIZE" "${LAB_GUEST_PACKAGES[@]}" "$(debian_tree_recipe)" \
		"$(declare -f guest_root_build)")" guest_root_build
}

# guest_disk_build DIR: DIR/guest.img, what L1 mounts at /lab/guest.
guest_disk_build() {
	local dir=$1 tree=$1/tree kernel root termina variant tiny
	kernel=$(debian_kernel)
	root=$(guest_root)
	termina=$(termina_root_if_kept)
	mkdir -p "$tree"
	cp -a "$kernel"/{vmlinuz,config,lib} "$tree/"
	[ ! -e "$kernel/vmlinuz.gz" ] || cp "$kernel/vmlinuz.gz" "$tree/"
	ln -s lib/modules "$tree/modules"
	cp --sparse=always "$root/debian.img" "$tree/debian.img"
	[ -z "$termina" ] || cp --sparse=always "$termina/termina.img" "$tree/termina.img"
	for variant in "${LAB_TINY_VARIANTS[@]}"; do
		tiny=$(tiny_built "$variant")
		[ -z "$tiny" ] || cp -RT "$tiny" "$tree/$variant"
	done
	step "making the disk of guest artefacts" \
		mke2fs -q -t ext4 -O '^has_journal' -m 0 -L guest -d "$tree" "$dir/guest.img" "$LAB_GUEST_DISK_SIZE"
	rm -rf "$tree"
}

guest_disk() {
	local kernel root termina variant built=()
	kernel=$(debian_kernel)
	root=$(guest_root)
	termina=$(termina_root_if_kept)
	for variant in "${LAB_TINY_VARIANTS[@]}"; do
		built+=("$(tiny_built "$variant")")
	done
	cached guest-disk "$(hash_of "$LAB_GUEST_DISK_SIZE" "$kernel" "$root" "$termina" "${built[@]}" \
		"$(declare -f guest_disk_build)")" guest_disk_build
}
