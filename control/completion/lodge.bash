# bash completion for lodge
#
# Words of COMP_WORDBREAKS ('=' and ':') split what is typed; the whole word is put together here
# and the part before the break is taken off the answers again.

# shellcheck shell=bash

# _lodge_words PREFIX WORD CANDIDATE...: those candidates that go on from WORD, behind PREFIX
_lodge_words() {
	local prefix=$1 word=$2 candidate
	shift 2
	for candidate; do
		[[ $candidate == "$word"* ]] && COMPREPLY+=("$prefix$candidate")
	done
}

_lodge_files() { # PREFIX WORD
	local file
	while IFS= read -r file; do
		[[ -d $file ]] && file+=/
		COMPREPLY+=("$1$file")
	done < <(compgen -f -- "$2")
}

_lodge_disk() { # WORD, with ROOT=1 the keys of the root too
	local last=${1##*,} before=
	[[ $1 == *,* ]] && before=${1%,*},
	local keys=(path= format= backing=on backing_format= data_file= ro=on direct=on discard=off cache=writethrough
		serial= queues= bytes_per_s= ops_per_s=)
	if [[ $ROOT ]]; then
		keys+=(fstype= partition= label=)
	else
		keys+=(mount= fstype= mount_flags= mount_data= mkfs=on)
	fi
	case $last in
	path=*) _lodge_files "${before}path=" "${last#path=}" ;;
	data_file=*) _lodge_files "${before}data_file=" "${last#*=}" ;;
	format=* | backing_format=*) _lodge_words "$before${last%%=*}=" "${last#*=}" raw qcow2 ;;
	backing=* | ro=* | direct=* | discard=*) _lodge_words "$before${last%%=*}=" "${last#*=}" on off ;;
	cache=*) _lodge_words "${before}cache=" "${last#*=}" writeback writethrough ;;
	fstype=*) _lodge_words "${before}fstype=" "${last#*=}" ext4 xfs btrfs ;;
	*) _lodge_words "$before" "$last" "${keys[@]}" ;;
	esac
}

_lodge_vsock() { # WORD
	local last=${1##*,} before=
	[[ $1 == *,* ]] && before=${1%,*},
	case $last in
	socket=*) _lodge_files "${before}socket=" "${last#socket=}" ;;
	backend=*) _lodge_words "${before}backend=" "${last#backend=}" auto vhost builtin ;;
	*) _lodge_words "$before" "$last" socket= cid= backend= ;;
	esac
}

_lodge_net() { # WORD
	local last=${1##*,} before= file
	if [[ $1 != *,* ]]; then
		case $1 in
		tap=* | bridge=*)
			for file in /sys/class/net/*; do
				_lodge_words "${1%%=*}=" "${1#*=}" "${file##*/}"
			done
			;;
		*) _lodge_words "" "$1" auto pool tap= bridge= fd= passt none ;;
		esac
		return
	fi
	before=${1%,*},
	case $last in
	nat=* | spoof=* | containers=*) _lodge_words "$before${last%%=*}=" "${last#*=}" on off ;;
	backend=*) _lodge_words "${before}backend=" "${last#*=}" auto vhost builtin ;;
	forward=*) _lodge_words "${before}forward=" "${last#*=}" tcp: udp: ;;
	*)
		_lodge_words "$before" "$last" subnets= nat=on containers=on forward= address= gateway= dns= backend= mac= mtu= queues= \
			spoof=on rx_bytes_per_s= rx_packets_per_s= tx_bytes_per_s= tx_packets_per_s=
		;;
	esac
}

_lodge_share() { # WORD
	local last=${1##*,} before=
	[[ $1 != *,* ]] || before=${1%,*},
	case $last in
	path=*) _lodge_files "${before}path=" "${last#path=}" ;;
	ro=*) _lodge_words "${before}ro=" "${last#ro=}" on off ;;
	*) _lodge_words "$before" "$last" path= mount= ro=on user= ;;
	esac
}

_lodge_value() { # OPTION WORD
	local ROOT=
	case $1 in
	--kernel | --initrd | --modules | --dump-dtb) _lodge_files "" "$2" ;;
	--root) ROOT=1 _lodge_disk "$2" ;;
	--disk) _lodge_disk "$2" ;;
	--vsock) _lodge_vsock "$2" ;;
	--net) _lodge_net "$2" ;;
	--share) _lodge_share "$2" ;;
	--initramfs) _lodge_words "" "$2" auto none ;;
	--init) _lodge_words "" "$2" /sbin/init /bin/sh ;;
	--cpu) _lodge_words "" "$2" host host,- ;;
	--console)
		if [[ $2 == file:* ]]; then
			_lodge_files file: "${2#file:}"
		else
			_lodge_words "" "$2" stdio none file:
		fi
		;;
	--transport) _lodge_words "" "$2" pci mmio ;;
	--hw) _lodge_words "" "$2" acpi fdt ;;
	--hugepages) _lodge_words "" "$2" 2M 1G ;;
	--io) _lodge_words "" "$2" auto io_uring epoll ;;
	--log) _lodge_words "" "$2" error warn info debug ;;
	--sandbox) _lodge_words "" "$2" on off ;;
	--memory) _lodge_words "" "$2" 256M 512M 1G 2G 4G ;;
	*) return 1 ;; # --cpus, --cmdline, --stop-timeout: nothing to offer; or no option with a value
	esac
}

_lodge_image_option() { # WORD: name=value of -o
	case $1 in
	cluster_size=*) _lodge_words cluster_size= "${1#*=}" 64K 128K 1M 2M ;;
	version=*) _lodge_words version= "${1#*=}" 2 3 ;;
	backing=*) _lodge_files backing= "${1#*=}" ;;
	backing_format=*) _lodge_words backing_format= "${1#*=}" raw qcow2 ;;
	preallocation=*) _lodge_words preallocation= "${1#*=}" off metadata falloc full ;;
	refcount_bits=*) _lodge_words refcount_bits= "${1#*=}" 1 2 4 8 16 32 64 ;;
	extended_l2=* | lazy_refcounts=*) _lodge_words "${1%%=*}=" "${1#*=}" on off ;;
	compression_type=*) _lodge_words compression_type= "${1#*=}" zlib zstd ;;
	*) _lodge_words "" "$1" cluster_size= version= backing= backing_format= preallocation= refcount_bits= \
		extended_l2= compression_type= lazy_refcounts= ;;
	esac
}

_lodge_disk_command() { # COMMAND PREVIOUS WORD
	local long=(--format --progress --quiet --help)
	case $2 in
	-f | --format | --from | --to | --backing-format) _lodge_words "" "$3" raw qcow2 ;;
	-o | --option) _lodge_image_option "$3" ;;
	--repair) _lodge_words "" "$3" leaks all ;;
	-b | --backing) _lodge_files "" "$3" ;;
	*)
		if [[ $3 != -* ]]; then
			[[ $1 == snapshot ]] && _lodge_words "" "$3" list
			_lodge_files "" "$3"
			return
		fi
		case $1 in
		create) _lodge_words "" "$3" "${long[@]}" --option --backing --backing-format --force --json ;;
		info | snapshot) _lodge_words "" "$3" --format --json --help ;;
		check) _lodge_words "" "$3" "${long[@]}" --repair --json ;;
		resize) _lodge_words "" "$3" "${long[@]}" --option --shrink --json ;;
		convert) _lodge_words "" "$3" --from --to --option --backing --backing-format --allow-backing --compress \
			--force --json --progress --quiet --help ;;
		map) _lodge_words "" "$3" --format --allow-backing --json --help ;;
		rebase) _lodge_words "" "$3" "${long[@]}" --backing --backing-format --no-backing --allow-backing --unsafe ;;
		commit | discard-unused) _lodge_words "" "$3" "${long[@]}" --allow-backing --json ;;
		esac
		;;
	esac
}

_lodge_component() { # COMMAND PREVIOUS WORD
	case $2 in
	--kernel | --root | --modules | --component-root) _lodge_files "" "$3" ;;
	--format) _lodge_words "" "$3" raw qcow2 ;;
	--version) ;;
	*)
		_lodge_words "" "$3" --component-root --json --help
		[[ $1 != install ]] ||
			_lodge_words "" "$3" --kernel --root --format --modules --version --force --progress --quiet
		;;
	esac
}

_lodge_server_value() { # OPTION WORD
	case $1 in
	--socket | --runtime-dir | --storage-root | --component-root | --config) _lodge_files "" "$2" ;;
	--io) _lodge_words "" "$2" auto io_uring epoll ;;
	--sandbox) _lodge_words "" "$2" on off ;;
	--log) _lodge_words "" "$2" error warn info debug ;;
	--socket-mode) _lodge_words "" "$2" 0600 0660 0666 ;;
	--allow-uid | --read-only-uid) mapfile -t COMPREPLY < <(compgen -u -- "$2") ;;
	--socket-group | --allow-group | --read-only-group) mapfile -t COMPREPLY < <(compgen -g -- "$2") ;;
	--vm-transport) _lodge_words "" "$2" pci mmio ;;
	--net) _lodge_net "$2" ;;
	--vm-memory) _lodge_words "" "$2" 256M 512M 1G 2G 4G ;;
	*) return 1 ;;
	esac
}

_lodge_socket() { # the words behind --socket, as typed so far
	local i
	for ((i = 2; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == --socket ]] || continue
		if [[ ${COMP_WORDS[i + 1]} == = ]]; then
			printf '%s' "${COMP_WORDS[i + 2]}"
		else
			printf '%s' "${COMP_WORDS[i + 1]}"
		fi
		return
	done
}

_lodge_vms() { # WORD: names of the server's VMs
	local socket name
	socket=$(_lodge_socket)
	while IFS= read -r name; do
		# a name with a space, as one word
		[[ $name == "${1//\\/}"* ]] && COMPREPLY+=("$(printf '%q' "$name")")
	done < <("${COMP_WORDS[0]}" list --names --timeout 1 ${socket:+--socket "$socket"} 2>/dev/null)
}

# _lodge_client COMMAND PREVIOUS WORD POSITION: a command that asks a server; POSITION of WORD
_lodge_client() {
	local common=(--socket --json --timeout --help)
	case $2 in
	--socket)
		_lodge_files "" "$3"
		return
		;;
	--timeout | --interval | --id) return ;;
	--location)
		_lodge_words "" "$3" root downloads
		return
		;;
	--format)
		_lodge_words "" "$3" raw qcow2
		return
		;;
	esac
	case $1 in
	image)
		if [[ $4 == 2 ]]; then
			_lodge_words "" "$3" create destroy info resize check
		elif [[ $3 == -* ]]; then
			common+=(--id --location)
			[[ ${COMP_WORDS[2]} != destroy ]] && common+=(--format)
			[[ ${COMP_WORDS[2]} == resize ]] && common+=(--shrink)
			[[ ${COMP_WORDS[2]} == check ]] && common+=(--repair)
			_lodge_words "" "$3" "${common[@]}"
		fi
		;;
	start)
		_lodge_value "$2" "$3" && return
		[[ $3 != -* ]] || _lodge_words "" "$3" "${common[@]}" --kernel --root --disk --cpus --memory --cmdline \
			--initrd --initramfs --modules --init --transport --net --share --start-timeout --no-agent --termina
		;;
	*)
		if [[ $3 == -* ]]; then
			case $1 in
			list) common+=(--names) ;;
			stop) common+=(--all --force) ;;
			console) common=(--log --follow --socket --timeout --help) ;;
			top) common+=(--once --interval) ;;
			resize) common+=(--grow) ;;
			exec) common=(--stdin --terminal --no-terminal --detach --user --env --workdir --socket --timeout --help) ;;
			shell) common=(--user --env --workdir --socket --help) ;;
			cp) common=(--quiet --socket --help) ;;
			guest)
				[[ ${COMP_WORDS[2]} == mount ]] && common+=(--fstype --ro --data --mkfs)
				[[ ${COMP_WORDS[2]} == umount ]] && common+=(--lazy)
				;;
			esac
			_lodge_words "" "$3" "${common[@]}"
		elif [[ $1 == resize && $4 == 3 ]]; then
			_lodge_words "" "$3" vda vdb vdc vdd
		elif [[ $1 == link && $4 -ge 3 ]]; then
			_lodge_words "" "$3" up down net0 net1 net2 net3
		elif [[ $1 == cp ]]; then
			_lodge_vms "$3"
			[[ $3 == *:* ]] || _lodge_files "" "$3"
		elif [[ $1 == guest ]]; then
			[[ $4 == 2 ]] && _lodge_words "" "$3" facts mount umount time
			_lodge_vms "$3"
		elif [[ $1 != list && $1 != top ]]; then
			_lodge_vms "$3"
		fi
		;;
	esac
}

_lodge() {
	local commands=(run start stop list info wait events console exec shell cp guest pause resume resize link top metrics serve vmm disk image
		component doctor help)
	local options=(--kernel --root --disk --cpus --memory --cmdline --initrd --initramfs --modules --init --cpu
		--console --transport --hw --hugepages --prealloc --io --vsock --agent --net --share --no-rng --stop-timeout --sandbox --exec --start-timeout --dry-run --dump-dtb --log --help)
	local server_options=(--socket --socket-mode --socket-group --allow-uid --allow-group --read-only-uid --read-only-group
		--storage-root --component-root --sandbox --io --log --help)
	[[ ${COMP_WORDS[1]} == serve ]] && server_options+=(--config --check-config --runtime-dir --leave-vms --vm-cpus --vm-memory
		--vm-transport --net --share-user)
	[[ ${COMP_WORDS[1]} == vmm ]] && server_options+=(--socket-fd --idle-timeout --files-of)
	local word=${COMP_WORDS[COMP_CWORD]} i=$COMP_CWORD whole previous broken
	COMPREPLY=()

	# the whole word, from the last one that is neither a break nor behind one
	whole=$word
	while ((i > 1)) && [[ $whole != --* ]] &&
		[[ ${COMP_WORDS[i]} == [=:] || ${COMP_WORDS[i - 1]} == [=:] ]]; do
		i=$((i - 1))
		whole=${COMP_WORDS[i]}$whole
	done
	previous=${COMP_WORDS[i - 1]}

	if ((i == 1)); then
		_lodge_words "" "$whole" "${commands[@]}" --help --version
	elif [[ ${COMP_WORDS[1]} == help && i -eq 2 ]]; then
		_lodge_words "" "$whole" "${commands[@]}"
	elif [[ ${COMP_WORDS[*]:1:2} == "help guest" ]]; then
		_lodge_words "" "$whole" facts mount umount time
	elif [[ ${COMP_WORDS[*]:1:2} == "help image" ]]; then
		_lodge_words "" "$whole" create destroy info resize check
	elif [[ ${COMP_WORDS[1]} == disk && i -eq 2 || ${COMP_WORDS[*]:1:2} == "help disk" ]]; then
		_lodge_words "" "$whole" create info check resize convert map rebase commit snapshot discard-unused
	elif [[ ${COMP_WORDS[1]} == disk ]]; then
		_lodge_disk_command "${COMP_WORDS[2]}" "$previous" "$whole"
	elif [[ ${COMP_WORDS[1]} == component && i -eq 2 || ${COMP_WORDS[*]:1:2} == "help component" ]]; then
		_lodge_words "" "$whole" list install
	elif [[ ${COMP_WORDS[1]} == component ]]; then
		_lodge_component "${COMP_WORDS[2]}" "$previous" "$whole"
	elif [[ ${COMP_WORDS[1]} == doctor ]]; then
		_lodge_words "" "$whole" --json --help
	elif [[ ${COMP_WORDS[1]} == serve || ${COMP_WORDS[1]} == vmm ]]; then
		_lodge_server_value "$previous" "$whole" || _lodge_words "" "$whole" "${server_options[@]}"
	elif [[ " start stop list info wait events console exec shell cp guest pause resume resize link top metrics image " == *" ${COMP_WORDS[1]} "* ]]; then
		_lodge_client "${COMP_WORDS[1]}" "$previous" "$whole" "$i"
	elif [[ ${COMP_WORDS[1]} == run ]]; then
		_lodge_value "$previous" "$whole" || _lodge_words "" "$whole" "${options[@]}"
	fi

	# bash replaces only what stands behind the last break
	if [[ $whole != "$word" ]]; then
		broken=${whole%"${word#[=:]}"}
		for i in "${!COMPREPLY[@]}"; do
			COMPREPLY[i]=${COMPREPLY[i]#"$broken"}
		done
	fi
	# go on typing where a value, a folder or another key follows
	if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == *[=/:-] ]]; then
		compopt -o nospace 2>/dev/null
	fi
	return 0
}

complete -F _lodge lodge
