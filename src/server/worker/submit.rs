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
    let (request, rest) = piece(request, queue.piece, spares);
    // As far as one command does it.
    let bytes = pair.longest().map_or(0, |longest| touched(request.operation()).min(longest.into()));
    let (bounced, tag) = (pair.counters().bounced, request.tag());
    let submitted = pair.submit_slow(request, now, &*queue.virtqueue, spares);
    if pair.counters().bounced != bounced {
        queue.virtqueue.counts().bounced();
    }
    if !matches!(submitted, Submit::Full(_)) {
        queue.virtqueue.submitted(tag, now);
    }
    match submitted {
        Submit::Issued => {
            if let Some(rest) = rest {
                queue.virtqueue.divided(rest);
            }
        }
        Submit::Part(part) => {
            // What comes first is offered first.
            if let Some(rest) = rest {
                queue.virtqueue.divided(rest);
            }
            queue.virtqueue.divided(part);
        }
        Submit::Full(request) => {
            if let Some(rest) = rest {
                queue.virtqueue.divided(rest);
            }
            queue.virtqueue.put_back(request);
            return 0;
        }
        Submit::Refused(ended) => {
            *news = true;
            if let Some(rest) = rest {
                queue.virtqueue.divided(rest);
            }
            let next = queue.virtqueue.complete(ended, spares);
            // What cannot be done has nothing to follow it.
            debug_assert!(next.is_none());
        }
    }
    weight(queue, bytes)
}

/// As much of a request as is to be submitted at once, and the rest.
fn piece(request: Request, bytes: u64, spares: &mut Spares) -> (Request, Option<Request>) {
    let Some(place) = request
        .operation()
        .place()
        .filter(|place| request.operation().burden() > bytes && place.bytes() > bytes)
    else {
        return (request, None);
    };
    let blocks = (bytes / place.block_size().bytes()).max(1);
    request.split_at(blocks, spares)
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
