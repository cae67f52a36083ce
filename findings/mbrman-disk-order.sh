#!/usr/bin/env bash
# mbrman reads no MBR whose logical partitions are not in the order of the disk, and parted makes such ones.
#
# Versions: crate mbrman 0.6.1, parted 3.5, sfdisk and partx 2.38.1 (util-linux) of Debian 12. Needs cargo.
# Behaviour: logical partitions are a chain, and a chain may lead back and forth. Three of them are made with parted, the first is removed, and one is made
# again in its place: parted appends it to the chain, so that its number is 7 and it lies before 5 and 6. sfdisk, partx and Linux read this table. mbrman
# refuses all of it, the primary partition included: "inconsistent extended boot record". Before the removal, and after it, it reads the same disk.
#
# Seen (number and first sector): partx 1 2048, 2 10240, 5 20480, 6 40960, 7 12288; mbrman an error, and without the last step 1, 2, 5 and 6
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download util-linux=2.38.1-5+deb12u3 libblkid1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 parted=3.5-3+deb12u1 libparted2=3.5-3+deb12u1 libdevmapper1.02.1=2:1.02.185-2 >log 2>&1 || { cat log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/sbin:$dir/root/usr/sbin:$dir/root/bin:$dir/root/usr/bin:$PATH"
export LD_LIBRARY_PATH="$dir/root/lib/x86_64-linux-gnu:$dir/root/usr/lib/x86_64-linux-gnu"

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}


mkdir -p reader/src
cat >reader/Cargo.toml <<'END'
[package]
name = "reader"
version = "0.1.0"
edition = "2021"
[dependencies]
mbrman = "=0.6.1"
[workspace]
END
cat >reader/src/main.rs <<'END'
fn main() {
    let mut file = std::fs::File::open(std::env::args().nth(1).unwrap()).unwrap();
    match mbrman::MBR::read_from(&mut file, 512) {
        Ok(mbr) => mbr.iter().filter(|(_, p)| p.is_used()).for_each(|(n, p)| println!("{n} {}", p.starting_lba)),
        Err(why) => println!("{why}"),
    }
}
END
(unset LD_LIBRARY_PATH; CARGO_TARGET_DIR=$dir/target cargo build --quiet --manifest-path reader/Cargo.toml >log 2>&1) || { cat log >&2; exit 1; }
mbrman() { target/debug/reader disk | paste -s -d ' '; }
partx_() { partx --show --noheadings --output NR,START disk | xargs; }

truncate --size=64M disk
parted --script disk mklabel msdos mkpart primary 1MiB 3MiB mkpart extended 5MiB 60MiB \
    mkpart logical 6MiB 7MiB mkpart logical 10MiB 11MiB mkpart logical 20MiB 60MiB
same 'what mbrman reads of three' '1 2048 2 10240 5 12288 6 20480 7 40960' "$(mbrman)"
parted --script disk rm 5
same 'what mbrman reads of two' '1 2048 2 10240 5 20480 6 40960' "$(mbrman)"
parted --script disk mkpart logical 6MiB 7MiB
same 'what libblkid reads' '1 2048 2 10240 5 20480 6 40960 7 12288' "$(partx_)"
same 'how many partitions sfdisk reads' 5 "$(sfdisk --dump disk | grep -c start=)"
same 'what mbrman reads then' 'inconsistent extended boot record' "$(mbrman)"
echo "as it was: mbrman refuses the table that all others read"
