#!/usr/bin/env bash
# A GPT whose entries have 256 bytes: sfdisk and parted read it, libblkid of sfdisk's own package finds no partition, and sgdisk shows an empty disk.
#
# Versions: sfdisk, fdisk, partx, blkid 2.38.1 (util-linux), sgdisk 1.0.9, parted 3.5 of Debian 12; python3 makes the table.
# Behaviour: UEFI lets SizeOfPartitionEntry be 128, 256, 512 and so on, and tells readers to take it from the header. sfdisk, fdisk and parted list both partitions of such a
# table. partx shows none, with status 0, and blkid calls the disk PTTYPE="PMBR". sgdisk warns that it "supports only 128-byte entries", lists nothing, verifies all the same ("No problems
# found", all sectors free), and adds a partition on top of those that are there, with status 0: after `sgdisk -n 0:0:+1M` the table has the new partition alone.
#
# Seen: sfdisk 2048 4096, parted 2048s 4096s, partx nothing, sgdisk nothing; after sgdisk -n: sfdisk 2048 2048 (start and size), one partition
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

# table SIZE: a disk of 64 MiB with two partitions, in entries of that size; both tables, all checksums.
table() {
    python3 - "$1" <<'END'
import struct, sys, uuid, zlib

size, count, last = int(sys.argv[1]), 64, 131071
kind = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4").bytes_le
entries = bytearray(size * count)
for n, (first, end, name) in enumerate([(2048, 4095, "one"), (4096, 8191, "two")]):
    own = uuid.UUID(int=0x11111111111141118111111111111111 + n).bytes_le
    entry = kind + own + struct.pack("<QQQ", first, end, 0) + name.encode("utf-16le").ljust(72, b"\0")
    entries[n * size : n * size + 128] = entry
blocks = len(entries) // 512


def header(here, other, table):
    disk = uuid.UUID(int=0x33333333333343338333333333333333).bytes_le
    fields = (b"EFI PART", 0x10000, 92, 0, 0, here, other, 2 + blocks, last - 1 - blocks, disk, table, count, size, zlib.crc32(entries))
    plain = struct.pack("<8sIIIIQQQQ16sQIII", *fields)
    return plain[:16] + struct.pack("<I", zlib.crc32(plain)) + plain[20:]


with open("disk", "wb") as disk:
    disk.truncate(512 * (last + 1))
    for at, data in [(446, struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, last)), (510, b"\x55\xaa"),
                     (512, header(1, last, 2)), (1024, entries),
                     (512 * (last - blocks), entries), (512 * last, header(last, 1, last - blocks))]:
        disk.seek(at)
        disk.write(data)
END
}
sfdisk_() { sfdisk --dump disk | sed -nE 's/.*start= *([0-9]+), size= *([0-9]+),.*/\1 \2/p' | paste -s -d ';'; }
parted_() { parted --script --machine disk unit s print | sed -nE 's/^[0-9]+:([0-9]+)s:[0-9]+s:([0-9]+)s:.*/\1 \2/p' | paste -s -d ';'; }
partx_() { partx --show --noheadings --output START,SECTORS disk | sed -E 's/^ +//; s/ +/ /' | paste -s -d ';'; }
sgdisk_() { sgdisk --print disk | sed -nE 's/^ +[0-9]+ +([0-9]+) +([0-9]+) .*/\1 \2/p' | paste -s -d ';'; }

table 128
same 'sfdisk on 128' '2048 2048;4096 4096' "$(sfdisk_)"
same 'parted on 128' '2048 2048;4096 4096' "$(parted_)"
same 'partx on 128' '2048 2048;4096 4096' "$(partx_)"
same 'sgdisk on 128 (first and last)' '2048 4095;4096 8191' "$(sgdisk_)"
table 256
same 'sfdisk on 256' '2048 2048;4096 4096' "$(sfdisk_)"
same 'parted on 256' '2048 2048;4096 4096' "$(parted_)"
same 'partx on 256' '' "$(partx_)"
same 'blkid on 256' PMBR "$(blkid --probe --output value --match-tag PTTYPE disk)"
same 'sgdisk on 256' '' "$(sgdisk_)"
same 'what sgdisk verifies' 1 "$(sgdisk --verify disk | grep -c '^No problems found')"
sgdisk --new 0:0:+1M disk >log
same 'sfdisk after sgdisk' '2048 2048' "$(sfdisk_)"
echo "as it was: entries of 256 bytes are read by sfdisk and parted, and by nobody else"
