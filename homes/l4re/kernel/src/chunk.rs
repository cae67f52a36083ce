//! How a dataspace is divided for DMA.
//!
//! A Dma_space chooses the bus address of what it maps, takes the same memory only once, and maps no faster than page by page.
//! So a dataspace is mapped in chunks that do not depend on who registers what of it: `chunk_size(its size)` bytes each, from
//! offset 0. The server registers one region for each chunk that a client's region touches; the Dma_space behind
//! [`DmaSpace`](nvme_platform::DmaSpace) maps each chunk once, for whoever uses it.

/// The least, and what most dataspaces get: short enough for one step.
const LEAST: u64 = 64 << 20;
/// Most chunks of one dataspace: two whole ones are as many regions as a session may have.
const CHUNKS_MAX: u64 = 256;

/// The size of the chunks of a dataspace of `size` bytes: a power of two.
pub fn chunk_size(size: u64) -> u64 {
    size.div_ceil(CHUNKS_MAX).checked_next_power_of_two().unwrap_or(1 << 63).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataspace_has_256_chunks_at_most() {
        for size in [1, LEAST, 4 << 30, (4 << 30) + 1, (16 << 30) - 1, (16 << 30) + 1, 1 << 40, u64::MAX] {
            let chunk = chunk_size(size);
            assert!(
                chunk.is_power_of_two() && chunk >= LEAST && size.div_ceil(chunk) <= CHUNKS_MAX,
                "{size:#x}"
            );
        }
        assert_eq!((chunk_size(16 << 30), chunk_size((16 << 30) + 1)), (64 << 20, 128 << 20));
    }
}
