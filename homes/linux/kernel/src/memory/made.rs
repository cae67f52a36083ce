//! Memory files of our own, whose length nobody changes.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, write};

/// What they are made of.
const ZEROES: [u8; 16 << 10] = [0; 16 << 10];

/// What keeps its length for ever.
pub const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A memory file that nobody can make longer or shorter. (The sandbox lets nobody set the length of a file; and what is written is there, and
/// costs no fault later.)
pub fn made_of_zeroes(name: &str, len: u64) -> Result<OwnedFd, Errno> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    while left > 0 {
        let part = ZEROES.get(..left).unwrap_or(&ZEROES);
        match write(&file, part)? {
            0 => return Err(Errno::NOSPC),
            count => left -= count.min(left),
        }
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}
