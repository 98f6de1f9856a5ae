# What integration/uml and integration/qemu share. Each sets `options` and `boot`, and calls `vm "$@"`; integration/vm-init is
# the other side, inside the machine.
#
# The tree is the root of the machine as a folder, below a layer in the machine's memory: no image is made, and no run sees what
# another has written. The emulators are of the tree, too: they want a newer C library than this machine's.

project=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
self=$(realpath "$0")
name=$(basename "$0")
packages=containerd,runc,crun,busybox-static,jq,python3,procps,strace,iproute2,util-linux,mount # as in integration/native
packages+=,kmod,systemd,systemd-sysv,dbus,libseccomp2,user-mode-linux,qemu-system-x86,virtiofsd
packages+=,gcc,libc6-dev # some tests compile what they attack with
# For integration/engines: what they recommend and need here, too.
packages+=,docker.io,docker-cli,docker-buildx,tini,podman,catatonit,netavark,aardvark-dns,iptables,nftables,uidmap,dbus-user-session,libpam-systemd
packages+=,python3-grpcio,python3-protobuf,protobuf-compiler,containernetworking-plugins # its client of CRI, and pods' network

die() { echo "$name: $*" >&2; exit 125; }

# Process 1 of namespaces of its own: when it ends, or the script outside is killed, all of the machine is gone.
machine() { # TREE FOLDER
	mount --bind "$1" "$1"
	mount -o remount,bind,ro "$1"
	cd "$1"
	mount -t tmpfs -o mode=0755 mnt mnt
	mkdir mnt/project mnt/bed
	mount --bind "$project" mnt/project
	mount -o remount,bind,ro mnt/project
	mount --bind "$2" mnt/bed
	mount -t proc proc proc
	# Not by exec: a process 1 that aborts, as an emulator does in trouble, does not end.
	boot
	exit
}

vm() {
	local arguments=("$@") build_only='' tree folder='' keep='' start=$SECONDS pid='' status file tare=${TARE:-}
	while [[ "${1:-}" = --* ]]; do
		case $1 in
		--help) sed -n '2,/^set/s/^#$\|^# //p' "$self"; exit ;;
		--build-only) build_only=1; shift ;;
		--machine) machine "$2" "$3" ;;
		*)
			[ "${options[${1#--}]+known}" ] && [ $# -gt 1 ] || die "unknown option $1 (--help lists them)"
			options[${1#--}]=$2
			shift 2
			;;
		esac
	done
	[ "$(id -u)" = 0 ] || die "needs root"
	# The API's file. What its package depends on is 270 MB of sources in Go.
	tree=$("$project/integration/tree" vm "$packages" --kernels bookworm --kernels forky --unpack golang-k8s-cri-api-dev forky) ||
		die "no tree"
	[ ! "$build_only" ] || { echo "$tree"; exit 0; }
	[ $# -gt 0 ] || die "no command (--help tells)"

	folder=${options[folder]}
	[ "$folder" ] && keep=1 || folder=$(mktemp -d)
	mkdir -p "$folder"
	folder=$(realpath "$folder")
	# INT and TERM would leave the machine behind if they ended this script at once.
	trap '[ ! "$pid" ] || kill "$pid" 2>/dev/null || true; [ "$keep" ] || rm -rf "$folder"' EXIT
	trap 'exit 130' INT TERM
	rm -f "$folder/status"
	printf '%q ' "$@" >"$folder/command"
	: >"$folder/stdout"
	: >"$folder/stderr"
	for file in "$project"/target/{static,release}/tare; do
		if [ ! "${TARE:-}" ] && [ -x "$file" ] && { [ ! "$tare" ] || [ "$file" -nt "$tare" ]; }; then tare=$file; fi
	done
	[ ! "$tare" ] || cp "$tare" "$folder/tare"

	setpriv --pdeathsig KILL timeout --signal=KILL "${options[timeout]}" \
		setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --net --ipc --uts --propagation private \
		"$self" "${arguments[@]:0:$((${#arguments[@]} - $#))}" --machine "$tree" "$folder" \
		</dev/null >"$folder/console" 2>&1 &
	pid=$!
	tail -s 0.2 -q -n +1 -f --pid=$pid "$folder/stdout" &
	local out=$!
	tail -s 0.2 -q -n +1 -f --pid=$pid "$folder/stderr" >&2 &
	{ wait $pid && status=0 || status=$?; } 2>/dev/null # not told by bash that it was killed
	pid=''
	wait $out $! || true
	[ ! -s "$folder/status" ] || exit "$(cat "$folder/status")"
	tail -n 40 "$folder/console" >&2
	[ "$status" != 137 ] || [ $((SECONDS - start)) -lt "${options[timeout]}" ] || { echo "$name: ended after ${options[timeout]} s" >&2; exit 124; }
	die "the machine ended without a word from the command; above is the end of its console"
}
