//! Commands whose storage takes its time: from their entry to their requests, and back to a status.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use core::time::Duration;

use nvme_platform::Time;

use crate::command::{Counts, DEALLOCATE, DsmRange, FUA};
use crate::engine::Batch;
use crate::faulty::{self, Action, Faults, Held};
use crate::namespace::Namespace;
use crate::shared::Shared;
use crate::storage::{Begun, Boxes, Failure, Inbox, Inner, Job, Left, Piece, Request};
use crate::transfer::{Access, Dma};
use crate::wire::{Sqe, Status, nvm};
use crate::world::View;

/// Every namespace (for Flush).
const ALL_NAMESPACES: u32 = u32::MAX;
/// When to try again to begin a request for which there was no room: whoever makes room may be another worker's.
const AGAIN: Duration = Duration::from_micros(500);
/// Deallocate, in dword 12 of Write Zeroes (NVM Command Set 1.0, 3.2.8).
const DEAC: u32 = 1 << 25;

/// The commands of one queue that are under way.
#[derive(Default)]
pub(crate) struct Flight {
    inbox: Option<Arc<Inbox>>,
    count: u32,
    /// Came back, and is to be looked at; the last first.
    ended: Boxes,
    /// Fetched, and there was no room for them.
    parked: Vec<Request>,
    spares: Boxes,
}

/// What a step of a command came to.
enum Step {
    Ends(Box<Inner>, Status),
    UnderWay,
}

impl Flight {
    /// Makes room for a queue of so many entries, once.
    fn inbox(&mut self, shared: &Weak<Shared>, entries: u32) -> &Arc<Inbox> {
        self.inbox.get_or_insert_with(|| {
            self.ended.reserve(entries as usize);
            self.spares.reserve(entries as usize);
            Inbox::new(shared, entries as usize)
        })
    }

    /// For control, when nobody runs the queue any more: takes what came back. True: nothing is under way.
    pub(crate) fn settle(&mut self) -> bool {
        for parked in self.parked.drain(..) {
            if let Some(mut inner) = parked.into_inner() {
                inner.clear();
            }
            self.count -= 1;
        }
        if let Some(inbox) = &self.inbox {
            inbox.abandon();
            loop {
                for mut inner in self.ended.drain(..) {
                    inner.clear();
                    self.count -= 1;
                }
                inbox.take(&mut self.ended);
                if self.ended.is_empty() {
                    break;
                }
            }
        }
        self.count == 0
    }

    fn spare(&mut self, inbox: &Arc<Inbox>, sqe: &Sqe) -> Box<Inner> {
        let mut inner = self.spares.pop().unwrap_or_else(|| Inner::new(inbox));
        inner.sqe = *sqe;
        inner.left = Left::Nothing;
        inner
    }

    /// Begins the request that is in `inner`, or the one after it, until one takes its time.
    fn go(&mut self, inner: Box<Inner>, counts: &mut Counts) -> Step {
        let mut inner = inner;
        // Each turn is one request of the command: at most one for each range or namespace, and one more.
        loop {
            let Some(storage) = inner.storage.clone() else { return Step::Ends(inner, Status::INTERNAL) };
            match storage.begin(Request::new(inner)) {
                Begun::UnderWay => return Step::UnderWay,
                Begun::Full(request) => {
                    self.parked.push(request);
                    return Step::UnderWay;
                }
                Begun::Ended(request, result) => {
                    let Some(ended) = request.into_inner() else { return Step::UnderWay };
                    inner = ended;
                    inner.result = result;
                    match next(&mut inner, counts) {
                        Some(status) => return Step::Ends(inner, status),
                        None => continue,
                    }
                }
            }
        }
    }
}

/// What comes after a request that ended: the command's status, or its next request.
fn next(inner: &mut Inner, counts: &mut Counts) -> Option<Status> {
    let Some(job) = inner.job else { return Some(Status::INTERNAL) };
    if let Err(why) = inner.result {
        let status = status(job, why);
        counts.failed(status);
        // The storage has tried.
        return Some(status.for_good());
    }
    match job {
        Job::Read { len, .. } => {
            counts.reads += 1;
            counts.bytes_read += len;
        }
        Job::Write { len, .. } => {
            counts.writes += 1;
            counts.bytes_written += len;
        }
        _ => {}
    }
    match core::mem::take(&mut inner.left) {
        Left::Nothing => return Some(Status::SUCCESS),
        Left::Flush => inner.job = Some(Job::Flush),
        Left::Read => {
            let len = inner.pieces.iter().map(|p| p.len as u64).sum();
            let (_, offset, _) = place(inner.view.as_deref()?, &inner.sqe).ok()?;
            inner.job = Some(Job::Read { offset, len });
        }
        Left::Ranges(at) => {
            let Some((offset, len)) = inner.ranges.get(at).copied() else { return Some(Status::SUCCESS) };
            inner.job = Some(Job::Discard { offset, len });
            inner.left = Left::Ranges(at + 1);
        }
        Left::Namespaces(at) => {
            let view = inner.view.clone()?;
            let Some((at, storage)) = next_storage(&view, at) else { return Some(Status::SUCCESS) };
            inner.storage = Some(storage);
            inner.left = Left::Namespaces(at + 1);
        }
    }
    None
}

fn status(job: Job, why: Failure) -> Status {
    match (why, job) {
        (Failure::NoSpace, _) => Status::CAPACITY_EXCEEDED,
        (Failure::Memory, _) => Status::DATA_TRANSFER,
        (Failure::ReadOnly, _) => Status::WRITE_PROTECTED,
        (Failure::Gone, _) => Status::LBA_RANGE,
        (Failure::Io | Failure::Lost, Job::Read { .. }) => Status::READ_ERROR,
        (Failure::Io | Failure::Lost, _) => Status::WRITE_FAULT,
    }
}

/// The namespace of a command, and the bytes that its dwords 10 to 12 name.
fn place<'v>(view: &'v View, sqe: &Sqe) -> Result<(&'v Namespace, u64, u64), Status> {
    let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
    let lba = u64::from(sqe.dword(10)) | u64::from(sqe.dword(11)) << 32;
    let blocks = u64::from(sqe.dword(12) & 0xffff) + 1;
    let (offset, len) = namespace.bytes(lba, blocks).ok_or(Status::LBA_RANGE)?;
    Ok((namespace, offset, len))
}

/// The next namespace from an index on that a flush reaches, and where it is.
fn next_storage(view: &View, from: usize) -> Option<(usize, Arc<dyn crate::storage::Storage>)> {
    view.namespaces.iter().enumerate().skip(from).find_map(|(at, namespace)| {
        let storage = namespace.as_deref().filter(|n| !n.read_only)?.storage.as_ref()?;
        Some((at, Arc::clone(storage)))
    })
}

/// Whether a command is for storage that takes its time.
fn is_stored(view: &View, sqe: &Sqe) -> bool {
    let nsid = sqe.nsid.get();
    let stored = |n: &Namespace| n.storage.is_some();
    if nsid == ALL_NAMESPACES && sqe.opcode == nvm::FLUSH {
        return view.namespaces.iter().flatten().any(|n| stored(n));
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
    let stored = |namespace: &Namespace| namespace.storage.clone().ok_or(Status::INTERNAL);
    match sqe.opcode {
        nvm::READ => {
            let (namespace, offset, len) = place(view, sqe)?;
            inner.storage = Some(stored(namespace)?);
            pieces(dma, sqe, len, Access::Store, &mut inner.pieces)?;
            let fua = sqe.dword(12) & FUA != 0 && view.write_back && !namespace.read_only;
            inner.left = if fua { Left::Read } else { Left::Nothing };
            inner.job = Some(if fua { Job::Flush } else { Job::Read { offset, len } });
        }
        nvm::WRITE => {
            let (namespace, offset, len) = place(view, sqe)?;
            if namespace.read_only {
                return Err(Status::WRITE_PROTECTED);
            }
            inner.storage = Some(stored(namespace)?);
            pieces(dma, sqe, len, Access::Load, &mut inner.pieces)?;
            inner.left = if durable { Left::Flush } else { Left::Nothing };
            inner.job = Some(Job::Write { offset, len });
        }
        nvm::FLUSH => {
            counts.flushes += 1;
            inner.job = Some(Job::Flush);
            if sqe.nsid.get() == ALL_NAMESPACES {
                let Some((at, storage)) = next_storage(view, 0) else { return Ok(Some(Status::SUCCESS)) };
                inner.storage = Some(storage);
                inner.left = Left::Namespaces(at + 1);
            } else {
                let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
                if namespace.read_only {
                    return Ok(Some(Status::SUCCESS));
                }
                inner.storage = Some(stored(namespace)?);
            }
        }
        nvm::WRITE_ZEROES if view.write_zeroes => {
            let (namespace, offset, len) = place(view, sqe)?;
            if namespace.read_only {
                return Err(Status::WRITE_PROTECTED);
            }
            inner.storage = Some(stored(namespace)?);
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
    inner.storage = Some(namespace.storage.clone().ok_or(Status::INTERNAL)?);
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
        let at = view.place_of(mapping);
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
        for _ in 0..flight.parked.len() {
            if !self.go_on() {
                return Some(now);
            }
            let Some(inner) = flight.parked.pop().and_then(Request::into_inner) else { break };
            match flight.go(inner, &mut self.executor.counts) {
                Step::Ends(inner, status) => self.post_ended(flight, inner, status),
                // There is no more room now than there was.
                Step::UnderWay if !flight.parked.is_empty() => return Some(now + AGAIN),
                Step::UnderWay => {}
            }
        }
        while self.go_on() {
            if !flight.parked.is_empty() {
                return Some(now + AGAIN);
            }
            let due = faulty::take_due(held, now);
            let (sqe, action) = match due {
                Some(sqe) => (sqe, None),
                None => {
                    if !self.pending() {
                        return faulty::next_due(held);
                    }
                    let sqe = self.fetch()?;
                    (sqe, shared.faults.as_ref().and_then(|f: &Faults| f.decide(self.sq.id, sqe.opcode)))
                }
            };
            let meddled = matches!(action, Some(Action::Fail(_) | Action::Hang | Action::Delay(_)));
            if !meddled && is_stored(view, &sqe) {
                self.begin(shared, view, flight, &sqe);
            } else if !self.meddle(sqe, action, held, now) {
                return Some(now);
            }
        }
        Some(now)
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
        let inbox = Arc::clone(flight.inbox(&shared.myself, self.sq.size));
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
                inner.hold(view);
                match flight.go(inner, &mut executor.counts) {
                    Step::Ends(ended, status) => return self.post_ended(flight, ended, status),
                    Step::UnderWay => return,
                }
            }
        };
        self.post_ended(flight, inner, status);
    }
}
