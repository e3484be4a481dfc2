# shellcheck shell=bash
# The root of a termina component, from Debian's packages: LXD, btrfs' tools, and the modules of Debian's
# kernel; it is never written to. Sourced after common.sh and debian.sh.

LAB_TERMINA_SIZE=1500M

LAB_TERMINA_PACKAGES=(
	btrfs-progs dbus dnsmasq-base iproute2 iputils-ping kmod lxd lxd-client nftables procps squashfs-tools
	systemd-sysv udev util-linux
)

# termina_root_build DIR: DIR/termina.img
termina_root_build() {
	local dir=$1 tree=$1/tree kernel unit

	need_packages e2fsprogs
	kernel=$(debian_kernel)
	debian_tree "$tree" "${LAB_TERMINA_PACKAGES[@]}"
	rm -rf "$tree"/usr/share/{doc,man,locale,info,lintian} "$tree"/usr/lib/modules
	cp -a "$kernel/lib/modules" "$tree/usr/lib/"
	echo termina >"$tree/etc/hostname"
	in_tree "$tree" passwd -d root
	# the start of the VM runs LXD, with its data on the stateful disk; the console is the log
	for unit in lxd.service lxd.socket lxd-startup.service lxd-containers.service lxd-agent.service \
		serial-getty@ttyS0.service; do
		ln -sfn /dev/null "$tree/etc/systemd/system/$unit"
	done
	printf '%s\n' fuse >"$tree/etc/modules-load.d/termina.conf"
	printf 'root:1000000:65536\n' | tee "$tree/etc/subuid" >"$tree/etc/subgid"
	mkdir -p "$tree"/mnt/{stateful,shared} "$tree/var/lib/lxcfs"
	step "making the root of the termina component" \
		mke2fs -q -t ext4 -d "$tree" "$dir/termina.img" "$LAB_TERMINA_SIZE"
	rm -rf "$tree"
}

termina_key() {
	hash_of "$LAB_TERMINA_SIZE" "${LAB_TERMINA_PACKAGES[@]}" "$(debian_tree_recipe)" "$(debian_kernel)" \
		"$(declare -f termina_root_build)"
}

# termina_root: prints its directory, built when it is missing.
termina_root() {
	cached termina-root "$(termina_key)" termina_root_build
}

# termina_root_if_kept: likewise; of a foreign architecture, where it takes many minutes, nothing unless
# `guest-image --termina` has built it.
termina_root_if_kept() {
	local dir
	dir=$(cache_path termina-root "$(termina_key)")
	if is_native || [ -d "$dir" ]; then
		termina_root
	fi
}
