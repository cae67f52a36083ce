//! Data that says where it belongs: each little-endian 64-bit word is its own byte offset on the disk.

use std::io::Write;
use std::path::Path;

/// Fills `into` with the pattern of byte offset `at`.
pub fn write_pattern(at: u64, into: &mut [u8]) {
    for (i, word) in into.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(at + i as u64 * 8).to_le_bytes());
    }
}

/// Whether `bytes` are the pattern of byte offset `at`.
pub fn check_pattern(at: u64, bytes: &[u8]) -> bool {
    bytes.chunks_exact(8).enumerate().all(|(i, word)| *word == (at + i as u64 * 8).to_le_bytes())
}

/// Makes a file of `len` bytes (a multiple of eight) of the pattern.
pub fn fill_pattern(path: &Path, len: u64) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut block = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let n = block.len().min((len - at) as usize);
        let part = &mut block[..n];
        write_pattern(at, part);
        file.write_all(part)?;
        at += n as u64;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_holds_only_where_it_was_made() {
        let mut bytes = [0; 64];
        write_pattern(4096, &mut bytes);
        assert!(check_pattern(4096, &bytes) && !check_pattern(4104, &bytes));
        bytes[63] ^= 1;
        assert!(!check_pattern(4096, &bytes));
    }
}
