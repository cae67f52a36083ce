#!/usr/bin/env bash
# Whoever unmounts a file system as soon as fio has ended is told that it is busy, where fio had its files registered with io_uring.
#
# Versions: fio 3.33 of Debian 12, Linux 6.18.44, ext4 on a loop device; as root.
# Behaviour: fio closes its files, ends with status 0, and has been waited for; nobody has anything open there any more, and `umount` fails with
# EBUSY, in most rounds, for some milliseconds. The kernel lets go of what was registered with a ring by a worker of its own, after whoever had the ring
# is gone. The same job with --ioengine=libaio, or with io_uring and files that are not registered, can be unmounted at once, in each round.
#
# Seen, of 12 rounds each: busy 0 with libaio, 0 with io_uring, 9 and 10 with io_uring and --registerfiles=1; never any more 0.3 s later.
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
# Nothing is mounted there but between two lines below.
trap 'umount -q "$dir/there" || true; rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download fio=3.33-3 \
    libaio1 libargon2-1 libboost-iostreams1.74.0 libboost-thread1.74.0 libcryptsetup12 libdaxctl1 libfmt9 libgfapi0 libgfrpc0 libgfxdr0 libglusterfs0 libibverbs1 \
    libicu72 libjson-c5 libkmod2 libnbd0 libndctl6 libnl-3-200 libnl-route-3-200 libnuma1 libpmem1 libpmemblk1 librados2 librbd1 librdmacm1 libtirpc3 libxml2 \
    >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
libraries="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu/ceph:$dir/root/usr/lib/ceph"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

truncate --size=64M disk
mkfs.ext4 -q disk
mkdir there

# busy WORD...: in how many rounds of the job the file system could not be unmounted right after it
busy() {
    local count=0
    for _ in {1..12}; do
        mount -o loop disk there
        LD_LIBRARY_PATH=$libraries root/usr/bin/fio --name=job --filename=there/file --size=8M --rw=randread --bs=4k --iodepth=16 --direct=1 \
            --runtime=0.2 --time_based --thread "$@" >log 2>&1 || { cat log >&2; return 1; }
        if ! umount there 2>log; then
            grep -q 'target is busy' log
            count=$((count + 1))
            sleep 0.3
            umount there
        fi
    done
    echo "$count"
}

aio=$(busy --ioengine=libaio)
ring=$(busy --ioengine=io_uring)
registered=$(busy --ioengine=io_uring --registerfiles=1)
same 'how often it was busy without registered files' '0 and 0' "$aio and $ring"
((registered > 0)) || { echo 'it was never busy with registered files' >&2; exit 1; }
echo "as it was: of 12 rounds busy $aio with libaio, $ring with io_uring, $registered with io_uring and registered files"
