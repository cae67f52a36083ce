#!/usr/bin/env bash
# MBR disks of three tools have no PARTUUID, since all of them have the disk identifier 0.
#
# Versions: genimage 16, xorriso 1.5.4, mtools 4.0.32 (mpartition), read by partx and blkid 2.38.1 (libblkid) of Debian 12; sfdisk 2.38.1 beside them.
# Behaviour: the PARTUUID of an MBR's partition is made of the 32-bit identifier at offset 440. genimage (partition-table-type = mbr), xorriso (-append_partition)
# and mpartition leave it 0 unless told otherwise, and libblkid takes 0 for "none": no PARTUUID, no PTUUID, no link in /dev/disk/by-partuuid. sfdisk draws a random one.
#
# Seen: genimage, xorriso, mpartition: identifier 00000000, partx shows partitions with an empty UUID, blkid no PTUUID; sfdisk: both
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 genimage=16-2 libconfuse2=3.3-3 mtools=4.0.33-1+really4.0.32-1 xorriso=1.5.4-4 libisoburn1=1.5.4-4 libisofs6=1.5.4-1 libburn4=1.5.4-1 libjte2=1.22-3 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

mkdir files empty
head --bytes=1048576 /dev/urandom >files/a

cat >genimage.cfg <<'END'
image genimage { hdimage { partition-table-type = mbr }
    partition a { image = "a"
        partition-type = 0x83 } }
END
genimage --config genimage.cfg --inputpath files --rootpath empty --outputpath . --tmppath tmp >log 2>&1 || { cat log >&2; exit 1; }
xorriso -as mkisofs -quiet -o xorriso -append_partition 2 0xef files/a files >log 2>&1
truncate --size=32M mpartition sfdisk
echo 'drive z: file="mpartition" partition=1' >mtoolsrc
export MTOOLSRC=$dir/mtoolsrc
{ mpartition -I z: && mpartition -c -b 64 -l 20000 z:; } >log 2>&1
echo 'label: dos' | sfdisk --quiet sfdisk
echo 'size=1M' | sfdisk --quiet --append sfdisk

for image in genimage xorriso mpartition; do
    same "$image's identifier" '00 00 00 00' "$(od -An -tx1 -j 440 -N 4 "$image" | xargs)"
    [[ $(partx --show --noheadings --output NR "$image" | wc -l) -ge 1 ]]
    same "$image's PARTUUIDs" '' "$(partx --show --noheadings --output UUID "$image" | xargs)"
    same "$image's PTUUID" '' "$(blkid --probe --match-tag PTUUID --output value "$image" || true)"
done
id=$(blkid --probe --match-tag PTUUID --output value sfdisk)
same "sfdisk's PARTUUID" "$id-01" "$(partx --show --noheadings --output UUID sfdisk | xargs)"
echo "as it was: identifier 0, and no PARTUUID"
