//! Commands whose storage takes its time: from their entry to their requests, and their completions.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;

use crate::batch::Batch;
use crate::command::{Counts, DEALLOCATE, DsmRange, FUA};
use crate::faulty::{self, Action, Faults, Held};
use crate::flight::{ALL_NAMESPACES, Flight, Step, next, place, storages};
use crate::namespace::Namespace;
use crate::shared::Shared;
use crate::storage::{Inner, Job, Left, Piece, Request};
use crate::transfer::{Access, Dma};
use crate::wire::{Sqe, Status, nvm};
use crate::world::View;

/// When to try again to begin a request for which there was no room: at first, since whoever makes room may be another worker's and may
/// not tell; and at the latest, since storage that hangs has none for hours.
pub(crate) const AGAIN: Duration = Duration::from_micros(500);
pub(crate) const AGAIN_MAX: Duration = Duration::from_millis(64);
/// Deallocate, in dword 12 of Write Zeroes (NVM Command Set 1.0, 3.2.8).
const DEAC: u32 = 1 << 25;

/// Whether a command is for storage that takes its time, as any is where nobody may wait for it.
pub(crate) fn is_stored(view: &View, sqe: &Sqe, apart: bool) -> bool {
    let nsid = sqe.nsid.get();
    let stored = |n: &Namespace| n.storage.is_some() || apart;
    if nsid == ALL_NAMESPACES && sqe.opcode == nvm::FLUSH {
        return view.namespaces.iter().flatten().any(|n| n.storage.is_some());
    }
    view.namespace(nsid).is_some_and(stored)
}

/// Turns an entry into its first request. `Ok(Some(status))`: there is nothing to do.
fn prepare(
    dma: &mut Dma<'_>,
    sqe: &Sqe,
    inner: &mut Inner,
    counts: &mut Counts,
) -> Result<Option<Status>, Status> {
    let view = dma.view;
    let durable = sqe.dword(12) & FUA != 0 || !view.write_back;
    if sqe.flags & 3 != 0 {
        return Err(Status::INVALID_FIELD);
    }
    match sqe.opcode {
        nvm::READ => {
            let (namespace, offset, len) = place(view, sqe)?;
            inner.storage = Some(namespace.stored());
            pieces(dma, sqe, len, Access::Store, &mut inner.pieces)?;
            let fua = sqe.dword(12) & FUA != 0 && view.write_back && !namespace.read_only;
            inner.left = if fua { Left::Read(offset) } else { Left::Nothing };
            inner.job = Some(if fua { Job::Flush } else { Job::Read { offset, len } });
        }
        nvm::WRITE => {
            let (namespace, offset, len) = place(view, sqe)?;
            if namespace.read_only {
                return Err(Status::WRITE_PROTECTED);
            }
            inner.storage = Some(namespace.stored());
            pieces(dma, sqe, len, Access::Load, &mut inner.pieces)?;
            inner.left = if durable { Left::Flush } else { Left::Nothing };
            inner.job = Some(Job::Write { offset, len });
        }
        nvm::FLUSH => {
            counts.flushes += 1;
            inner.job = Some(Job::Flush);
            if sqe.nsid.get() == ALL_NAMESPACES {
                storages(view, &mut inner.others);
                let Some(storage) = inner.others.pop() else { return Ok(Some(Status::SUCCESS)) };
                inner.storage = Some(storage);
                inner.left = Left::Others;
            } else {
                let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
                if namespace.read_only {
                    return Ok(Some(Status::SUCCESS));
                }
                inner.storage = Some(namespace.stored());
            }
        }
        nvm::WRITE_ZEROES if view.write_zeroes => {
            let (namespace, offset, len) = place(view, sqe)?;
            if namespace.read_only {
                return Err(Status::WRITE_PROTECTED);
            }
            inner.storage = Some(namespace.stored());
            inner.left = if durable { Left::Flush } else { Left::Nothing };
            inner.job = Some(Job::Zero { offset, len, unmap: sqe.dword(12) & DEAC != 0 });
        }
        nvm::DATASET_MANAGEMENT if view.dataset_management => {
            return ranges(dma, sqe, inner);
        }
        _ => return Err(Status::INVALID_OPCODE),
    }
    Ok(None)
}

/// Dataset Management: all ranges are checked before any is touched.
fn ranges(dma: &mut Dma<'_>, sqe: &Sqe, inner: &mut Inner) -> Result<Option<Status>, Status> {
    let view = dma.view;
    let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
    let deallocate = sqe.dword(11) & DEALLOCATE != 0;
    if deallocate && namespace.read_only {
        return Err(Status::WRITE_PROTECTED);
    }
    let mut ranges = [DsmRange::default(); 256];
    let ranges = DsmRange::load(dma, sqe, &mut ranges)?;
    inner.ranges.clear();
    for range in ranges {
        let (lba, blocks) = range.place();
        let bytes = namespace.bytes(lba, blocks).ok_or(Status::LBA_RANGE)?;
        if bytes.1 > 0 {
            inner.ranges.push(bytes);
        }
    }
    let Some((offset, len)) = inner.ranges.first().copied().filter(|_| deallocate) else {
        return Ok(Some(Status::SUCCESS));
    };
    inner.storage = Some(namespace.stored());
    inner.left = Left::Ranges(1);
    inner.job = Some(Job::Discard { offset, len });
    Ok(None)
}

/// The memory that a command's data pointer describes.
fn pieces(
    dma: &mut Dma<'_>,
    sqe: &Sqe,
    len: u64,
    access: Access,
    into: &mut Vec<Piece>,
) -> Result<(), Status> {
    if len as usize > dma.view.transfer_max {
        return Err(Status::INVALID_FIELD);
    }
    into.clear();
    let view = dma.view;
    dma.walk(sqe, len as usize, access, |mapping, offset, len| {
        let at = view.map.place_of(mapping);
        match into.last_mut() {
            // Neighbours are one piece.
            Some(last) if last.mapping == at && last.offset + last.len == offset => last.len += len,
            _ => into.push(Piece { mapping: at, offset, len }),
        }
        if mapping.window.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
    })
}

impl Batch<'_> {
    /// As [`run`](Self::run), where storage takes its time or rules hold commands up.
    pub(crate) fn run_slow(
        &mut self,
        shared: &Shared,
        view: &Arc<View>,
        flight: &mut Flight,
        held: &mut Vec<Held>,
        now: Time,
    ) -> Option<Time> {
        let again = self.take_ended(flight, now);
        if again.is_some() {
            return again;
        }
        for parked in (1..=flight.parked.len()).rev() {
            if !self.go_on() {
                return Some(now);
            }
            let Some(inner) = flight.parked.pop().and_then(Request::into_inner) else { break };
            match flight.go(inner, &mut self.executor.counts) {
                Step::Ends(inner, status) => {
                    flight.has_room();
                    self.post_ended(flight, inner, status);
                }
                // There is no more room now than there was.
                Step::UnderWay if flight.parked.len() == parked => return Some(flight.full(now)),
                Step::UnderWay => flight.has_room(),
            }
        }
        while self.go_on() {
            if !flight.parked.is_empty() {
                return Some(flight.full(now));
            }
            let due = faulty::take_due(held, now);
            let (sqe, action) = match due {
                Some(due) => due,
                None => {
                    if !self.pending() {
                        return faulty::next_due(held);
                    }
                    let sqe = self.fetch()?;
                    (sqe, shared.faults.as_ref().and_then(|f: &Faults| f.decide(self.sq.id, sqe.opcode)))
                }
            };
            let meddled = matches!(
                action,
                Some(Action::Fail(_) | Action::Hang | Action::Delay(_) | Action::DelayDeaf(_))
            );
            if !meddled && is_stored(view, &sqe, flight.apart.is_some()) {
                self.begin(shared, view, flight, &sqe);
            } else if !self.meddle(sqe, action, held, now) {
                return Some(now);
            }
        }
        // A full completion queue is no work by itself: its doorbell wakes whoever has some.
        if self.room() || self.pending() { Some(now) } else { faulty::next_due(held) }
    }

    /// Takes what came back, as far as its completions fit.
    fn take_ended(&mut self, flight: &mut Flight, now: Time) -> Option<Time> {
        loop {
            if flight.ended.is_empty()
                && let Some(inbox) = &flight.inbox
            {
                inbox.take(&mut flight.ended);
                flight.ended.reverse();
            }
            if flight.ended.is_empty() {
                return None;
            }
            if !self.go_on() {
                return Some(now);
            }
            let mut inner = flight.ended.pop()?;
            let status = match next(&mut inner, &mut self.executor.counts) {
                Some(status) => status,
                None => match flight.go(inner, &mut self.executor.counts) {
                    Step::Ends(ended, status) => {
                        inner = ended;
                        status
                    }
                    Step::UnderWay => continue,
                },
            };
            self.post_ended(flight, inner, status);
        }
    }

    fn post_ended(&mut self, flight: &mut Flight, mut inner: Box<Inner>, status: Status) {
        inner.clear();
        flight.count -= 1;
        self.post(&self.completion(inner.sqe.cid.get(), status));
        flight.spares.push(inner);
    }

    fn begin(&mut self, shared: &Shared, view: &Arc<View>, flight: &mut Flight, sqe: &Sqe) {
        let inbox = Arc::clone(flight.inbox(&shared.control, self.sq.size));
        let mut inner = flight.spare(&inbox, sqe);
        flight.count += 1;
        let Self { executor, .. } = self;
        let prepared = prepare(&mut executor.dma, sqe, &mut inner, &mut executor.counts);
        let status = match prepared {
            Ok(Some(status)) => status,
            Err(status) => {
                executor.counts.failed(status);
                inner.pieces.clear();
                status
            }
            Ok(None) => {
                inner.hold(&view.map);
                match flight.go(inner, &mut executor.counts) {
                    Step::Ends(ended, status) => return self.post_ended(flight, ended, status),
                    Step::UnderWay => return,
                }
            }
        };
        self.post_ended(flight, inner, status);
    }
}
