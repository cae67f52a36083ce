//! One request of a virtqueue becomes a command, and how many units of a turn that comes to.

use nvme_platform::Time;
use nvme_session::memory::Spares;
use nvme_session::operation::Operation;
use nvme_session::queue::Request;

use super::roster::Queue;
use crate::nvme::{QueuePair, Submit};

/// Descriptors and ranges that count as one more unit.
const WALK: u32 = 16;
/// Bytes copied here that count as one more unit.
const BYTES: u64 = 8192;

/// Submits one request of a queue, or the part of it that one command does. How many units that came to; 0: the pair is full.
/// `news` becomes true when something is to be published.
pub(super) fn submit(
    queue: &mut Queue,
    pair: &mut QueuePair,
    request: Request,
    news: &mut bool,
    now: Time,
    spares: &mut Spares,
) -> u32 {
    // As far as one command does it.
    let bytes = pair.longest().map_or(0, |longest| touched(request.operation()).min(longest.into()));
    match pair.submit_slow(request, now, &*queue.virtqueue, spares) {
        Submit::Issued => {}
        Submit::Part(rest) => queue.virtqueue.divided(rest),
        Submit::Full(request) => {
            queue.virtqueue.put_back(request);
            return 0;
        }
        Submit::Refused(ended) => {
            *news = true;
            let next = queue.virtqueue.complete(ended, spares);
            // What cannot be done has nothing to follow it.
            debug_assert!(next.is_none());
        }
    }
    weight(queue, bytes)
}

/// The bytes that a controller copies, or sets.
fn touched(operation: &Operation) -> u64 {
    match operation {
        Operation::Read(transfer) | Operation::Write { transfer, .. } => transfer.place().bytes(),
        Operation::WriteZeroes { place, .. } => place.bytes(),
        Operation::ReadPart(part) | Operation::WritePart { part, .. } => part.place().bytes(),
        Operation::Flush { .. } | Operation::Discard { .. } => 0,
    }
}

/// How many units a request of the slow path comes to.
pub(super) fn weight(queue: &mut Queue, bytes: u64) -> u32 {
    1 + queue.virtqueue.take_walked() / WALK + (bytes / BYTES) as u32
}
