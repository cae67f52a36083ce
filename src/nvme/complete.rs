//! Completions: a request's way back.

use nvme_platform::{Time, trace, warn};
use nvme_session::memory::DmaRange;
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::{Ended, EndedOne, QueueTag};

use super::caches;
use super::clients::Clients;
use super::issued::{Issued, Past, Standing};
use super::mishap;
use super::pair::{QueuePair, State};
use super::quiet;
use super::repeat::Repeated;
use super::spec::command::{Completion, Status};
use super::transfer::How;

/// What came of completions.
#[derive(Debug)]
pub enum Came {
    /// A request ended.
    Ended(Ended),
    /// One that failed for the moment was issued again.
    Again,
}

/// A pair whose completions are taken, by the fast way.
pub struct Ending<'p>(&'p mut QueuePair);

impl Ending<'_> {
    /// Whose the request is, probably, that the next completion ends: what is there may be anything.
    #[inline(always)]
    pub fn whose(&self) -> Option<QueueTag> {
        let Self(pair) = self;
        pair.flight.get(pair.cq.peek()?.cid).map(|issued| issued.request.tag().queue())
    }

    /// The next request of that virtqueue that a good completion ends, of one range of memory that was not bounced. `None`: what comes next
    /// is another's, or to be asked for by [`next_ended`](QueuePair::next_ended), where its entry is loaded anew and checked by itself.
    #[inline(always)]
    pub fn next_of(&mut self, queue: QueueTag) -> Option<EndedOne> {
        let Self(pair) = self;
        let completion = pair.cq.peek_good()?;
        let issued = pair.claim(&completion, |issued| {
            let Issued { request, standing, .. } = issued;
            request.operation().is_of_one()
                && matches!(standing, Standing::Direct)
                && request.tag().queue() == queue
        })?;
        pair.cq.advance();
        // It is of one range: that was looked at.
        issued.request.end_one(quiet::completed())
    }
}

impl QueuePair {
    /// Takes up to `budget` requests that ended or were issued again, then rings the completion queue's doorbell. Answers
    /// how many.
    pub fn poll(
        &mut self,
        budget: u32,
        now: Time,
        clients: &dyn Clients,
        each: &mut dyn FnMut(Ended),
    ) -> u32 {
        let mut taken = 0;
        while taken < budget
            && let Some(came) = self.next_ended(now, clients)
        {
            if let Came::Ended(ended) = came {
                each(ended);
            }
            taken += 1;
        }
        self.finish_poll();
        taken
    }

    /// The fast way of [`next_ended`](Self::next_ended), for any number of completions. `None`: it is closed.
    #[inline(always)]
    pub fn ending(&mut self) -> Option<Ending<'_>> {
        (self.ended.is_empty() && self.state == State::Running).then_some(Ending(self))
    }

    /// Whether nothing has ended that was not taken.
    #[inline(always)]
    pub fn is_silent(&self) -> bool {
        self.ended.is_empty() && self.state == State::Running && self.cq.peek().is_none()
    }

    /// The next request that ended, or was issued again; then there is something to ring for.
    /// After the last one of a pass, [`finish_poll`](Self::finish_poll).
    #[inline(never)]
    pub fn next_ended(&mut self, now: Time, clients: &dyn Clients) -> Option<Came> {
        if !self.ended.is_empty() || self.state == State::Stopped {
            return self.ended.pop().map(Came::Ended);
        }
        // A controller that fills the queue with strays as fast as they are taken is not listened to for ever.
        for _ in 0..self.config.depth {
            let completion = self.cq.pop()?;
            let status = completion.status;
            if status.code() == Status::SQ_DELETED {
                // The queue is being deleted: its commands end, or are issued again, when that is proven.
                continue;
            }
            let claimed = self.claim(&completion, |issued| issued.standing != Standing::Parked);
            let Some(mut issued) = claimed else {
                self.stray(&completion);
                continue;
            };
            let past = self.past(completion.cid, &issued);
            if !status.ok() {
                match self.repeat(issued, past, status, now, clients) {
                    Repeated::Again => return Some(Came::Again),
                    Repeated::Parked => continue,
                    Repeated::Over(over) => issued = over,
                }
            } else if issued.how == How::Fill {
                match self.filled(issued, past, now, clients) {
                    Ok(()) => return Some(Came::Again),
                    Err(unfilled) => {
                        self.release_bounce(past.chunk);
                        self.unguard(unfilled.request.operation());
                        return Some(Came::Ended(ended(unfilled, Outcome::Failed)));
                    }
                }
            }
            let outcome = self.outcome(&issued, past, status, clients);
            return Some(Came::Ended(ended(issued, outcome)));
        }
        None
    }

    /// The command that a completion is about, if it is what `which` says. Nothing that the controller says here is
    /// believed: an entry about another queue, or about no command in flight, claims nothing.
    #[inline(always)]
    fn claim(&mut self, completion: &Completion, which: impl FnOnce(&Issued) -> bool) -> Option<Issued> {
        if completion.sqid != self.config.id || completion.sqhd >= self.config.depth {
            return None;
        }
        let issued = self.flight.take_if(completion.cid, which)?;
        trace!(
            "pair {}: command {:#06x} status {:#06x}",
            self.config.id, completion.cid, completion.status.0
        );
        Some(issued)
    }

    #[cold]
    fn stray(&mut self, completion: &Completion) {
        self.counters.strays += 1;
        self.troubles.dropped.add();
        if self.counters.strays.is_power_of_two() {
            warn!(
                "controller {} pair {}: dropped {} completions without a command, the last one for {:#06x}",
                self.config.controller, self.config.id, self.counters.strays, completion.cid
            );
        }
    }

    /// How a command ended that has this status.
    fn outcome(&mut self, issued: &Issued, past: Past, status: Status, clients: &dyn Clients) -> Outcome {
        let mut outcome = if status.ok() { Outcome::Done } else { self.failed(issued, status, clients) };
        if let Some(chunk) = past.chunk {
            // What a read brought is copied.
            let (skip, memory) = match issued.request.operation() {
                Operation::Read(transfer) => (0, transfer.memory()),
                Operation::ReadPart(part) => (part.skip(), part.memory()),
                _ => (0, &[][..]),
            };
            if outcome == Outcome::Done {
                let tag = issued.request.tag();
                let find = &mut |range: &DmaRange| clients.window(tag, range);
                if self.bounce.scatter(chunk, skip, memory, find).is_err() {
                    outcome = Outcome::Failed;
                }
            }
            self.bounce.put(chunk);
        }
        if let (Some(caches), None) = (&self.caches, past.chunk) {
            caches::after(&**caches, &issued.request, clients);
        }
        self.unguard(issued.request.operation());
        outcome
    }

    #[cold]
    fn failed(&mut self, issued: &Issued, status: Status, clients: &dyn Clients) -> Outcome {
        self.counters.errors += 1;
        self.troubles.failed.add();
        let operation = issued.request.operation();
        clients.failed(issued.request.tag(), mishap::asked(operation), status.fault());
        let unsupported = status.code() == Status::INVALID_OPCODE;
        // What a client causes by its own memory is not told each time: it would keep others' failures from being told.
        let session =
            clients.session(issued.request.tag()).filter(|_| status.code() != Status::DATA_TRANSFER);
        if let Some(session) = session.filter(|_| !unsupported) {
            self.mishaps.note(session, operation, status);
        } else if self.counters.errors.is_power_of_two() {
            warn!(
                "controller {} pair {}: a {} failed with status {:#06x} (error {})",
                self.config.controller,
                self.config.id,
                mishap::word(operation),
                status.0,
                self.counters.errors
            );
        }
        if unsupported { Outcome::Unsupported } else { Outcome::Failed }
    }

    /// Rings the completion queue's doorbell, when anything was taken.
    #[inline]
    pub fn finish_poll(&mut self) {
        if self.state != State::Stopped
            && let Some(head) = self.cq.take_head()
        {
            self.doorbells.completion_head(head);
        }
    }
}

/// What is given back of a command that was completed.
#[inline(always)]
fn ended(issued: Issued, outcome: Outcome) -> Ended {
    issued.request.end(outcome, quiet::completed())
}
