#!/usr/bin/env bash
# fdisk's size suffixes give another size than was asked for.
#
# Versions: fdisk 2.38.1 and libfdisk1 2.38.1 (util-linux), gdisk 1.0.9, of Debian 12, on an image file of 64 MiB.
# Behaviour: the last sector "+500K" of a partition that begins at sector 2048 makes a partition of ONE sector (512 bytes); it is
# the end, not the size, that is rounded to a grain of 1 MiB. "+1500K" gives 1 MiB, "+2047K" gives 2 MiB. Without
# a suffix nothing is rounded, but one is added: "+100" gives 101 sectors. sfdisk's size=500K and sgdisk's +500K give 1000 sectors, sgdisk's +100
# gives 100; sfdisk's size=1500K gives 2048 sectors, sgdisk's 3000. Three tools, three readings of one word, all with status 0.
#
# Seen (sectors): fdisk +100 101, +500K 1, +1500K 2048, +2047K 4096; sfdisk 500K 1000, 1500K 2048; sgdisk +100 100, +500K 1000, +1500K 3000
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 gdisk=1.0.9-2.1 libpopt0=1.19+dfsg-1 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

sectors() { partx --show --noheadings --output SECTORS disk | tr -d ' '; }
new() { rm -f disk; truncate --size=64M disk; }

seen=
for size in +100 +500K +1500K +2047K; do
    new
    printf 'g\nn\n1\n2048\n%s\nw\n' "$size" | fdisk --wipe never disk >log 2>&1
    seen+="fdisk $size $(sectors)"$'\n'
done
for size in 500K 1500K; do
    new
    echo ",$size" | sfdisk --quiet --label gpt disk
    seen+="sfdisk $size $(sectors)"$'\n'
done
for size in +100 +500K +1500K; do
    new
    sgdisk --new="1:2048:$size" disk >log
    seen+="sgdisk $size $(sectors)"$'\n'
done
same 'what the tools made' 'fdisk +100 101
fdisk +500K 1
fdisk +1500K 2048
fdisk +2047K 4096
sfdisk 500K 1000
sfdisk 1500K 2048
sgdisk +100 100
sgdisk +500K 1000
sgdisk +1500K 3000
' "$seen"
echo "as it was: $seen"
