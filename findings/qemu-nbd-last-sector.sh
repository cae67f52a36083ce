#!/usr/bin/env bash
# The last sector of a disk that QEMU has from an NBD server can be read, and never written: "No space left on device".
#
# Versions: qemu-img and qemu-io 7.2 (as NBD client), nbdkit 1.32.5 (plugin file) of Debian 12.
# Behaviour: NBD counts bytes, and an export may have 1000. QEMU rounds that up to whole sectors: its disk has 1024 bytes, and 24 zeroes are read behind the file's end. A write of the last sector is
# sent as it is, 512 bytes, 24 of them beyond the export; the server refuses it, the bytes that do fit included. The error is ENOSPC, on which QEMU's -drive by default stops the guest (werror=enospc), for want of space
# that nobody can add. Zeroing and `qemu-img convert -n` of a disk of the same "virtual size" fail so, too. QEMU's own server rounds the size before it tells it (1024), and the file grows.
#
# Seen: export 1000, virtual size 1024; read of 512 at 512 done, write "No space left on device", write of 488 done; through qemu-nbd the write is done, file 1024
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir -p debs/partial
# Whatever of their libraries is not installed comes with them.
apt-get -qq -y --no-install-recommends --reinstall --download-only -o Debug::NoLocking=1 -o Dir::Cache::archives="$dir/debs" install \
    qemu-utils='1:7.2+dfsg-7+deb12u18*' nbdkit=1.32.5-1 libnbd-bin=1.14.2-1 >log 2>&1 || { cat log >&2; exit 1; }
for package in debs/*.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

head --bytes=1000 /dev/urandom >file
# by_nbdkit COMMAND: while nbdkit serves the file
by_nbdkit() { nbdkit -U - "$dir/root/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-file-plugin.so" file --run "$1" 2>said || true; }
# What qemu-io says, without figures of time.
io() { grep -o -E '^(read|wrote) [0-9/]+ bytes|^write failed: .*' | paste -s -d ';'; }

same 'the size of the export' 1000 "$(by_nbdkit 'nbdinfo --size $uri')"
same 'the size of the disk' 1024 "$(by_nbdkit 'qemu-img info --output json $uri' | sed -nE 's/^ *"virtual-size": ([0-9]+),/\1/p' | head -n 1)"
same 'a read of the last sector' 'read 512/512 bytes' "$(by_nbdkit 'qemu-io -f raw -c "read 512 512" $uri' | io)"
before=$(sha256sum file)
same 'a write of it' 'write failed: No space left on device' "$(by_nbdkit 'qemu-io -f raw -c "write -P 1 512 512" $uri 2>&1' | io)"
same 'zeroes there' 'write failed: No space left on device' "$(by_nbdkit 'qemu-io -f raw -c "write -z 512 512" $uri 2>&1' | io)"
head --bytes=1024 /dev/urandom >other
same 'a copy of 1024 bytes' 'qemu-img: error while writing at byte 0: No space left on device' "$(by_nbdkit 'qemu-img convert -n -f raw -O raw other $uri 2>&1' | grep qemu-img:)"
same 'the file after all that' "$before" "$(sha256sum file)"
same 'a write of what there is' 'wrote 488/488 bytes' "$(by_nbdkit 'qemu-io -f raw -c "write -P 1 512 488" $uri' | io)"

qemu-nbd --format=raw --socket="$dir/socket" --pid-file="$dir/pid" file &
for _ in $(seq 600); do [[ -e pid ]] && break; sleep 0.1; done
same 'a write of it through qemu-nbd' 'wrote 512/512 bytes' "$(qemu-io -f raw -c 'write -P 1 512 512' "nbd+unix:///?socket=$dir/socket" 2>&1 | io)"
wait
same 'the file then' 1024 "$(stat --format=%s file)"
echo "as it was: the last sector is read, and cannot be written"
