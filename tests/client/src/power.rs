//! What `blkpower` writes, for whoever looks at what is left of it.

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Blocks of a round.
pub const PER_ROUND: usize = 8;

/// The blocks of a round: different ones, and never the first, on a device of so many.
pub fn places(round: u64, blocks: u64) -> [u64; PER_ROUND] {
    let span = blocks.saturating_sub(1).max(PER_ROUND as u64);
    // A stride that has no divisor with most sizes, from another place in each round.
    let first = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let stride = span / PER_ROUND as u64;
    std::array::from_fn(|at| 1 + (first % stride.max(1) + at as u64 * stride) % span)
}

/// What a block holds after a round.
pub fn content(place: u64, round: u64) -> Vec<u8> {
    let word = |at: usize| place.wrapping_mul(0x1_0000_0001).wrapping_add(round << 16) ^ at as u64;
    let mut bytes: Vec<u8> = (0..BLOCK / 8).flat_map(|at| word(at).to_le_bytes()).collect();
    bytes.splice(..16, place.to_le_bytes().into_iter().chain(round.to_le_bytes()));
    bytes
}

/// Which round a block is of; 0: nobody wrote it. `None`: it is torn, or another's.
pub fn round_of(place: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let round = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (content(place, round) == bytes).then_some(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_a_round_are_different_and_tell_their_round() {
        for round in 1..500 {
            let places = places(round, 2048);
            let mut sorted = places.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert!(
                sorted.len() == PER_ROUND && sorted.iter().all(|at| (1..2048).contains(at)),
                "{places:?}"
            );
            let bytes = content(places[3], round);
            assert_eq!(round_of(places[3], &bytes), Some(round));
            assert_eq!(round_of(places[4], &bytes), None);
            let torn: Vec<u8> =
                bytes[..512].iter().chain(&content(places[3], round + 1)[512..]).copied().collect();
            assert_eq!(round_of(places[3], &torn), None);
        }
    }
}
