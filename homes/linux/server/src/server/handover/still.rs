//! Everything stands still: rings, what clients asked for, what is kept, the controllers' own queues.

use std::sync::mpsc::TryRecvError;

use nvme_linux::events::{Epoll, Events, Interest, now};
use nvme_platform::Time;
use nvme_policy::Errno;

use super::super::waiting::refused;
use super::super::{Server, Watched};
use super::{LOOK, Stays};
use crate::fatal::Fatal;
use crate::seat::{Phase, Seat};

/// Sessions wait for an image.
const HELD_UP: &str = "sessions wait until what a killed server began in their image has ended";

impl Server {
    /// Has everything stand still.
    pub(super) fn stand_still(&mut self, until: Time) -> Result<(), Stays> {
        if !self.control.scanned() {
            return Err(Stays::Why("controllers are still being scanned".into()));
        }
        if self.late.is_some() {
            return Err(Stays::Why(HELD_UP.into()));
        }
        let lost = |seat: &&Seat| {
            seat.key.and_then(|key| self.control.session(key)).is_some_and(|session| session.is_lost())
        };
        if let Some(seat) = self.seats.values().find(lost) {
            return Err(Stays::Why(format!("{}: its device is gone; end it first", seat.name)));
        }
        if !self.draining.is_empty() {
            return Err(Stays::Why("an operator waits until a device is drained".into()));
        }
        if !self.rescans.is_empty() {
            return Err(Stays::Why("an operator waits until controllers were looked at".into()));
        }
        for waiting in core::mem::take(&mut self.waiting) {
            let why = "another server is taking over; ask again";
            if let Some(Watched::Caller(caller, ..)) = self.watched.get(&waiting.caller) {
                let _ = self.epoll.modify(caller, waiting.caller, Interest::Read);
            }
            self.answer(waiting.caller, Err(refused(Errno::Again, why)));
        }
        // Whatever is asked of this server now waits where it is.
        let own = self.own_events()?;
        while !self.rests() {
            let late =
                if self.waits_for_the_dead() { HELD_UP } else { "what clients asked for is still under way" };
            self.turn(&own, until, late)?;
        }
        let seats: Vec<u32> = self.seats.keys().copied().collect();
        loop {
            let time = now();
            let mut still = true;
            for id in &seats {
                still &= self.lend(*id, time, |seat, lent| seat.pause(lent)).unwrap_or(true);
            }
            if still && self.rests() {
                return Ok(());
            }
            self.turn(&own, until, &self.in_flight())?;
        }
    }

    /// Has all that is kept tell all, and nothing else lie there, since another server goes on writing it.
    pub(super) fn settle_store(&mut self, until: Time) -> Result<(), Stays> {
        let own = self.own_events()?;
        let said = self.keep.as_ref().map(|keep| keep.keeper.last());
        while self.keep.is_some() {
            self.keep_changes();
            let is_said =
                said.as_ref().is_none_or(|said| !matches!(said.try_recv(), Err(TryRecvError::Empty)));
            if self.store_is_settled() && is_said {
                break;
            }
            self.turn(&own, until, "what is kept is still being written")?;
        }
        Ok(())
    }

    /// Has hardware controllers answer what they were asked, so that they can be left running. One that does not in time is reset by the next
    /// server.
    pub(super) fn settle_functions(&mut self, until: Time) -> Result<(), Stays> {
        let own = self.own_events()?;
        while now() < until && !self.lefts().iter().all(|(_, left)| left.is_some()) {
            self.turn_still(&own, until)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> String {
        let busy = |seat: &&Seat| !seat.stands_still();
        let names: Vec<&str> = self.seats.values().filter(busy).map(|seat| seat.name.as_str()).collect();
        format!("requests are still in flight: {}", names.join(", "))
    }

    /// Whether nothing is under way that changes what this server has.
    pub(in super::super) fn rests(&self) -> bool {
        let seats = self
            .seats
            .values()
            .all(|seat| seat.rests() && matches!(seat.phase, Phase::Absent | Phase::Free | Phase::Connected));
        let ending = self.control.catalogue().factories().any(|factory| factory.is_ended());
        seats
            && !ending
            && self.unrecorded.is_empty()
            && self.unkept.is_empty()
            && self.taking_up.is_empty()
            && self.late.is_none()
    }

    /// What is heard while everything stands still: workers, lanes, the audit trail.
    pub(in super::super) fn own_events(&self) -> Result<Epoll, Fatal> {
        let own = Epoll::new()?;
        own.add(&*self.bell, 0, Interest::ReadEdge)?;
        Ok(own)
    }

    /// One turn of what goes on while everything stands still. An error once the time is over.
    fn turn(&mut self, own: &Epoll, until: Time, late: &str) -> Result<(), Stays> {
        if now() >= until {
            return Err(Stays::Why(late.to_owned()));
        }
        self.turn_still(own, until)?;
        Ok(())
    }

    /// One turn of what goes on while everything stands still.
    pub(in super::super) fn turn_still(&mut self, own: &Epoll, until: Time) -> Result<(), Fatal> {
        let time = now();
        if self.bell.take() {
            self.hear_workers(time)?;
            self.hear_lanes(time);
            self.hear_trail(time);
            self.hear_keeper(time);
            self.lose_images(time);
        }
        self.control.poll(time);
        self.tell_workers()?;
        while let Some(event) = self.control.take_event() {
            self.control_event(event, time);
        }
        self.tell_workers()?;
        self.expire_records(time);
        if !self.bell.arm() {
            return Ok(());
        }
        let next = self.control.next_deadline().into_iter().chain([until, time + LOOK]).min();
        let waited = own.wait(&mut Events::new(4), next.map(|at| at - time));
        self.bell.disarm();
        Ok(waited?)
    }
}
