//! Commands that failed for the moment, and are issued again: at once, or after the time that the controller asks for.
//!
//! Each try is a new command, with an identifier of its own, and only for a client that still [wants](Clients::wants) it. A command
//! that waits keeps its slot of the table, so that there is room for it when its time has come; nothing that the controller
//! says meanwhile is about it. Whoever submits and completes without a failure pays nothing for any of this.

use nvme_platform::{Time, Window, debug};
use nvme_session::memory::DmaRange;
use nvme_session::operation::Operation;
use nvme_session::queue::Tag;

use super::encode::decide;
use super::pair::{Issued, QueuePair, State};
use super::spec::command::Status;
use super::{quiet, retry};

/// Whoever keeps the virtqueues that requests come from.
pub trait Clients {
    /// Client memory, for data that was bounced.
    fn window(&self, tag: Tag, range: &DmaRange) -> Option<Window>;
    /// Whether a request that failed for the moment is still to be done: its session has not ended, nor its namespace.
    fn wants(&self, tag: Tag) -> bool;
}

/// Where a command stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The controller has it, for the first time, and its data is the client's memory.
    Direct,
    /// The controller has it, for the first time, and its data is in this chunk of bounce memory.
    Bounced(u16),
    /// The controller has it once more.
    Repeated(Failed),
    /// The controller has it not: it is issued again later.
    Parked(Failed),
}

/// A command that failed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failed {
    tries: u8,
    chunk: Option<u16>,
}

impl Standing {
    /// Given to the controller for the first time.
    #[inline(always)]
    pub(super) fn first(chunk: Option<u16>) -> Self {
        chunk.map_or(Self::Direct, Self::Bounced)
    }

    pub(super) fn is_parked(self) -> bool {
        matches!(self, Self::Parked(_))
    }

    /// Its chunk of bounce memory.
    pub(super) fn chunk(self) -> Option<u16> {
        match self {
            Self::Direct => None,
            Self::Bounced(chunk) => Some(chunk),
            Self::Repeated(failed) | Self::Parked(failed) => failed.chunk,
        }
    }

    fn tries(self) -> u8 {
        match self {
            Self::Direct | Self::Bounced(_) => 0,
            Self::Repeated(failed) | Self::Parked(failed) => failed.tries,
        }
    }

    /// It failed once more.
    fn failed(self) -> Failed {
        Failed { tries: self.tries().saturating_add(1), chunk: self.chunk() }
    }

    /// Its deadline has passed: whatever becomes of it, it is not repeated.
    pub(super) fn late(self) -> Self {
        Self::Repeated(Failed { tries: retry::TRIES, chunk: self.chunk() })
    }

    /// Given to the controller again.
    pub(super) fn again(self) -> Self {
        match self {
            Self::Parked(failed) => Self::Repeated(failed),
            other => other,
        }
    }
}

/// A command that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    cid: u16,
    at: Time,
}

/// What became of a command that failed.
pub(super) enum Repeated {
    /// It was issued again. It is to be rung for.
    Again,
    /// It waits.
    Parked,
    /// It is over.
    Over(Issued),
}

/// Whether an operation that ended so may be done again. A Flush that failed says that something was not made durable, and one that
/// succeeds afterwards would say that it was: it is repeated only where it was not begun.
fn may_be_repeated(operation: &Operation, status: Status) -> bool {
    match operation {
        Operation::Flush { .. } => {
            matches!(status.code(), Status::NAMESPACE_NOT_READY | Status::INTERRUPTED)
        }
        _ => true,
    }
}

impl QueuePair {
    /// Issues a command that failed once more, now or later, if that is of any use.
    #[cold]
    pub(super) fn repeat(
        &mut self,
        mut issued: Issued,
        status: Status,
        now: Time,
        clients: &dyn Clients,
    ) -> Repeated {
        let (tries, delays) = (issued.standing.tries(), self.config.caps.delays);
        let again = retry::again(status, tries, delays, now, issued.deadline);
        let wanted =
            || may_be_repeated(issued.request.operation(), status) && clients.wants(issued.request.tag());
        let Some(at) = again.filter(|_| wanted()) else { return Repeated::Over(issued) };
        self.counters.repeated += 1;
        debug!("pair {}: status {:#06x}, try {}", self.config.id, status.0, tries + 1);
        let failed = issued.standing.failed();
        if at <= now {
            issued.standing = Standing::Repeated(failed);
            return match self.issue_again(issued) {
                Ok(()) => Repeated::Again,
                Err(issued) => Repeated::Over(issued),
            };
        }
        issued.standing = Standing::Parked(failed);
        match self.flight.insert(issued) {
            Ok(cid) => {
                self.parked.push(Parked { cid, at });
                self.earliest = self.earliest.min(at);
                Repeated::Parked
            }
            Err(issued) => Repeated::Over(issued),
        }
    }

    /// Writes a command anew, for a slot and an identifier that it gets now. It comes back when that cannot be done.
    pub(super) fn issue_again(&mut self, issued: Issued) -> Result<(), Issued> {
        let Some(slot) = self.flight.next_slot() else { return Err(issued) };
        let (operation, chunk) = (issued.request.operation(), issued.standing.chunk());
        // Data to be written is still in its chunk. What was read before into it is nobody's.
        if let (Operation::Read(transfer), Some(chunk)) = (operation, chunk)
            && self.bounce.clear(chunk, transfer.place().bytes() as u32).is_err()
        {
            return Err(issued);
        }
        let verb = decide(operation, self.config.controller);
        let sqe = verb.and_then(|verb| self.encode(slot, operation, verb, issued.how, chunk).ok());
        let Some(mut sqe) = sqe else { return Err(issued) };
        let deadline = issued.deadline;
        let cid = self.flight.insert(issued)?;
        sqe.cid = cid.into();
        self.earliest = self.earliest.min(deadline);
        self.counters.issued += 1;
        // The ring has an entry for each slot of the table. Were it not so, the deadline would find it.
        let _ = self.sq.push(&sqe);
        Ok(())
    }

    /// Issues again whose time has come. True when there was any: [`ring`](Self::ring) afterwards.
    pub fn issue_due(&mut self, now: Time) -> bool {
        if self.parked.is_empty() || self.state != State::Running {
            return false;
        }
        let due = |pair: &Self| pair.parked.iter().position(|parked| parked.at <= now);
        let mut any = false;
        while let Some(at) = due(self) {
            let Some(mut issued) = self.unpark(at) else { continue };
            any = true;
            issued.standing = issued.standing.again();
            let in_time = now < issued.deadline;
            let again = if in_time { self.issue_again(issued) } else { Err(issued) };
            if let Err(issued) = again {
                self.fail(issued, quiet::completed());
            }
        }
        if any {
            self.earliest = self.first_deadline();
        }
        any
    }

    /// The first deadline, or the time when a command is issued again.
    pub(super) fn first_deadline(&self) -> Time {
        let deadlines = self.flight.iter().filter(|(_, issued)| !issued.standing.is_parked());
        let deadlines = deadlines.map(|(_, issued)| issued.deadline);
        let again = self.parked.iter().map(|parked| parked.at);
        deadlines.chain(again).min().unwrap_or(Time::from_nanos(u64::MAX))
    }

    /// Ends what waits to be issued again and that nobody wants any more.
    pub fn give_up(&mut self, clients: &dyn Clients) {
        let unwanted = |pair: &Self| {
            let wanted = |cid| pair.flight.get(cid).is_some_and(|issued| clients.wants(issued.request.tag()));
            pair.parked.iter().position(|parked| !wanted(parked.cid))
        };
        while let Some(at) = unwanted(self) {
            if let Some(issued) = self.unpark(at) {
                self.fail(issued, quiet::completed());
            }
        }
    }

    /// The controller completed it, and it was not given to it again.
    fn unpark(&mut self, at: usize) -> Option<Issued> {
        let Parked { cid, .. } = self.parked.swap_remove(at);
        self.flight.take(cid)
    }
}
