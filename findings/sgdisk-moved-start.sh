#!/usr/bin/env bash
# sgdisk moves the start of a partition, and not the end that was given relative to it.
#
# Version: gdisk 1.0.9 of Debian 12, on an image file of 64 MiB. Read back by partx (util-linux 2.38.1).
# Behaviour: "--new=1:34:+1M" asks for 1 MiB from sector 34. sgdisk aligns the start up to 2048, and counts the MiB from the sector 34
# that it has just left: the partition is 34 sectors long, 17 KiB in place of 1 MiB. It says that it moved the sector; it does not say
# that the size changed; the status is 0. With --set-alignment=1 it is 2048 sectors at 34, and with 0 for the start 2048 at 2048.
#
# Seen (start, sectors): 34:+1M 2048 34; 1000:+1M 2048 1000; 34:+1M with alignment 1 34 2048; 0:+1M 2048 2048
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 gdisk=1.0.9-2.1 libpopt0=1.19+dfsg-1 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

place() {
    rm -f disk
    truncate --size=64M disk
    sgdisk "$@" disk >log
    partx --show --noheadings --output START,SECTORS disk | xargs
}

same 'from 34' '2048 34' "$(place --new=1:34:+1M)"
grep -q 'Moved requested sector from 34 to 2048' log
same 'from 1000' '2048 1000' "$(place --new=1:1000:+1M)"
same 'from 34, not aligned' '34 2048' "$(place --set-alignment=1 --new=1:34:+1M)"
same 'from the first that is free' '2048 2048' "$(place --new=1:0:+1M)"
echo "as it was: +1M from sector 34 is 34 sectors at 2048"
