//! Commands that failed for the moment, and are issued again: at once, or after the time that the controller asks for.
//!
//! Each try is a new command, with an identifier of its own, and only for a client that still [wants](Clients::wants) it. A command
//! that waits keeps its slot of the table, so that there is room for it when its time has come; nothing that the controller
//! says meanwhile is about it. Whoever submits and completes without a failure pays nothing for any of this.

use alloc::vec::Vec;

use nvme_platform::{Time, debug};
use nvme_session::operation::Operation;

use super::clients::Clients;
use super::encode::decide;
use super::issued::{Issued, Late, Past, Standing};
use super::pair::{QueuePair, State};
use super::spec::command::Status;
use super::transfer::How;
use super::{quiet, retry};

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
    /// What came so far of a command that had this identifier.
    pub(super) fn past(&self, cid: u16, issued: &Issued) -> Past {
        self.pasts.of(self.flight.slot(cid), issued.standing)
    }

    /// Issues a command that failed once more, now or later, if that is of any use.
    #[cold]
    pub(super) fn repeat(
        &mut self,
        mut issued: Issued,
        past: Past,
        status: Status,
        now: Time,
        clients: &dyn Clients,
    ) -> Repeated {
        let again = match past.late {
            // As we asked. Whether it was done nobody knows, and its client was not told anything.
            Late::Now if status.code() == Status::ABORTED && !status.do_not_retry() => {
                issued.deadline = now + self.config.timeout;
                Some(now)
            }
            Late::Now | Late::Again => None,
            Late::Never | Late::Before => {
                retry::again(status, past.tries, self.config.caps.delays, now, issued.deadline)
            }
        };
        let wanted =
            || may_be_repeated(issued.request.operation(), status) && clients.wants(issued.request.tag());
        let Some(at) = again.filter(|_| wanted()) else { return Repeated::Over(issued) };
        self.counters.repeated += 1;
        self.troubles.repeated.add();
        debug!("pair {}: status {:#06x}, try {}", self.config.id, status.0, past.tries + 1);
        if at <= now {
            return self.issue_again(issued, past.failed()).map_or_else(Repeated::Over, |()| Repeated::Again);
        }
        issued.standing = Standing::Parked;
        match self.flight.insert(issued) {
            Ok(cid) => {
                self.pasts.keep(self.flight.slot(cid), past.failed(), at);
                self.pasts.parked += 1;
                self.earliest = self.earliest.min(at);
                Repeated::Parked
            }
            Err(issued) => Repeated::Over(issued),
        }
    }

    /// Writes a command anew, for a slot and an identifier that it gets now. It comes back when that cannot be done.
    pub(super) fn issue_again(&mut self, mut issued: Issued, past: Past) -> Result<(), Issued> {
        let Some(slot) = self.flight.next_slot() else { return Err(issued) };
        let operation = issued.request.operation();
        // Data to be written is still in its chunk. What was read before into it is nobody's.
        let reads =
            matches!(operation, Operation::Read(_) | Operation::ReadPart(_)) || issued.how == How::Fill;
        if let (Some(place), Some(chunk)) = (operation.place().filter(|_| reads), past.chunk)
            && self.bounce.clear(chunk, place.bytes() as u32).is_err()
        {
            return Err(issued);
        }
        let verb = decide(operation, self.config.controller);
        let sqe = verb.and_then(|verb| self.encode(slot, operation, verb, issued.how, past.chunk).ok());
        let Some(mut sqe) = sqe else { return Err(issued) };
        let (deadline, past) = (issued.deadline, past.begun());
        issued.standing = past.standing();
        let cid = self.flight.insert(issued)?;
        self.pasts.keep(slot, past, deadline);
        sqe.cid = cid.into();
        self.earliest = self.earliest.min(deadline);
        self.counters.issued += 1;
        // The ring has an entry for each slot of the table. Were it not so, the deadline would find it.
        let _ = self.sq.push(&sqe);
        Ok(())
    }

    /// Issues again whose time has come. True when there was any: [`ring`](Self::ring) afterwards.
    pub fn issue_due(&mut self, now: Time) -> bool {
        if self.pasts.parked == 0 || self.state == State::Stopped {
            return false;
        }
        let mut any = false;
        for slot in 0..self.flight.slots() {
            let due = |pair: &Self, issued: &Issued| pair.pasts.next(slot, issued) <= now;
            let Some((issued, past)) = self.unpark(slot, due) else { continue };
            any = true;
            let in_time = now < issued.deadline;
            let again = if in_time { self.issue_again(issued, past) } else { Err(issued) };
            if let Err(issued) = again {
                self.fail(issued, past, quiet::completed());
            }
        }
        if any {
            self.earliest = self.first_deadline();
        }
        any
    }

    /// Ends what waits to be issued again and that nobody wants any more.
    pub fn give_up(&mut self, clients: &dyn Clients) {
        if self.pasts.parked == 0 {
            return;
        }
        for slot in 0..self.flight.slots() {
            let unwanted = |_: &Self, issued: &Issued| !clients.wants(issued.request.tag());
            if let Some((issued, past)) = self.unpark(slot, unwanted) {
                self.fail(issued, past, quiet::completed());
            }
        }
    }

    /// Takes the command in this slot, if it waits and is what `which` says. The controller completed it, and has it not again.
    fn unpark(&mut self, slot: usize, which: impl FnOnce(&Self, &Issued) -> bool) -> Option<(Issued, Past)> {
        let (cid, issued) = self.flight.at(slot).filter(|(_, issued)| issued.standing == Standing::Parked)?;
        let past = which(self, issued).then(|| self.past(cid, issued))?;
        self.pasts.parked = self.pasts.parked.saturating_sub(1);
        Some((self.flight.take(cid)?, past))
    }

    /// The first deadline, or the time when a command is issued again.
    pub(super) fn first_deadline(&self) -> Time {
        let next = |(cid, issued)| self.pasts.next(self.flight.slot(cid), issued);
        self.flight.iter().map(next).min().unwrap_or(Time::from_nanos(u64::MAX))
    }

    /// Takes everything that is in flight, what waits included.
    pub(super) fn take_all(&mut self) -> Vec<(Issued, Past)> {
        self.earliest = Time::from_nanos(u64::MAX);
        self.pasts.parked = 0;
        let all: Vec<_> = self.flight.iter().map(|(cid, issued)| (cid, self.past(cid, issued))).collect();
        all.into_iter().filter_map(|(cid, past)| Some((self.flight.take(cid)?, past))).collect()
    }
}
