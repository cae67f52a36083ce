#!/usr/bin/env bash
# wipefs --all erases no partition table from an image file, and ends with status 0.
#
# Versions: wipefs, sfdisk, fdisk, mkswap 2.38.1 (util-linux) of Debian 12, on image files of 64 MiB.
# Behaviour: the GPT of an image is to wipefs a table "nested" in a "non-whole disk device": `wipefs image` lists its three signatures, `wipefs --all image`
# leaves every byte of them, says so on stderr, and ends with status 0. A swap signature in a file goes without a question. With --force a table of 512-byte blocks goes too,
# headers and protective MBR; of one of 4096-byte blocks the two bytes of the protective MBR alone are erased, and both headers stay whole, checksums and all:
# in a file wipefs looks only where blocks of 512 bytes would put them. Whatever puts an MBR of type ee there again has the old partitions back.
#
# Seen: --all on a GPT 0 bytes changed, status 0; on swap 10 bytes; --all --force on a GPT of 512 18 bytes in three places, on one of 4096 2 bytes, at 510; with them again fdisk lists the partition
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

# table BLOCK: a new image with a GPT of such blocks, and one partition
table() {
    rm -f disk
    truncate --size=64M disk
    printf 'g\nn\n1\n\n\nw\n' | fdisk --sector-size "$1" --wipe never disk >log 2>&1
    cp --sparse=always disk before
}
# changed: offsets (from 0) of all bytes that are others than before
changed() { cmp --verbose before disk | awk '{ print $1 - 1 }' | xargs; }
partitions() { fdisk --sector-size "$1" --list disk 2>&1 | grep -c '^disk1 ' || true; }

table 512
same 'signatures in the list' 3 "$(wipefs --noheadings disk | wc -l)"
status=0
wipefs --all disk >log 2>&1 || status=$?
same 'the status' 0 "$status"
grep -q 'ignoring nested "gpt" partition table on non-whole disk device' log
same 'what --all erases of a GPT' '' "$(changed)"

truncate --size=1M file
mkswap file >log 2>&1
cp file before
wipefs --all file >log
same 'how much --all erases of swap' 10 "$(cmp --verbose before file | wc -l)"

table 512
wipefs --all --force disk >log
same 'how much --force erases of 512' 18 "$(changed | wc -w)"
table 4096
same 'partitions of 4096 before' 1 "$(partitions 4096)"
wipefs --all --force disk >log
same 'what --force erases of 4096' '510 511' "$(changed)"
printf '\x55\xaa' | dd of=disk bs=1 seek=510 conv=notrunc status=none
same 'partitions of 4096 with the two bytes' 1 "$(partitions 4096)"
echo "as it was: no table is erased from an image, and by force only one of 512-byte blocks"
