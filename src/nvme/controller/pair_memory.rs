//! The memory of an I/O queue pair.

use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaPool, DriverMemory, PAGE};

use super::super::pair::PairMemory;
use super::super::spec::command::{CQE_BYTES, SQE_SHIFT};
use super::super::transfer::BOUNCE_CHUNK;

/// Pages of so many chunks of bounce memory.
pub(super) fn chunks(count: u16) -> usize {
    usize::from(count.max(1)) * (BOUNCE_CHUNK as usize / PAGE)
}

/// Pages of a pair of this depth: its queues, lists, and bounce memory of so many pages.
pub(super) fn pages(depth: u16, bounce: usize) -> [usize; 4] {
    let depth = usize::from(depth);
    [(depth << SQE_SHIFT).div_ceil(PAGE), (depth * CQE_BYTES).div_ceil(PAGE), depth.saturating_sub(1), bounce]
}

/// Memory for a pair of this depth, with so many pages to copy; all or nothing.
pub(super) fn allocate(pool: &mut dyn DmaPool, depth: u16, bounce: usize) -> Result<PairMemory, DmaError> {
    let pages = pages(depth, bounce);
    let mut got: Vec<DriverMemory> = Vec::with_capacity(pages.len());
    for (done, count) in pages.into_iter().enumerate() {
        match pool.allocate(count) {
            Ok(memory) => got.push(memory),
            Err(why) => {
                got.into_iter().for_each(|memory| pool.recycle(memory));
                // What is missing is said for all of it, not for the part that was one too many.
                let rest = pages.iter().skip(done + 1).fold(0_u64, |sum, pages| sum + (*pages * PAGE) as u64);
                return Err(match why {
                    DmaError::LockLimit { need, allowed } => {
                        DmaError::LockLimit { need: need.saturating_add(rest), allowed }
                    }
                    other => other,
                });
            }
        }
    }
    let mut got = got.into_iter();
    match (got.next(), got.next(), got.next(), got.next()) {
        (Some(sq), Some(cq), Some(lists), Some(bounce)) => Ok(PairMemory { sq, cq, lists, bounce }),
        _ => Err(DmaError::NoMemory),
    }
}

/// Gives memory back that the controller is done with.
pub(super) fn recycle(pool: &mut dyn DmaPool, memory: PairMemory) {
    let PairMemory { sq, cq, lists, bounce } = memory;
    [sq, cq, lists, bounce].into_iter().for_each(|memory| pool.recycle(memory));
}
