#!/usr/bin/env bash
# A GPT label with a character beyond the basic multilingual plane: one tool writes it, one cuts it, one drops the whole label.
#
# Versions: sfdisk 2.38.1 (util-linux), parted 3.5, sgdisk 1.0.9, partx 2.38.1 (libblkid) of Debian 12; locale C.UTF-8.
# Behaviour: PartitionName is UTF-16 by UEFI, and the label "a😀b" is valid there. sgdisk writes it as a surrogate pair. parted writes
# "a" and stops, with the warning "failed to translate partition name". sfdisk writes an empty label and says nothing. (Its --part-label says
# "Failed to translate partition name, name not changed.: Success".) All end with status 0. Reading what sgdisk wrote, libblkid shows the label,
# and parted an empty one, with the same warning. A script that finds partitions by such a label finds none, or the wrong one.
#
# Seen (label as libblkid reads it): sgdisk a😀b, parted a, sfdisk empty
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

label='a😀b'
new() { rm -f disk; truncate --size=64M disk; }
name() { partx --show --noheadings --output NAME disk | xargs; }

new
printf 'label: gpt\nstart=2048, size=2048, name="%s"\n' "$label" | sfdisk --quiet disk >log 2>&1
same 'what sfdisk says' '' "$(<log)"
same "sfdisk's label" '' "$(name)"
sfdisk --part-label disk 1 "$label" >log 2>&1
grep -q 'name not changed.: Success' log
same "sfdisk's label, set afterwards" '' "$(name)"

new
parted --script disk mklabel gpt mkpart "$label" 1MiB 2MiB >log 2>&1
same 'what parted says' 'Warning: failed to translate partition name' "$(<log)"
same "parted's label" 'a' "$(name)"

new
sgdisk --new=1:2048:+1M --change-name="1:$label" disk >log
same "sgdisk's label" "$label" "$(name)"
parted --script --machine disk print >log 2>&1
grep -q 'failed to translate partition name' log
same 'how parted reads it' '1:1049kB:2097kB:1049kB:::;' "$(tail -n 1 log)"
echo "as it was: sgdisk writes the label, parted cuts it, sfdisk drops it"
