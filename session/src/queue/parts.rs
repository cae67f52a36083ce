//! Reads and writes that begin or end inside of a block, on disks whose blocks are larger than virtio's unit of 512 bytes.
//!
//! Such a request becomes up to three operations: a part of its first block, whole blocks, a part of its last. What it takes to
//! change a part of a block, and that nothing else that is done to that block is lost, is the driver's (`nvme::parts`).

use nvme_policy::extent::Cover;
use nvme_policy::{LbaRange, WritePermit};

use super::counts::Asked;
use super::decide::{BAD, Refused};
use super::flight::Plan;
use super::{BlkQueue, Next, Request};
use crate::blk::request::Header;
use crate::memory::{Lists, Pinned, Quiet, Ranges, Rights};
use crate::operation::{Operation, Part, Transfer};
use crate::virtqueue::Buffer;

/// Most operations of one request.
const PARTS_MAX: usize = 3;

type Operations = heapless::Vec<Operation, PARTS_MAX>;

/// Where a request is divided: bytes of its first block that are not its, and the lengths of its three pieces, each of which may
/// be nothing.
struct Cuts {
    skip: u32,
    first: u64,
    whole: u64,
    last: u64,
}

impl Cuts {
    fn new(skip: u32, bytes: u64, block: u64) -> Self {
        let inside = skip > 0 || bytes < block;
        let first = if inside { bytes.min(block - u64::from(skip)) } else { 0 };
        let last = (bytes - first) % block;
        Self { skip, first, whole: bytes - first - last, last }
    }
}

impl BlkQueue {
    /// Starts a read or write that is not whole blocks.
    #[cold]
    pub(super) fn start_parts(
        &mut self,
        head: u16,
        status: Pinned,
        header: &Header,
        data: &[Buffer],
        lists: &mut Lists,
    ) -> Next {
        let (operations, data) = match self.parts(header, data, lists) {
            Ok(all) => all,
            Err(Refused(answer)) => return self.answer_now(head, status, Asked::of(header.kind), answer, 0),
        };
        let parts = operations.len() as u16;
        let asked = Asked::of(header.kind);
        self.tally.began(asked, operations.iter().map(Operation::bytes).sum());
        let plan = Plan { parts, flush_after: false, data, stamp: self.tally.stamp(asked) };
        let tag = self.take_off(head, plan, status);
        self.ready.extend(operations.into_iter().map(|operation| Request::new(tag, operation)));
        Next::Again
    }

    /// The operations, and how many bytes are written to memory when all went well.
    fn parts(
        &mut self,
        header: &Header,
        data: &[Buffer],
        lists: &mut Lists,
    ) -> Result<(Operations, u32), Refused> {
        let (bytes, permit) = self.decide_parts(header, data)?.ok_or(BAD)?;
        let Cover { place, skip } = self.config.grant.cover(header.sector, bytes).map_err(|_| BAD)?;
        let (need, written) =
            if permit.is_none() { (Rights::Write, bytes as u32) } else { (Rights::Read, 0) };
        let memory = self.mediate(data, need, lists)?;
        let cuts = Cuts::new(skip, bytes, place.block_size().bytes());
        let mut operations = Operations::new();
        let rest = self.cut(place, memory, permit, &cuts, &mut operations, lists);
        let Some(memory) = rest else { return Ok((operations, written)) };
        // Never: what was mediated has as many bytes as what was covered has for it.
        debug_assert!(false, "a place and memory that do not agree");
        self.release(memory, &Quiet::never_submitted(), lists);
        for operation in operations {
            let memory = match operation {
                Operation::Read(transfer) | Operation::Write { transfer, .. } => transfer.into_parts().1,
                Operation::ReadPart(part) | Operation::WritePart { part, .. } => part.into_memory(),
                Operation::Flush { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. } => {
                    continue;
                }
            };
            self.release(memory, &Quiet::never_submitted(), lists);
        }
        Err(BAD)
    }

    /// Divides what was decided. What does not fit comes back.
    fn cut(
        &self,
        place: LbaRange,
        memory: Ranges,
        permit: Option<WritePermit>,
        cuts: &Cuts,
        operations: &mut Operations,
        lists: &mut Lists,
    ) -> Option<Ranges> {
        let block = place.block_size().bytes();
        let (mut place, mut memory, mut permit) = (Some(place), Some(memory), permit);
        let pieces = [(cuts.first, cuts.skip, true), (cuts.whole, 0, false), (cuts.last, 0, true)];
        for (bytes, skip, is_part) in pieces.into_iter().filter(|(bytes, ..)| *bytes > 0) {
            let Some(((here, behind), data)) =
                place.take().map(|p| divide(p, bytes.div_ceil(block))).zip(memory.take())
            else {
                break;
            };
            place = behind;
            let data = if data.bytes() > bytes {
                let (data, rest) = data.split_at(bytes, lists.take());
                memory = Some(rest);
                data
            } else {
                data
            };
            let (this, next) = permit.take().map(WritePermit::split).unzip();
            permit = next;
            let fua = self.durable;
            let operation = match (is_part, this) {
                (true, None) => Part::new(here, skip, data).map(Operation::ReadPart),
                (true, Some(permit)) => {
                    Part::new(here, skip, data).map(|part| Operation::WritePart { part, permit, fua })
                }
                (false, None) => Transfer::new(here, data).map(Operation::Read),
                (false, Some(permit)) => {
                    Transfer::new(here, data).map(|transfer| Operation::Write { transfer, permit, fua })
                }
            };
            match operation {
                // There is room for all three.
                Ok(operation) => drop(operations.push(operation)),
                Err((_, data)) => return Some(data),
            }
        }
        memory
    }
}

/// The first `blocks` blocks, and the others, if there are any.
fn divide(place: LbaRange, blocks: u64) -> (LbaRange, Option<LbaRange>) {
    match place.split_at(blocks) {
        Ok((here, behind)) => (here, Some(behind)),
        Err(all) => (all, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_pieces_are_all_of_the_request_and_no_part_is_more_than_a_block(
            skip in 0_u32..8, sectors in 1_u64..64,
        ) {
            let (skip, bytes) = (skip * 512, sectors * 512);
            let Cuts { first, whole, last, .. } = Cuts::new(skip, bytes, 4096);
            prop_assert_eq!(first + whole + last, bytes);
            prop_assert_eq!(whole % 4096, 0);
            prop_assert!(u64::from(skip) + first <= 4096 && last < 4096);
            prop_assert!(first > 0 || skip == 0);
            // What is behind the first block begins at a boundary.
            prop_assert!(whole + last == 0 || (u64::from(skip) + first).is_multiple_of(4096));
        }
    }
}
