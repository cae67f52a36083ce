//! Partition tables: sound ones, held against other programs that read and write them; broken ones; and hostile ones.
//!
//! * `image`: disks in memory, and how to scan them.
//! * `sound`: what a sound table says, at 512 and 4096 bytes per block.
//! * `oracle`: the `gpt` crate, `sgdisk` and `sfdisk` say the same.
//! * `broken`: the corpus of broken tables; each costs what it must, and no more.
//! * `hostile`: whatever is on a disk, a partition never leaves it.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod broken;
mod hostile;
mod image;
mod oracle;
mod sound;
