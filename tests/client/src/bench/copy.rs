//! What one copy costs here: the part of a read that no server over memory can avoid.

use std::time::{Duration, Instant};

use super::usage::own_cpu;
use crate::{Memory, Result};

/// The CPU time of one copy of `block` bytes from any place in `len` bytes of shared memory to one of 32 buffers, as a
/// server over memory does it for a queue depth of 32. Measured for about `time`.
pub fn copy_cost(len: u64, block: u32, time: Duration) -> Result<Duration> {
    let (medium, buffers) = (Memory::flat(0, len)?, Memory::flat(0, u64::from(block) * 32)?);
    let (from, to) = (medium.window(0, len)?, buffers.window(0, u64::from(block) * 32)?);
    from.fill(0, from.len(), 1)?;
    to.fill(0, to.len(), 1)?;
    let (blocks, size) = (len / u64::from(block), block as usize);
    let (start, before) = (Instant::now(), own_cpu()?);
    let (mut count, mut random) = (0u32, 1u64);
    while start.elapsed() < time {
        for slot in 0..1024 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = (u128::from(random) * u128::from(blocks)) >> 64;
            from.copy_to(place as usize * size, &to, slot % 32 * size, size)?;
        }
        count = count.saturating_add(1024);
    }
    Ok(own_cpu()?.saturating_sub(before) / count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_takes_some_time_and_not_much() {
        let cost = copy_cost(1 << 20, 4096, Duration::from_millis(5)).unwrap();
        assert!(cost > Duration::from_nanos(10) && cost < Duration::from_millis(1), "{cost:?}");
    }
}
