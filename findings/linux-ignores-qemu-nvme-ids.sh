#!/usr/bin/env bash
# The UUID that a namespace of QEMU's NVMe controller is given is not seen by Linux, which takes all identifiers of this controller for bogus.
#
# Versions: Linux 6.1.192 of Debian 12, as a guest of QEMU 7.2 (TCG; nvme, nvme-ns), busybox 1.35, nvme-cli 2.3.
# Behaviour: `-device nvme-ns,uuid=…,eui64=…` is what QEMU offers to give a disk a name that stays. Linux has the PCI id 1b36:0010 in its list of controllers whose identifiers may not be trusted: it
# says "Ignoring bogus Namespace Identifiers", and drops those that were given by hand as well. wwid, which /dev/disk/by-id's
# nvme-eui. and nvme-uuid. names are made of, becomes vendor, serial, model and namespace number in hexadecimal. `nvme ns-descs` in the same
# guest asks the controller itself, and is told both. So the UUID is in the namespace, and no link in the guest's /dev/disk/by-id has it.
#
# Seen: ns-descs uuid 11111111-2222-4333-8444-555555555555 and eui64 0011223344556677; sysfs wwid nvme.1b36-6f6e65-51454d55204e564d65204374726c-00000001, no uuid, no eui
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
qemu=1:7.2+dfsg-7+deb12u18
mkdir -p debs/partial
apt-get -qq download linux-image-6.1.0-57-amd64=6.1.192-3 busybox-static=1:1.35.0-4+deb12u1+b1 >log 2>&1 || { cat log >&2; exit 1; }
# Whatever of their libraries is not installed comes with them.
apt-get -qq -y --no-install-recommends --reinstall --download-only -o Debug::NoLocking=1 -o Dir::Cache::archives="$dir/debs" install \
    qemu-system-x86="$qemu*" qemu-system-common="$qemu*" qemu-system-data="$qemu*" seabios=1.16.2-1 nvme-cli=2.4+really2.3-3 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb debs/*.deb; do dpkg -x "$package" root; done

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

# The guest: busybox, the drivers' modules in the order of what they need, and a script.
mkdir -p guest/bin
cp root/bin/busybox guest/bin/
modules='crc64 crct10dif_common crc-t10dif crc64-rocksoft t10-pi nvme-core nvme'
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
for name in wwid uuid eui; do echo "SAID \$name \$(cat /sys/block/nvme0n1/\$name 2>/dev/null)"; done
LD_LIBRARY_PATH=/lib64 /nvme ns-descs /dev/nvme0n1 | sed -nE 's/^(uuid|eui64) *: */SAID told \1 /p'
echo "SAID \$(dmesg | grep -c 'Ignoring bogus Namespace Identifiers') lines on bogus ones"
poweroff -f
END
chmod +x guest/init
cp root/usr/sbin/nvme guest/nvme
libraries=$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu
mkdir -p guest/lib64
LD_LIBRARY_PATH=$libraries ldd guest/nvme | grep -o '/[^ ]*' | while read -r library; do cp -L "$library" guest/lib64/; done
(cd guest && find . | bin/busybox cpio -o -H newc 2>/dev/null) >initrd
truncate --size=64M one

# said: what the guest says of the namespace
said() {
    (
        export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"
        timeout 500 root/usr/bin/qemu-system-x86_64 -L root/usr/share/qemu -L root/usr/share/seabios -M q35 -m 256 -accel tcg -nodefaults -display none -no-reboot -serial stdio \
            -kernel root/boot/vmlinuz-6.1.0-57-amd64 -initrd initrd -append 'console=ttyS0 loglevel=1 panic=-1' \
            -drive if=none,id=one,format=raw,file=one -device nvme,id=controller,serial=one \
            -device nvme-ns,bus=controller,drive=one,uuid=11111111-2222-4333-8444-555555555555,eui64=0x0011223344556677 </dev/null 2>>log
    ) | tr -d '\r' | sed -nE 's/ +$//; s/^.*SAID //p'
}
same 'what Linux has, and what it is told' 'wwid nvme.1b36-6f6e65-51454d55204e564d65204374726c-00000001
uuid
eui
told uuid 11111111-2222-4333-8444-555555555555
told eui64 0011223344556677
1 lines on bogus ones' "$(said)"
echo "as it was: the controller tells a UUID, and Linux has none"
