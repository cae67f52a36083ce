#!/usr/bin/env bash
# Two disks that systemd-repart divides on one machine have the same UUIDs.
#
# Version: systemd-repart 252 (systemd 252.39) of Debian 12, read by sfdisk 2.38.1.
# Behaviour: without --seed the disk's GUID and every PARTUUID are hashes of the machine ID and of the partition's type and place in the definitions; nothing
# of the disk goes into them. Two new disks (or images) made by one host from one set of definitions are twins to the last UUID: /dev/disk/by-partuuid, root=PARTUUID=
# and everything else that takes a PARTUUID for unique then name whichever came last. --seed=random makes them differ.
#
# Seen: two images, one disk GUID, one partition UUID; with --seed=random two of each
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 systemd=252.39-1~deb12u2 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}
LD_LIBRARY_PATH+=":$dir/root/lib/x86_64-linux-gnu/systemd:$dir/root/usr/lib/x86_64-linux-gnu/systemd"

mkdir -p definitions tree/etc
echo 0123456789abcdef0123456789abcdef >tree/etc/machine-id
printf '[Partition]\nType=linux-generic\nSizeMinBytes=8M\nSizeMaxBytes=8M\n' >definitions/10.conf

# uuids IMAGE WORD…
uuids() {
    truncate --size=64M "$1"
    systemd-repart --root="$dir/tree" --definitions="$dir/definitions" --empty=require --dry-run=no "${@:2}" "$dir/$1" >log 2>&1 ||
        { cat log >&2; exit 1; }
    sfdisk --disk-id "$1"
    sfdisk --part-uuid "$1" 1
}

one=$(uuids one)
[[ $(wc -l <<<"$one") == 2 ]]
same 'the UUIDs of the second image' "$one" "$(uuids two)"
three=$(uuids three --seed=random)
four=$(uuids four --seed=random)
[[ $three != "$four" && $three != "$one" ]] || { echo '--seed=random makes twins as well' >&2; exit 1; }
echo "as it was: two images, the same UUIDs: ${one//$'\n'/ }"
