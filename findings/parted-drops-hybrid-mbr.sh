#!/usr/bin/env bash
# Renaming a partition with parted removes a hybrid MBR.
#
# Versions: parted 3.5, gdisk 1.0.9, sfdisk 2.38.1 of Debian 12.
# Behaviour: a hybrid MBR (made by sgdisk --hybrid) shows two partitions of the GPT to what reads only an MBR (firmware of some boards). "parted name 1 foo"
# changes a GPT label, and rewrites block 0 as a plain protective MBR: the two entries are gone, without a word and with status 0. The same change by
# "sfdisk --part-label" says "The device contains hybrid MBR -- writing GPT only." and leaves them; sgdisk --change-name leaves them, too.
#
# Seen (types of the four MBR entries): before ee 83 83 00; after parted ee 00 00 00; after sfdisk and sgdisk ee 83 83 00
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

types() { for at in 450 466 482 498; do od -An -tx1 -j "$at" -N 1 disk; done | xargs; }
new() {
    rm -f disk
    truncate --size=64M disk
    sgdisk --new=1:2048:+1M --new=2:0:+1M --hybrid=1:2 disk >log
    same 'a hybrid MBR' 'ee 83 83 00' "$(types)"
}

new
parted --script disk name 1 foo >log 2>&1
same 'what parted says' '' "$(<log)"
same 'the MBR after parted' 'ee 00 00 00' "$(types)"
new
sfdisk --part-label disk 1 foo >log 2>&1
grep -q 'contains hybrid MBR -- writing GPT only' log
same 'the MBR after sfdisk' 'ee 83 83 00' "$(types)"
new
sgdisk --change-name=1:foo disk >log 2>&1
same 'the MBR after sgdisk' 'ee 83 83 00' "$(types)"
echo "as it was: parted drops the hybrid entries, sfdisk and sgdisk keep them"
