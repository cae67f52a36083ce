//! What a queue pair does about commands that do not end by themselves.
//!
//! A deadline that has passed proves nothing: [`expired`](QueuePair::expired) only names the command. Commands end here
//! when the control role has the pair back and shows a [`QueueQuiet`]: either all of them
//! ([`fail_all`](QueuePair::fail_all)), or those that are picked, while the others are issued again on the queues that
//! were created anew ([`restart`](QueuePair::restart)). Issuing a write again is safe: its client was not told
//! anything, and whatever it submitted after the answer to another command is not older than that.

use alloc::vec::Vec;
use core::fmt;

use nvme_platform::Time;
use nvme_session::memory::Quiet;
use nvme_session::operation::Outcome;
use nvme_session::queue::Tag;

use super::issued::{Issued, Past, Standing};
use super::pair::{Doorbells, Expired, QueuePair, State};
use super::quiet::QueueQuiet;

/// The proof is not about this pair, or about an earlier one with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotQuiet;

impl fmt::Display for NotQuiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the controller was not proven to be done with this queue pair")
    }
}

impl core::error::Error for NotQuiet {}

impl QueuePair {
    /// When [`expired`](Self::expired) is worth calling: not later than the first deadline.
    #[inline]
    pub fn next_deadline(&self) -> Option<Time> {
        (self.flight.len() > 0 && self.earliest != Time::from_nanos(u64::MAX)).then_some(self.earliest)
    }

    /// A command whose deadline has passed. It is named again when as much time has passed once more: whoever is told may
    /// be busy with another.
    pub fn expired(&mut self, now: Time) -> Option<Expired> {
        if now < self.earliest {
            return None;
        }
        let again = now + self.config.timeout;
        let late = |issued: &Issued| issued.deadline <= now && issued.standing != Standing::Parked;
        let found = self.flight.iter().find(|(_, issued)| late(issued)).map(|(cid, _)| cid);
        let found = found.and_then(|cid| {
            let slot = self.flight.slot(cid);
            let issued = self.flight.get_mut(cid)?;
            issued.deadline = again;
            self.pasts.late(slot, issued);
            self.troubles.late.add();
            Some(Expired { cid, tag: issued.request.tag() })
        });
        self.earliest = self.first_deadline();
        found
    }

    /// The requests that are in flight, with their commands.
    pub fn commands(&self) -> impl Iterator<Item = Expired> {
        self.flight.iter().map(|(cid, issued)| Expired { cid, tag: issued.request.tag() })
    }

    /// Whether `quiet` covers the queues that this pair has or had last.
    pub fn is_covered(&self, quiet: &QueueQuiet) -> bool {
        quiet.covers(self.config.controller, self.config.id, self.generation)
    }

    /// Ends everything that is in flight: each comes back as failed. The pair takes nothing any more.
    pub fn fail_all(&mut self, quiet: QueueQuiet) -> Result<(), NotQuiet> {
        let proof = quiet.pair(self.config.controller, self.config.id, self.generation).ok_or(NotQuiet)?;
        self.state = State::Stopped;
        for (issued, past) in self.take_all() {
            self.fail(issued, past, proof.command());
        }
        Ok(())
    }

    /// Goes on with queues that [`recreate_pair`](super::Controller::recreate_pair) made: issues everything again that
    /// was in flight, but what `fail` picks, which comes back as failed. Deadlines start when the queues were made.
    /// [`ring`](Self::ring) afterwards. The doorbells come back when the proof or they are not for this pair.
    pub fn restart(
        &mut self,
        quiet: QueueQuiet,
        doorbells: Doorbells,
        fail: &mut dyn FnMut(Tag) -> bool,
    ) -> Result<(), Doorbells> {
        let next = doorbells.id == self.config.id && doorbells.generation > self.generation;
        let proof = match quiet.pair(self.config.controller, self.config.id, self.generation) {
            Some(proof) if next && self.state == State::Stopped => proof,
            _ => return Err(doorbells),
        };
        let all = self.take_all();
        let mut again = Vec::with_capacity(all.len());
        for (issued, past) in all {
            if fail(issued.request.tag()) {
                self.fail(issued, past, proof.command());
            } else {
                again.push((issued, past));
            }
        }
        let Doorbells { doorbells, generation, made, .. } = doorbells;
        self.generation = generation;
        self.set_doorbells(doorbells);
        self.state = self.running();
        for (mut issued, past) in again {
            issued.deadline = made + self.config.timeout;
            if let Err(issued) = self.issue_again(issued, past) {
                self.fail(issued, past, proof.command());
            }
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, issued: Issued, past: Past, quiet: Quiet) {
        self.release_bounce(past.chunk);
        self.unguard(issued.request.operation());
        self.ended.push(issued.request.end(Outcome::Failed, quiet));
    }

    /// Before its queues are created anew: empties the rings. The controller does not know the old queues any more.
    pub(super) fn rewind(&mut self) {
        self.state = State::Stopped;
        self.sq.rewind();
        self.cq.rewind();
    }
}
