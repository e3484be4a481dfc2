# shellcheck shell=bash
# Debian trees and kernels, from the sources that this machine is configured with: the addresses
# are read from apt when a tree is built and stand in no file of ours.  Sourced after common.sh.

LAB_SUITE=bookworm

# debian_sources: `URI suite component` for each Debian source of LAB_SUITE and its updates.
debian_sources() {
	apt_lists
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)' \
		'Created-By: Packages' |
		awk -v suite="$LAB_SUITE" '
			$1 == "Debian" && ($2 == suite || index($2, suite "-") == 1) { print $3, $4, $5 }' |
		sort -u
}

# debian_mirror: the address of the archive that has LAB_SUITE itself.
debian_mirror() {
	debian_sources | awk -v suite="$LAB_SUITE" '$2 == suite && $3 == "main" { print $1; exit }'
}

# in_tree TREE COMMAND...: runs a command in a Debian tree, in namespaces of its own, so that no
# process and no mount outlives it.  Downloaded packages are kept in the cache.
in_tree() {
	local tree=$1 enter=(unshare --mount --pid --fork --kill-child)
	shift
	mkdir -p "$LAB_CACHE/debs/partial"
	is_native || enter=("$LAB_DIR/lib/foreign" "$LAB_ARCH")
	# shellcheck disable=SC2016 # expanded by the inner shell
	"${enter[@]}" sh -euc '
		tree=$1 debs=$2
		shift 2
		mount -t proc proc "$tree/proc"
		mount --bind "$debs" "$tree/var/cache/apt/archives"
		[ ! -e /etc/resolv.conf ] || { : >>"$tree/etc/resolv.conf"
			mount --bind /etc/resolv.conf "$tree/etc/resolv.conf"; }
		exec chroot "$tree" env -i HOME=/root LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin \
			DEBIAN_FRONTEND=noninteractive ${container:+container="$container"} ${http_proxy:+http_proxy="$http_proxy"} "$@"
		' sh "$tree" "$LAB_CACHE/debs" "$@"
}

# debian_bootstrap TREE MIRROR: of a foreign architecture in two stages, the second one in the tree.
debian_bootstrap() {
	local options=(--variant=minbase "--cache-dir=$LAB_CACHE/debs" "--arch=$LAB_DEB_ARCH")
	is_native || options+=(--foreign)
	debootstrap "${options[@]}" "$LAB_SUITE" "$1" "$2" || return
	# It makes no device nodes where it sees a container; the first stage has made them.
	is_native || container=lxc in_tree "$1" /debootstrap/debootstrap --second-stage
}

# debian_base_build DIR: a minimal Debian tree, packed as DIR/base.tar.
debian_base_build() {
	local tree=$1/tree mirror
	[ "$(id -u)" = 0 ] || die "the first run builds the lab's images and must be root"
	need_packages debootstrap e2fsprogs
	mirror=$(debian_mirror)
	[ -n "$mirror" ] || die "apt on this machine has no source for Debian $LAB_SUITE; add one to /etc/apt"
	mkdir -p "$LAB_CACHE/debs/partial"
	step "debootstrap $LAB_SUITE" debian_bootstrap "$tree" "$mirror"
	tar -C "$tree" --numeric-owner -cf "$1/base.tar" .
	rm -rf "$tree"
}

debian_base() {
	cached base "$(hash_of "$LAB_SUITE" "$(declare -f debian_base_build debian_bootstrap)")" debian_base_build
}

# debian_tree TREE PACKAGE...: unpacks the base into TREE and installs packages there, with the
# machine's own apt settings and sources; both are put back afterwards to what a plain Debian has.
debian_tree() {
	local tree=$1 base
	shift
	base=$(debian_base)
	mkdir -p "$tree"
	tar -C "$tree" --numeric-owner -xf "$base/base.tar"
	apt-config dump Acquire | grep -v 'Acquire::\(IndexTargets\|Changelogs\|cdrom\)' \
		>"$tree/etc/apt/apt.conf.d/00lab-build"
	printf 'Dpkg::Options { "--force-unsafe-io"; };\n' >>"$tree/etc/apt/apt.conf.d/00lab-build"
	printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
	chmod 755 "$tree/usr/sbin/policy-rc.d"
	cp "$tree/etc/apt/sources.list" "$tree/etc/apt/sources.list.plain"
	debian_sources | sed 's/^/deb /' >"$tree/etc/apt/sources.list"

	step "apt-get update in the tree" in_tree "$tree" apt-get update
	step "installing $# packages in the tree" in_tree "$tree" \
		apt-get install -y --no-install-recommends "$@"

	mv "$tree/etc/apt/sources.list.plain" "$tree/etc/apt/sources.list"
	rm -f "$tree/usr/sbin/policy-rc.d" "$tree/etc/apt/apt.conf.d/00lab-build"
	rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/log/*.log
	: >"$tree/etc/resolv.conf"
	: >"$tree/etc/machine-id"
}

# debian_tree_recipe: what the content of a tree depends on, apart from its packages.
debian_tree_recipe() {
	printf '%s\n' "$LAB_SUITE"
	declare -f debian_base_build debian_bootstrap debian_tree in_tree
}

# apt_options DIR: sets LAB_APT to options with which apt knows the lab's architecture: none on a machine of it;
# otherwise lists of its own in DIR, from the machine's sources, so that the machine's settings stay as they are.
apt_options() {
	LAB_APT=()
	! is_native || return 0
	mkdir -p "$1"/{lists/partial,cache/archives/partial}
	: >"$1/status"
	chmod -R 777 "$1" # apt drops privileges to download
	LAB_APT=(-o "APT::Architecture=$LAB_DEB_ARCH" -o "APT::Architectures=$LAB_DEB_ARCH" -o "Dir::State::lists=$1/lists"
		-o "Dir::State::status=$1/status" -o "Dir::Cache=$1/cache")
	step "apt-get update for $LAB_DEB_ARCH" apt-get "${LAB_APT[@]}" update
}

# debian_kernel_build DIR: Debian's cloud kernel, unpacked: DIR/vmlinuz, DIR/config,
# DIR/version and DIR/lib/modules/<version>/ with its modules.dep.
debian_kernel_build() {
	local dir=$1 image name=linux-image-cloud-$LAB_DEB_ARCH
	need_packages kmod
	apt_lists
	apt_options "$dir/apt"
	image=$(apt-cache "${LAB_APT[@]}" depends "$name" | awk '$1 == "Depends:" { print $2; exit }')
	[ -n "$image" ] || die "apt on this machine does not know $name"
	mkdir "$dir/deb"
	chmod 777 "$dir/deb"
	# shellcheck disable=SC2016
	step "downloading $image" sh -c 'cd "$1" && shift && apt-get "$@"' sh "$dir/deb" "${LAB_APT[@]}" download "$image"
	rm -rf "$dir/apt"
	dpkg-deb -x "$dir"/deb/*.deb "$dir/deb/x"
	mv "$dir"/deb/x/boot/vmlinuz-* "$dir/vmlinuz"
	mv "$dir"/deb/x/boot/config-* "$dir/config"
	mv "$dir/deb/x/lib" "$dir/lib"
	[ "$LAB_ARCH" != arm64 ] || gzip -nk "$dir/vmlinuz" # a raw Image there; bootloaders get it so, too
	rm -rf "$dir/deb"
	basename "$dir"/lib/modules/* >"$dir/version"
	depmod -b "$dir" "$(cat "$dir/version")"
}

debian_kernel() {
	cached kernel "$(hash_of "$LAB_SUITE" "$(declare -f debian_kernel_build apt_options)")" debian_kernel_build
}
