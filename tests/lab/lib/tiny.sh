# shellcheck shell=bash
# Minimal guest kernels, built from Debian's kernel source. Variants: `tiny`, for benchmarks and fast tests, and on
# x86-64 `fdt`, which knows its machine from a device tree alone. Sourced after common.sh and debian.sh.

LAB_TINY_SOURCE=linux-source-6.1

# Sources that these kernels do not read, 3/4 of all; their Kconfig files they do read.
LAB_TINY_UNUSED_EVERYWHERE=(
	'*/Documentation/*.rst' '*/Documentation/*.yaml' '*/Documentation/*.txt' '*/Documentation/*.svg'
	'*/arch/*/*.dts*' '*/sound/*.[ch]'
	'*/drivers/gpu/*.[ch]' '*/drivers/infiniband/*.[ch]' '*/drivers/media/*.[ch]'
	'*/drivers/net/ethernet/*.[ch]' '*/drivers/net/wireless/*.[ch]' '*/drivers/scsi/*.[ch]'
	'*/drivers/staging/*.[ch]' '*/drivers/usb/*.[ch]' '*/tools/testing/*' '*/tools/perf/*'
)

# tiny_fragments VARIANT: the files that its configuration is made of.
tiny_fragments() {
	local special=$LAB_ARCH
	[ "$1" = tiny ] || special=$1
	printf '%s\n' "$LAB_DIR/tiny-kernel.config" "$LAB_DIR/tiny-kernel-$special.config"
}

# tiny_configure TREE VARIANT: tinyconfig plus our fragments; fails when the kernel did not take a line of them.
tiny_configure() {
	local tree=$1 line status=0 fragments
	mapfile -t fragments < <(tiny_fragments "$2")
	# The choice is there, but without a prompt: on x86-64 nothing selects it.
	sed -i '/^config OF_EARLY_FLATTREE$/,/^$/s/^\tbool$/\tbool "Flattened device tree at boot"/' "$tree/drivers/of/Kconfig"
	make -C "$tree" -s "${LAB_TINY_MAKE[@]}" tinyconfig &&
		(cd "$tree" && scripts/kconfig/merge_config.sh -m .config "${fragments[@]}") &&
		make -C "$tree" -s "${LAB_TINY_MAKE[@]}" olddefconfig || return
	while IFS= read -r line; do
		case $line in
		CONFIG_*) grep -qxF "$line" "$tree/.config" && continue ;;
		'# CONFIG_'*) ! grep -q "^${line:2:-11}=" "$tree/.config" && continue ;;
		*) continue ;;
		esac
		echo "not taken: $line"
		status=1
	done < <(cat "${fragments[@]}")
	return $status
}

# tiny_compile TREE: says now and then how far it is.
tiny_compile() {
	local tree=$1
	export KBUILD_BUILD_TIMESTAMP=2024-01-01 KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab
	make -C "$tree" -j "$(nproc)" "${LAB_TINY_MAKE[@]}" "$LAB_TINY_TARGET" 2>&1 |
		awk -v out=/dev/stderr '/^  [A-Z]/ && ++n % 200 == 0 { print "lab:   " n " steps ..." >out } 1'
}

# tiny_build DIR: of the variant LAB_TINY_VARIANT; LAB_TINY_FILES in DIR, vmlinux stripped, an Image also as Image.gz.
tiny_build() {
	local dir=$1 src=$1/src start=$SECONDS file what="the $LAB_TINY_VARIANT kernel ($LAB_ARCH)"
	need_packages bc binutils bison flex libelf-dev lz4 make xz-utils "${LAB_TINY_PACKAGES[@]}"
	apt_lists
	mkdir "$dir/deb"
	chmod 777 "$dir/deb" # apt drops privileges to download
	# shellcheck disable=SC2016 # expanded by the inner shell
	step "downloading $LAB_TINY_SOURCE" sh -c 'cd "$1" && apt-get download "$2"' sh "$dir/deb" "$LAB_TINY_SOURCE"
	mkdir "$src"
	# shellcheck disable=SC2016 # expanded by the inner shell
	step "unpacking $LAB_TINY_SOURCE" sh -euc 'deb=$1 src=$2
		shift 2
		dpkg-deb --fsys-tarfile "$deb"/*.deb | tar -xO --wildcards "./usr/src/*.tar.xz" |
			tar -xJ -C "$src" --strip-components=1 "$@"
		' sh "$dir/deb" "$src" "${LAB_TINY_UNUSED_EVERYWHERE[@]/#/--exclude=}" "${LAB_TINY_UNUSED[@]/#/--exclude=}"
	rm -rf "$dir/deb"
	step "configuring $what" tiny_configure "$src" "$LAB_TINY_VARIANT"
	say "compiling $what ..."
	tiny_compile "$src" >"$dir/log" || {
		tail -n 30 "$dir/log" >&2
		die "$what does not compile (the end of its output is above)"
	}
	for file in "${LAB_TINY_FILES[@]}"; do
		cp "$src/${file%=*}" "$dir/${file#*=}"
	done
	[ ! -e "$dir/vmlinux" ] || strip "$dir/vmlinux"
	[ ! -e "$dir/Image" ] || gzip -9nk "$dir/Image"
	rm -rf "$src" "$dir/log"
	say "$what is built, in $((SECONDS - start)) s"
}

# tiny_key VARIANT
tiny_key() {
	local fragments
	mapfile -t fragments < <(tiny_fragments "$1")
	hash_of "$1 $LAB_TINY_SOURCE ${LAB_TINY_MAKE[*]} $LAB_TINY_TARGET ${LAB_TINY_FILES[*]}" "${fragments[@]}" \
		"$(declare -f tiny_configure tiny_compile tiny_build)"
}

# tiny_kernel VARIANT: prints the directory of the kernel, built when it is missing (minutes).
tiny_kernel() {
	LAB_TINY_VARIANT=$1
	cached "$1" "$(tiny_key "$1")" tiny_build
}

# tiny_built VARIANT: prints the directory where tests/lab/tiny-kernel has built it, or nothing.
tiny_built() {
	local dir
	dir=$(cache_path "$1" "$(tiny_key "$1")")
	[ ! -d "$dir" ] || printf '%s\n' "$dir"
}

# tiny_assignment VARIANT DIR: how tests find it.
tiny_assignment() {
	case $1 in
	tiny) printf 'LODGE_GUEST_TINY=%s\n' "$2" ;;
	fdt) printf 'LODGE_GUEST_FDT_KERNEL=%s/bzImage\n' "$2" ;;
	esac
}
