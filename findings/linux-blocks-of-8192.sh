#!/usr/bin/env bash
# One disk with blocks of 8192 bytes, three drivers of Linux: no disk, a disk of 0 bytes with an error, and a disk of 0 bytes without a word.
#
# Versions: Linux 6.1.192 of Debian 12, as a guest of QEMU 7.2 (TCG; virtio-blk-pci, nvme, virtio-scsi-pci with scsi-hd), busybox 1.35.
# Behaviour: virtio, NVMe and SCSI all allow blocks larger than a page, and QEMU offers a file of 64 MiB with logical_block_size=8192 on each. virtio_blk's probe fails ("invalid block size: 0x2000"): there is no vda.
# sd says "Unsupported sector size 8192" and makes sda with 0 bytes. nvme makes nvme0n1 with 0 bytes and, of all things, a logical block of 512, and the log says nothing of it: the controller is live and its
# node is there, opens, and reads as an empty file with status 0. With 4096 all three have 131072 sectors.
#
# Seen (name, sectors of 512, logical block): with 8192 nvme0n1 0 512, sda 0 512, and lines of the log on block sizes from virtio_blk and sd alone; with 4096 nvme0n1, sda, vda 131072 4096
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
qemu=1:7.2+dfsg-7+deb12u18
mkdir -p debs/partial
apt-get -qq download linux-image-6.1.0-57-amd64=6.1.192-3 busybox-static=1:1.35.0-4+deb12u1+b1 >log 2>&1 || { cat log >&2; exit 1; }
# Whatever of QEMU's libraries is not installed comes with it.
apt-get -qq -y --no-install-recommends --reinstall --download-only -o Debug::NoLocking=1 -o Dir::Cache::archives="$dir/debs" install \
    qemu-system-x86="$qemu*" qemu-system-common="$qemu*" qemu-system-data="$qemu*" seabios=1.16.2-1 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb debs/*.deb; do dpkg -x "$package" root; done

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

# The guest: busybox, the drivers' modules in the order of what they need, and a script.
mkdir -p guest/bin
cp root/bin/busybox guest/bin/
modules='virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk crc64 crct10dif_common crc-t10dif crc64-rocksoft t10-pi nvme-core nvme scsi_common scsi_mod sd_mod virtio_scsi'
for module in $modules; do find root/lib/modules -name "$module.ko" -exec cp {} guest/ \;; done
cat >guest/init <<END
#!/bin/busybox sh
/bin/busybox mkdir /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $modules; do insmod /\$module.ko; done
sleep 5
for disk in /sys/block/*; do echo "SAID \${disk##*/} \$(cat \$disk/size \$disk/queue/logical_block_size | xargs)"; done
dmesg | sed -nE 's/.*(virtio_blk: invalid block size: .*|Unsupported sector size .*|nvme.*(size|block|capacity|lba).*)/SAID \1/p'
[ ! -e /dev/nvme0n1 ] || echo "SAID read \$(dd if=/dev/nvme0n1 bs=8192 count=1 2>/dev/null | wc -c)"
poweroff -f
END
chmod +x guest/init
(cd guest && find . | bin/busybox cpio -o -H newc 2>/dev/null) >initrd
truncate --size=64M one two three

# said BLOCK: what the guest says of the disks with such blocks
said() {
    local options="logical_block_size=$1,physical_block_size=$1"
    (
        export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"
        timeout 500 root/usr/bin/qemu-system-x86_64 -L root/usr/share/qemu -L root/usr/share/seabios -M q35 -m 256 -accel tcg -nodefaults -display none -no-reboot -serial stdio \
            -kernel root/boot/vmlinuz-6.1.0-57-amd64 -initrd initrd -append 'console=ttyS0 loglevel=1 panic=-1' \
            -drive if=none,id=one,format=raw,file=one -device "virtio-blk-pci,drive=one,$options" \
            -drive if=none,id=two,format=raw,file=two -device "nvme,serial=two,drive=two,$options" \
            -drive if=none,id=three,format=raw,file=three -device virtio-scsi-pci -device "scsi-hd,drive=three,$options" </dev/null 2>>log
    ) | tr -d '\r' | sed -n 's/^.*SAID //p' | sort
}
same 'what Linux has of 4096' 'nvme0n1 131072 4096
read 8192
sda 131072 4096
vda 131072 4096' "$(said 4096)"
same 'what Linux has of 8192' 'Unsupported sector size 8192.
nvme0n1 0 512
read 0
sda 0 512
virtio_blk: invalid block size: 0x2000' "$(said 8192)"
echo "as it was: with blocks of 8192 no vda, an sda of 0 bytes, and an nvme0n1 of 0 bytes that nothing is said of"
