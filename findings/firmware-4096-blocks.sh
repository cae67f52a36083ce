#!/usr/bin/env bash
# U-Boot takes a virtio disk with blocks of 4096 bytes for one with blocks of 512 and cannot read it; SeaBIOS does not look at it.
#
# Versions: U-Boot 2023.01 (u-boot-qemu), SeaBIOS 1.16.2, QEMU 7.2 (TCG, machine pc, virtio-blk-pci), of Debian 12.
# Behaviour: the same file is attached with logical_block_size=512 and 4096. U-Boot prints the same geometry for both, "131072 x 512": it never
# looks at blk_size. With 4096 it still asks for single units of 512 bytes, which QEMU, as virtio wants it, refuses: `virtio read ADDR 0 1` says "-5 blocks read: ERROR"
# (with a minus sign: the error number is printed as a count), and no partition table can be found. Eight units at once, from an aligned place, are read.
# SeaBIOS reads blk_size, writes "block size 4096 is unsupported" to its debug port alone, and goes on to the next thing to boot.
#
# Seen: U-Boot 131072 x 512 twice; reads of 1 block OK and ERROR, of 8 blocks OK and OK; SeaBIOS one line on 4096, none on 512
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
qemu=1:7.2+dfsg-7+deb12u18
mkdir -p debs/partial
# Whatever of QEMU's libraries is not installed comes with it.
apt-get -qq -y --no-install-recommends --reinstall --download-only -o Dir::Cache::archives="$dir/debs" install \
    qemu-system-x86="$qemu*" qemu-system-common="$qemu*" qemu-system-data="$qemu*" seabios=1.16.2-1 u-boot-qemu='2023.01+dfsg-2*' >log 2>&1 || { cat log >&2; exit 1; }
for package in debs/*.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

truncate --size=64M disk
printf hello | dd of=disk conv=notrunc status=none
# machine BLOCK WORD...: in the place of the (sub)shell
machine() {
    local block=$1
    shift
    exec root/usr/bin/qemu-system-x86_64 -L root/usr/share/qemu -L root/usr/share/seabios -M pc -m 256 -accel tcg -nic none -display none -no-reboot \
        -drive if=none,id=d,file=disk,format=raw -device "virtio-blk-pci,drive=d,logical_block_size=$block,physical_block_size=$block" "$@"
}

# until FILE TEXT: waits until it is there
until_() {
    for _ in $(seq 600); do grep -a -q "$2" "$1" 2>>log && return; sleep 0.1; done
    printf '%s was not said, but:\n' "$2" >&2
    tail -n 20 "$1" >&2
    exit 1
}

uboot() {
    mkfifo in
    machine "$1" -bios root/usr/lib/u-boot/qemu-x86_64/u-boot.rom -serial stdio <in >out 2>&1 &
    exec 3>in
    until_ out 'stop autoboot'
    # A key stops it; keys that come while it reads are lost.
    for _ in $(seq 100); do printf ' ' >&3; grep -a -q '^=> ' out && break; sleep 0.2; done
    for command in 'virtio scan' 'virtio info' 'virtio read 2000000 0 1' 'virtio read 2000000 0 8'; do
        sleep 1
        printf '\n%s\necho done\n' "$command" >&3
        sleep 1
        printf '\n' >&3
    done
    until_ out 'count 8 \.\.\. .*blocks read'
    exec 3>&-
    kill $!
    wait $! 2>/dev/null || true
    rm in
    tr -d '\r\b' <out | grep -a -o -E '\([0-9]+ x [0-9]+\)|-?[0-9]+ blocks read: [A-Z]+' | uniq | paste -s -d ' '
}
same 'what U-Boot says of 512' '(131072 x 512) 1 blocks read: OK 8 blocks read: OK' "$(uboot 512)"
same 'what U-Boot says of 4096' '(131072 x 512) -5 blocks read: ERROR 8 blocks read: OK' "$(uboot 4096)"

seabios() {
    machine "$1" -chardev file,id=said,path=said -device isa-debugcon,iobase=0x402,chardev=said &
    until_ said 'Booting from\|No bootable device'
    kill $!
    wait $! 2>/dev/null || true
    grep -a -c 'virtio-blk .* block size 4096 is unsupported' said || true
    rm said
}
same 'lines of SeaBIOS on 512' 0 "$(seabios 512)"
same 'lines of SeaBIOS on 4096' 1 "$(seabios 4096)"
echo "as it was: U-Boot reads 4096-byte blocks as 512, SeaBIOS leaves such disks out"
