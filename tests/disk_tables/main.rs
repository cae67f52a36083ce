//! Partition tables: sound ones, held against other programs that read and write them; broken ones; and hostile ones.
//!
//! * `image`: disks in memory, and how to scan them.
//! * `sound`: what a sound table says, at 512 and 4096 bytes per block.
//! * `oracle`: the `gpt` crate, `sgdisk` and `sfdisk` say the same.
//! * `tools`, `guest`: a Linux kernel makes the same of what programs write.
//! * `broken`: the corpus of broken tables; each costs what it must, and no more.
//! * `odd`: one odd entry costs no other.
//! * `hostile`: whatever is on a disk, a partition never leaves it.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod broken;
mod guest;
mod hostile;
mod image;
#[path = "../machine/mod.rs"]
#[expect(dead_code, reason = "other tests with machines use more of it")]
mod machine;
mod odd;
mod oracle;
mod sound;
mod tools;
