#!/usr/bin/env bash
# On a disk with blocks of 4096 bytes, partx and sfdisk of one package print the same partition in different sectors, and partx is 8 times off.
#
# Versions: partx, sfdisk, fdisk 2.38.1 (util-linux), sgdisk 1.0.9, parted 3.5 of Debian 12, on a loop device with --sector-size 4096. Needs root and loop devices.
# Behaviour: a partition at 1 MiB is at block 256. sfdisk --dump, fdisk -l, sgdisk --print and parted's "unit s" say 256. partx --show says START 2048, since its columns
# START, END and SECTORS count 512 bytes whatever the disk's blocks are; the header does not say so, and there is no column for the unit. Who takes partx's START
# times the logical block size (blockdev --getss) is 8 MiB into the disk; SIZE is right. Also, a loop device with such blocks over a file that is not a multiple of them is
# no multiple of its own block either: losetup says nothing, and blockdev reports 1049088 bytes in blocks of 4096 (the last 512 can only be read through the page cache).
#
# Seen: partx 2048 32768, sfdisk 256 4096, fdisk 256, sgdisk 256, parted 256s; loop device of 1049088 bytes, block 4096
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
device=
trap '[[ -z $device ]] || losetup -d "$device"; rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 mount=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 gdisk=1.0.9-2.1 libpopt0=1.19+dfsg-1 parted=3.5-3+deb12u1 libparted2=3.5-3+deb12u1 libdevmapper1.02.1=2:1.02.185-2 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

truncate --size=256M disk
device=$(losetup --find --show --sector-size 4096 disk)
printf 'label: gpt\nstart=256, size=4096\n' | sfdisk --quiet --no-tell-kernel "$device"
same 'the block size' 4096 "$(blockdev --getss "$device")"
same 'what partx shows' '2048 32768 16M' "$(partx --show --noheadings --output START,SECTORS,SIZE "$device" | xargs)"
same 'what sfdisk shows' 'start= 256, size= 4096' "$(sfdisk --dump "$device" | grep -o 'start=.*, size=[ 0-9]*' | tr -s ' ')"
same 'what fdisk shows' '256 4351 4096 16M' "$(fdisk --list -o Start,End,Sectors,Size "$device" | tail -n 1 | xargs)"
same 'what sgdisk shows' '256 4351' "$(sgdisk --print "$device" | tail -n 1 | awk '{ print $2, $3 }')"
same 'what parted shows' '1:256s:4351s:4096s' "$(parted --script --machine "$device" unit s print | tail -n 1 | cut -d : -f 1-4)"
losetup -d "$device"
device=

truncate --size=1049088 file
device=$(losetup --find --show --sector-size 4096 file 2>said)
same 'what losetup says' '' "$(<said)"
same 'size and block' '1049088 4096' "$(blockdev --getsize64 --getss "$device" | xargs)"
echo "as it was: partx counts 512 bytes where its siblings count 4096"
