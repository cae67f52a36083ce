#!/usr/bin/env bash
# fio with --time_based and --verify verifies after each round or never, as its engine is, says the same of both, and ends with status 0.
#
# Version: fio 3.33 of Debian 12, --rw=randwrite --verify=crc32c on a file of 16 MiB.
# Behaviour: without --time_based, what was written is read back and compared once. With it, an asynchronous engine (libaio, at whatever depth)
# reads everything back after each round of --size, but for the last; a synchronous one (psync) writes until the time is over and reads back nothing at all, ever.
# Both say "verification read phase will never start because write phase uses all of runtime", and both report error 0. --loops changes nothing.
# With --verify_backlog the synchronous one, too, verifies as it goes.
#
# Seen: read back with --runtime=2 by libaio at a depth of 16 all but the last round of 16 MiB of what it wrote (1.3 GB), by psync 0 bytes of 1.2 GB, status 0 and the same line for both; with --verify_backlog=64 psync reads back.
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download fio=3.33-3 \
    libaio1 libargon2-1 libboost-iostreams1.74.0 libboost-thread1.74.0 libcryptsetup12 libdaxctl1 libfmt9 libgfapi0 libgfrpc0 libgfxdr0 libglusterfs0 libibverbs1 \
    libicu72 libjson-c5 libkmod2 libnbd0 libndctl6 libnl-3-200 libnl-route-3-200 libnuma1 libpmem1 libpmemblk1 librados2 librbd1 librdmacm1 libtirpc3 libxml2 \
    >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu/ceph:$dir/root/usr/lib/ceph"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

# job WORD...: runs one on a new file; `error`, `read` and `written` (KiB), and what it said besides in `said`
job() {
    rm -f file
    root/usr/bin/fio --name=v --filename=file --size=16m --rw=randwrite --bs=4k --verify=crc32c --randseed=7 --minimal "$@" >out 2>&1 || { cat out >&2; exit 1; }
    IFS=';' read -r error read written < <(grep '^3;' out | cut -d';' -f5,6,47)
    said=$(grep -v '^3;' out || true)
}
never='fio: verification read phase will never start because write phase uses all of runtime'
same 'the version' fio-3.33 "$(root/usr/bin/fio --version)"

job --ioengine=psync
same 'read back without a time' "0 16384 16384 " "$error $read $written $said"
job --ioengine=psync --time_based --runtime=2
same 'read back by psync' "0 0 $never" "$error $read $said"
[[ $written -gt 65536 ]]
job --ioengine=libaio --iodepth=16 --time_based --runtime=2
same 'what libaio said' "0 $never" "$error $said"
[[ $read -ge 16384 && $((written - read)) -le 32768 ]] || same 'read back by libaio' 'all rounds but the last' "$read of $written KiB"
job --ioengine=psync --time_based --runtime=2 --loops=9
same 'read back by psync with loops' "0 0 $never" "$error $read $said"
job --ioengine=psync --time_based --runtime=2 --verify_backlog=64
[[ $read -gt $((written / 2)) ]] || same 'read back with a backlog' 'most of it' "$read of $written KiB"
echo "as it was: by time, fio verifies each round or nothing, and says the same of both"
