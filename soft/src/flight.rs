//! Commands whose storage takes its time, while they are under way: from one request to the next, and back to a status.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;

use crate::command::Counts;
use crate::namespace::Namespace;
use crate::storage::{Begun, Boxes, Failure, Inbox, Inner, Job, Left, Request, Storage, Told};
use crate::stored::{AGAIN, AGAIN_MAX};
use crate::wire::{Sqe, Status};
use crate::world::View;

/// Every namespace (for Flush).
pub(crate) const ALL_NAMESPACES: u32 = u32::MAX;

/// The commands of one queue that are under way.
#[derive(Default)]
pub(crate) struct Flight {
    pub(crate) inbox: Option<Arc<Inbox>>,
    pub(crate) count: u32,
    /// Came back, and is to be looked at; the last first.
    pub(crate) ended: Boxes,
    /// Fetched, and there was no room for them.
    pub(crate) parked: Vec<Request>,
    /// When to try these again, and how long after that.
    retry: Option<(Time, Duration)>,
    pub(crate) spares: Boxes,
    /// Nobody may wait for what is begun: it is put here, and begun outside of the gate.
    pub(crate) apart: Option<Vec<Request>>,
}

/// What a step of a command came to.
pub(crate) enum Step {
    Ends(Box<Inner>, Status),
    UnderWay,
}

impl Flight {
    /// Makes room for a queue of so many entries, once.
    pub(crate) fn inbox(&mut self, shared: &Weak<dyn Told>, entries: u32) -> &Arc<Inbox> {
        self.inbox.get_or_insert_with(|| {
            self.ended.reserve(entries as usize);
            self.spares.reserve(entries as usize);
            Inbox::new(shared, entries as usize)
        })
    }

    /// There was no room. When to try again, if nobody says before that there is some: each time in vain it is twice as long until then.
    pub(crate) fn full(&mut self, now: Time) -> Time {
        let (at, after) = match self.retry {
            Some((at, after)) if now < at => (at, after),
            Some((_, after)) => (now + after, (after * 2).min(AGAIN_MAX)),
            None => (now + AGAIN, AGAIN * 2),
        };
        self.retry = Some((at, after));
        at
    }

    /// There was room.
    pub(crate) fn has_room(&mut self) {
        self.retry = None;
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

    pub(crate) fn spare(&mut self, inbox: &Arc<Inbox>, sqe: &Sqe) -> Box<Inner> {
        let mut inner = self.spares.pop().unwrap_or_else(|| Inner::new(inbox));
        inner.sqe = *sqe;
        inner.left = Left::Nothing;
        inner
    }

    /// Begins the request that is in `inner`, or the one after it, until one takes its time.
    pub(crate) fn go(&mut self, inner: Box<Inner>, counts: &mut Counts) -> Step {
        let mut inner = inner;
        if let Some(apart) = &mut self.apart {
            apart.push(Request::new(inner));
            return Step::UnderWay;
        }
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
pub(crate) fn next(inner: &mut Inner, counts: &mut Counts) -> Option<Status> {
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
        Left::Read(offset) => {
            let len = inner.pieces.iter().map(|p| p.len as u64).sum();
            inner.job = Some(Job::Read { offset, len });
        }
        Left::Ranges(at) => {
            let Some((offset, len)) = inner.ranges.get(at).copied() else { return Some(Status::SUCCESS) };
            inner.job = Some(Job::Discard { offset, len });
            inner.left = Left::Ranges(at + 1);
        }
        Left::Others => {
            let Some(storage) = inner.others.pop() else { return Some(Status::SUCCESS) };
            inner.storage = Some(storage);
            inner.left = Left::Others;
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
pub(crate) fn place<'v>(view: &'v View, sqe: &Sqe) -> Result<(&'v Namespace, u64, u64), Status> {
    let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
    let lba = u64::from(sqe.dword(10)) | u64::from(sqe.dword(11)) << 32;
    let blocks = u64::from(sqe.dword(12) & 0xffff) + 1;
    let (offset, len) = namespace.bytes(lba, blocks).ok_or(Status::LBA_RANGE)?;
    Ok((namespace, offset, len))
}

/// All storages that a flush of every namespace reaches, the last first.
pub(crate) fn storages(view: &View, into: &mut Vec<Arc<dyn Storage>>) {
    let written = view.namespaces.iter().rev().flatten().filter(|n| !n.read_only);
    into.clear();
    into.extend(written.filter_map(|n| n.storage.clone()));
}
