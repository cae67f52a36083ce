#!/usr/bin/env bash
# On a disk that grew, sgdisk moves the backup table to the new end, and gives "the rest of the disk" up to the old one.
#
# Versions: gdisk 1.0.9, parted 3.5, sfdisk 2.38.1 (util-linux) of Debian 12; an image file that grows from 64 MiB to 128 MiB.
# Behaviour: `sgdisk --new=0:0:0` asks for all that is free. It takes the last usable sector of the table that it read, 131038, makes a partition of 62 MiB up to there, and
# writes the table with the backup at the new end and 262110 as the last usable sector, without --move-second-header, without a word on it, and with status 0. Called once more, it makes another partition of the other 64 MiB.
# sfdisk's "," takes the new space at once, but stops 2015 sectors short of it, on a MiB. `parted --script mkpart x 2MiB 100%` refuses: 100% is the end of the disk, not of what is usable.
#
# Seen (start, end): sgdisk 4096 131038, then last usable 262110, then 131072 262110; sfdisk 4096 260095; parted an error, no partition
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 gdisk=1.0.9-2.1 libpopt0=1.19+dfsg-1 parted=3.5-3+deb12u1 libparted2=3.5-3+deb12u1 libdevmapper1.02.1=2:1.02.185-2 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

new() {
    rm -f disk
    truncate --size=64M disk
    sgdisk --new=1:2048:+1M disk >log
    truncate --size=128M disk
}
places() { partx --show --noheadings --output START,END --nr "$1" disk | xargs; }

new
sgdisk --new=0:0:0 disk >log 2>&1
same 'whether sgdisk speaks of the end' 0 "$(grep -c -i -E 'header|backup|usable|size' log || true)"
same 'the rest by sgdisk' '4096 131038' "$(places 2)"
same 'the last usable sector then' 262110 "$(sfdisk --dump disk | sed -n 's/^last-lba: //p')"
same 'the header at the new end' 'EFI PART' "$(tail --bytes=512 disk | head --bytes=8)"
sgdisk --new=0:0:0 disk >log 2>&1
same 'the rest by sgdisk, once more' '131072 262110' "$(places 3)"

new
echo , | sfdisk --quiet --append disk >log 2>&1
same 'the rest by sfdisk' '4096 260095' "$(places 2)"

new
status=0
parted --script disk mkpart x 2MiB 100% >log 2>&1 || status=$?
same 'the status of parted' 1 "$status"
grep -q 'The closest location we can manage is' log
same 'the rest by parted' '' "$(places 2:)"
echo "as it was: the rest of a grown disk is what it was before it grew, then the other half"
