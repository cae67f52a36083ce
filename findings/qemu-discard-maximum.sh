#!/usr/bin/env bash
# QEMU's virtio disk with blocks of 4096 bytes offers a largest discard that it refuses.
#
# Version: QEMU 7.2 of Debian 12 (machine microvm, virtio-blk-device, version 1), driven through its qtest protocol; the guest's processor only halts.
# Behaviour: the config space says max_discard_sectors 4194303 and max_write_zeroes_sectors 4194303, with any block size. With logical_block_size=4096 that is
# no multiple of the block (8 sectors), and a discard or a write of zeroes of just this many sectors from sector 0 ends with VIRTIO_BLK_S_IOERR, as does each that is not whole blocks;
# the largest one that is done has 4194296. With blocks of 512 the same request is done. A driver has to round the device's own maximum down to blk_size; virtio
# does not say so, and the field discard_sector_alignment (8 here) is called a hint for splitting.
#
# Seen (maximum offered; status of 4194303, 4194296): blocks of 512 4194303; 0 0, of 4096 4194303; 1 0; for both kinds of request
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
qemu=1:7.2+dfsg-7+deb12u18
mkdir -p debs/partial
# Whatever of QEMU's libraries is not installed comes with it.
apt-get -qq -y --no-install-recommends --reinstall --download-only -o Debug::NoLocking=1 -o Dir::Cache::archives="$dir/debs" install \
    qemu-system-x86="$qemu*" qemu-system-common="$qemu*" qemu-system-data="$qemu*" seabios=1.16.2-1 >log 2>&1 || { cat log >&2; exit 1; }
for package in debs/*.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

truncate --size=4G disk
# A firmware of one instruction: hlt, and back to it.
{ head --bytes=65520 /dev/zero; printf '\xf4\xeb\xfd'; head --bytes=13 /dev/zero; } >firmware
cat >ask.py <<'END'
import struct, subprocess, sys, time

block = sys.argv[1]
qemu = subprocess.Popen(
    ["root/usr/bin/qemu-system-x86_64", "-L", "root/usr/share/qemu", "-L", "root/usr/share/seabios", "-M", "microvm", "-accel", "tcg", "-bios", "firmware", "-m", "64",
     "-nodefaults", "-display", "none", "-qtest", "stdio", "-qtest-log", "/dev/null", "-global", "virtio-mmio.force-legacy=false",
     "-drive", "if=none,id=d,format=raw,file=disk,discard=unmap",
     "-device", f"virtio-blk-device,drive=d,logical_block_size={block},physical_block_size={block}"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(*words):
    qemu.stdin.write(" ".join(w if isinstance(w, str) else hex(w) for w in words) + "\n")
    qemu.stdin.flush()
    while (answer := qemu.stdout.readline().split())[:1] != ["OK"]:
        if answer[:1] != ["IRQ"]:
            sys.exit(f"{words}: {answer}")
    return answer[1:]


def put(at, data):
    say("write", at, len(data), "0x" + data.hex())


def get(at, size):
    return bytes.fromhex(say("read", at, size)[0][2:])


def register(at):
    return int(say("readl", at)[0], 16)


# The one with a block device (2) among the places for virtio-mmio.
base = next(at for at in range(0xFEB00000, 0xFEB03000, 0x200) if register(at + 8) == 2)
SIZE, TABLE, AVAILABLE, USED, REQUEST = 8, 0x100000, 0x101000, 0x102000, 0x103000
# ACKNOWLEDGE and DRIVER; the features BLK_SIZE, DISCARD, WRITE_ZEROES and VERSION_1; FEATURES_OK; queue 0; DRIVER_OK.
for at, value in [(0x70, 0), (0x70, 3), (0x24, 0), (0x20, 1 << 6 | 1 << 13 | 1 << 14), (0x24, 1), (0x20, 1), (0x70, 11),
                  (0x30, 0), (0x38, SIZE), (0x80, TABLE), (0x90, AVAILABLE), (0xA0, USED), (0x44, 1), (0x70, 15)]:
    say("writel", base + at, value)
asked = 0


def ask(kind, sectors):
    global asked
    put(REQUEST, struct.pack("<IIQ", kind, 0, 0) + struct.pack("<QII", 0, sectors, 0) + b"\xff")
    put(TABLE, struct.pack("<QIHH", REQUEST, 16, 1, 1) + struct.pack("<QIHH", REQUEST + 16, 16, 1, 2) + struct.pack("<QIHH", REQUEST + 32, 1, 2, 0))
    put(AVAILABLE + 4 + 2 * (asked % SIZE), struct.pack("<H", 0))
    asked += 1
    put(AVAILABLE + 2, struct.pack("<H", asked))
    say("writel", base + 0x50, 0)
    for _ in range(1200):
        if struct.unpack("<H", get(USED + 2, 2))[0] == asked:
            return get(REQUEST + 32, 1)[0]
        time.sleep(0.05)
    sys.exit("no answer")


print("blk_size", register(base + 0x100 + 20))
for name, kind, field in ("discard", 11, 36), ("zeroes", 13, 48):
    most = register(base + 0x100 + field)
    print(name, most, ask(kind, most), most & ~7, ask(kind, most & ~7))
qemu.kill()
END
same 'what the disk with blocks of 512 does' 'blk_size 512
discard 4194303 0 4194296 0
zeroes 4194303 0 4194296 0' "$(python3 ask.py 512)"
same 'what the disk with blocks of 4096 does' 'blk_size 4096
discard 4194303 1 4194296 0
zeroes 4194303 1 4194296 0' "$(python3 ask.py 4096)"
echo "as it was: 4194303 sectors are the maximum, and refused with blocks of 4096"
