//! Parts of blocks.
//!
//! A part of a block is read by reading the block into bounce memory. It is written in two steps: the block is read into bounce
//! memory, the part is put into it, and it is written as a whole. Between the two nothing else may be done to that block, or it
//! would be undone: so a write of a part is not begun before all that changes its block has ended, and whatever changes a
//! block of which a part is being written waits until that has ended (`Submit::Full`). A client's blocks are nobody else's to write,
//! and a session's virtqueues have one pair, so it is enough to look at what this pair has in flight.
//!
//! Nothing of this is looked at while no part is being written, but that one is about to be: the fast way is closed meanwhile
//! ([`State::Guarded`]). As many are written at once as there are chunks of bounce memory.

use nvme_platform::Time;
use nvme_session::memory::DmaRange;
use nvme_session::operation::Operation;

use super::clients::Clients;
use super::issued::{Issued, Past};
use super::pair::{QueuePair, State};
use super::transfer::How;

/// The blocks that an operation changes: namespace, first, how many.
fn changes(operation: &Operation) -> Option<(u32, u64, u64)> {
    let place = match operation {
        Operation::Write { .. }
        | Operation::WritePart { .. }
        | Operation::Discard { .. }
        | Operation::WriteZeroes { .. } => operation.place()?,
        Operation::Read(_) | Operation::ReadPart(_) | Operation::Flush { .. } => return None,
    };
    Some((place.namespace().nsid, place.first(), place.blocks()))
}

impl QueuePair {
    /// Whether the first `blocks` blocks of an operation cannot be changed now.
    pub(super) fn is_in_the_way(&self, operation: &Operation, blocks: u64) -> bool {
        let Some((nsid, first, _)) = changes(operation) else { return false };
        if self.guarded.has_any(nsid, first..first + blocks) {
            return true;
        }
        let reaches = |(n, from, count): (u32, u64, u64)| n == nsid && (from..from + count).contains(&first);
        let is_part = matches!(operation, Operation::WritePart { .. });
        is_part
            && self.flight.iter().any(|(_, issued)| changes(issued.request.operation()).is_some_and(reaches))
    }

    /// An operation begins.
    pub(super) fn guard(&mut self, operation: &Operation) {
        if let Operation::WritePart { part, .. } = operation {
            self.guarded.add(part.place().namespace().nsid, part.place().first());
            self.state = State::Guarded;
        }
    }

    /// An operation has ended.
    pub(super) fn unguard(&mut self, operation: &Operation) {
        if let Operation::WritePart { part, .. } = operation {
            self.guarded.remove(part.place().namespace().nsid, part.place().first());
            if self.state == State::Guarded {
                self.state = self.running();
            }
        }
    }

    /// The state of a pair whose queues exist.
    pub(super) fn running(&self) -> State {
        let fast = self.guarded.is_empty() && self.caches.is_none();
        if fast { State::Running } else { State::Guarded }
    }

    /// The block is in its chunk: the part is put into it, and it is written, by a command of its own with a deadline of its own. It
    /// comes back when that cannot be, or nobody wants it any more.
    pub(super) fn filled(
        &mut self,
        mut issued: Issued,
        past: Past,
        now: Time,
        clients: &dyn Clients,
    ) -> Result<(), Issued> {
        let tag = issued.request.tag();
        let (Operation::WritePart { part, .. }, Some(chunk)) = (issued.request.operation(), past.chunk)
        else {
            return Err(issued);
        };
        let find = &mut |range: &DmaRange| clients.window(tag, range);
        let put = self.bounce.gather(chunk, part.skip(), part.memory(), find);
        if put.is_err() || !clients.wants(tag) {
            return Err(issued);
        }
        issued.how = How::Bounce;
        issued.deadline = now + self.config.timeout;
        self.issue_again(issued, Past::none(Some(chunk)))
    }
}
