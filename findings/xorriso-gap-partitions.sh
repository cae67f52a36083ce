#!/usr/bin/env bash
# xorriso adds partitions that nobody asked for, takes their numbers, and marks them read-only.
#
# Version: xorriso 1.5.4 of Debian 12 (mkisofs emulation), read by partx and sfdisk (util-linux 2.38.1).
# Behaviour: "-appended_part_as_gpt -append_partition 2 … -append_partition 3 …" asks for two partitions, 2 and 3. The GPT has four: what is left over between
# them is covered by entries named "Gap0" and "Gap1", which take the free numbers 1 and 4 and the type of Microsoft basic data. "Gap0" is the ISO file
# system itself, without its first 64 blocks of 512 bytes; "Gap1" is padding of zeroes behind the last partition. Whoever counts partitions, or takes the last
# one for the last appended file, is wrong. Attributes 0 ("required") and 60 ("read-only") are set on the gaps, not on what was appended. The four UUIDs
# differ in one byte.
#
# Seen (number, name): 1 Gap0, 2 Appended2, 3 Appended3, 4 Gap1; attributes of 1 and 4 "RequiredPartition GUID:60", of 2 and 3 none; partition 4 is all zeroes
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 xorriso=1.5.4-4 libisoburn1=1.5.4-4 libisofs6=1.5.4-1 libburn4=1.5.4-1 libjte2=1.22-3 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

mkdir files
head --bytes=100000 /dev/urandom >files/a
head --bytes=1048576 /dev/urandom >second
head --bytes=1000000 /dev/urandom >third
xorriso -as mkisofs -quiet -o image -appended_part_as_gpt \
    -append_partition 2 0xef second -append_partition 3 0x83 third files >log 2>&1
same 'the partitions' '1 Gap0
2 Appended2
3 Appended3
4 Gap1' "$(partx --show --noheadings --output NR,NAME image | sed -E 's/^ +//; s/ +/ /g; s/ $//')"
same 'where partition 1 begins' 64 "$(partx --show --noheadings --output START --nr 1 image | xargs)"
read -r start sectors < <(partx --show --noheadings --output START,SECTORS --nr 4 image)
cmp --bytes=$((sectors * 512)) --ignore-initial="$((start * 512)):0" image /dev/zero
for number in 1 4; do
    same "attributes of partition $number" 'RequiredPartition GUID:60' "$(sfdisk --part-attrs image "$number" | sed 's/[, ]*GUID/ GUID/' | xargs)"
done
for number in 2 3; do
    same "attributes of partition $number" '' "$(sfdisk --part-attrs image "$number")"
done
uuids=$(partx --show --noheadings --output UUID image | sed -E 's/^(.{21}).{2}/\1/' | sort --unique | wc -l)
same 'how many UUIDs without their one byte' 1 "$uuids"
echo "as it was: Gap0 and Gap1 beside the two that were asked for"
