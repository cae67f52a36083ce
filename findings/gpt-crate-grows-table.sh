#!/usr/bin/env bash
# To rename a partition, the crate gpt writes a longer table over the partition's data, and another behind the end of the disk.
#
# Versions: crate gpt 4.1.0, gdisk 1.0.9, sfdisk 2.38.1 (util-linux) of Debian 12. Needs cargo.
# Behaviour: a GPT may have other numbers of entries than 128; `sgdisk --resize-table=56` makes one of 56, and a first partition at sector 16. update_partitions() with the partitions that the crate has just
# read, one name changed, fails with "partition would change but is not allowed": the crate counts the new table's entries from the partitions given, at least 128, and 128 are not 56. With
# change_partition_count(true), whose documentation warns of the first and last usable block, it is done: the table now ends at sector 33, in the partition that begins at 16, whose first 18 sectors are
# overwritten, and which libblkid leaves out from now on, as it begins before the first usable one. The last usable sector stays, so that the longer backup goes 17 sectors past the end, and an image file grows by them. No call returns an error. With 128 entries all is well.
#
# Seen: by default the error; else Ok, 18 sectors of data changed, first usable 34 with a partition at 16, last usable 131056 of 131072 sectors, the file 131089 sectors long
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

mkdir -p renamer/src
cat >renamer/Cargo.toml <<'END'
[package]
name = "renamer"
version = "0.1.0"
edition = "2021"
[dependencies]
gpt = "=4.1.0"
[workspace]
END
cat >renamer/src/main.rs <<'END'
// renamer CHANGE: names partition 1 of the disk
fn rename(change: bool) -> Result<(), gpt::GptError> {
    let mut disk = gpt::GptConfig::new().writable(true).change_partition_count(change).open("disk")?;
    let mut partitions = disk.partitions().clone();
    partitions.get_mut(&1).unwrap().name = "foo".into();
    disk.update_partitions(partitions)?;
    disk.write().map(|_| ())
}

fn main() {
    match rename(std::env::args().nth(1).unwrap() == "true") {
        Ok(()) => println!("done"),
        Err(why) => println!("{why}"),
    }
}
END
(unset LD_LIBRARY_PATH; CARGO_TARGET_DIR=$dir/target cargo build --quiet --manifest-path renamer/Cargo.toml >log 2>&1) || { cat log >&2; exit 1; }

# new ENTRIES FIRST: a disk whose partition is full of data
new() {
    rm -f disk
    truncate --size=64M disk
    sgdisk --resize-table="$1" --set-alignment=1 --new="1:$2:+1M" disk >log
    tr '\0' 'D' </dev/zero | dd of=disk bs=512 seek="$2" count=2048 iflag=fullblock conv=notrunc status=none 2>>log || true
}
# data FIRST: how many of the 2048 sectors are what they were
data() { dd if=disk bs=512 skip="$1" count=2048 status=none | fold --width=512 | grep -a -c '^D\{512\}$'; }
header() { sfdisk --dump disk 2>>log | sed -nE "s/^$1: //p"; }

new 128 34
same 'the rename of 128' 'done' "$(target/debug/renamer false)"
same 'data under 128' 2048 "$(data 34)"

new 56 16
same 'what libblkid has before' 16 "$(partx --show --noheadings --output START disk | xargs)"
same 'the first usable sector' 16 "$(header first-lba)"
same 'the rename of 56' 'partition would change but is not allowed' "$(target/debug/renamer false)"
same 'data under 56' 2048 "$(data 16)"
same 'the rename of 56 with leave' 'done' "$(target/debug/renamer true)"
same 'first and last usable sector' '34 131056' "$(header first-lba) $(header last-lba)"
same 'where sfdisk has the partition' 16 "$(sfdisk --dump disk 2>>log | sed -nE 's/.*start= *([0-9]+),.*/\1/p')"
same 'what libblkid has' '' "$(partx --show --noheadings --output START disk)"
same 'sectors in the file' 131089 "$(($(stat --format=%s disk) / 512))"
same 'data under what was 56' 2030 "$(data 16)"
echo "as it was: a rename costs 18 sectors of data, and the file grows"
