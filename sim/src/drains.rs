//! Devices that operators drain: sessions there finish what they have, are told to be quiet, and do nothing until they are resumed.

use nvme_core::server::control::Drained;
use nvme_core::server::message::SessionKey;

use crate::judge::Judge;
use crate::judge::court::Holding;
use crate::seat::Seat;
use crate::world::{CONTROLLERS, World};

/// What is drained, in the judges' terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Area {
    All,
    Controller(usize),
    /// Those of a disk, by that controller and by no other that has it, too: controller, disk, first sector, sectors.
    Sectors(usize, usize, u64, u64),
}

impl Area {
    fn holds(self, controller: usize, holding: &Holding) -> bool {
        match self {
            Self::All => true,
            Self::Controller(of) => of == controller,
            Self::Sectors(of, disk, first, count) => {
                of == controller
                    && disk == holding.disk
                    && first < holding.first + holding.sectors
                    && holding.first < first + count
            }
        }
    }

    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Controller(of), Self::Controller(other) | Self::Sectors(other, ..)) => of == other,
            (Self::Sectors(of, disk, first, count), Self::Sectors(by, other, from, many)) => {
                (of, disk) == (by, other) && first <= from && from + many <= first + count
            }
            _ => false,
        }
    }
}

/// Whether a session waits because its device is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Held {
    #[default]
    No,
    /// It finishes what it has.
    Finishes,
    /// The server says that it has nothing in flight.
    Quiet,
}

impl World {
    /// What a number means: everything, a controller, or what a seat's session has.
    fn area(&self, which: u8) -> Option<(Drained, Area)> {
        match which % 8 {
            0 => Some((Drained::All, Area::All)),
            1 | 2 => {
                let at = usize::from(which) % CONTROLLERS;
                Some((Drained::Controller(at as u16), Area::Controller(at)))
            }
            _ => {
                let seat = self.seats.get(usize::from(which >> 3) % self.seats.len().max(1))?;
                let session = self.control.session(seat.key?)?;
                let (extent, device) = (*session.minted().grant().extent(), seat.device?);
                let Holding { disk, first, sectors, .. } = device.holding;
                Some((Drained::Blocks(extent), Area::Sectors(device.controller, disk, first, sectors)))
            }
        }
    }

    pub(crate) fn drain(&mut self, which: u8) -> bool {
        let Some((what, area)) = self.area(which) else { return false };
        self.drained.push(area);
        self.control.drain(what);
        self.look_at_held();
        true
    }

    pub(crate) fn resume(&mut self, which: u8) -> bool {
        let Some((what, area)) = self.area(which) else { return false };
        self.reap_held();
        let before = self.drained.len();
        self.drained.retain(|other| !area.covers(*other));
        let any = self.control.resume(what);
        if any != (self.drained.len() < before) {
            self.find(Judge::Life, || format!("resuming {area:?} says {any}"));
        }
        self.look_at_held();
        true
    }

    /// Whether a session there is held.
    pub(crate) fn is_drained(&self, controller: usize, holding: &Holding) -> bool {
        self.drained.iter().any(|area| area.holds(controller, holding))
    }

    /// What is drained has changed.
    fn look_at_held(&mut self) {
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            let (Some(key), Some(device)) = (seat.key, seat.device) else { continue };
            let held = !seat.lost && self.is_drained(device.controller, &device.holding);
            match (held, seat.held) {
                (true, Held::No) => self.seats[at].held = Held::Finishes,
                (false, Held::Finishes | Held::Quiet) => {
                    self.seats[at].held = Held::No;
                    self.court().held.remove(&key.0);
                }
                _ => {}
            }
        }
    }

    /// Answers that sessions have which do nothing are seen.
    pub(crate) fn reap_held(&mut self) {
        for at in 0..self.seats.len() {
            if self.seats[at].held == Held::Quiet {
                (0..3).for_each(|queue| {
                    self.reap(at, queue);
                });
            }
        }
    }

    /// The server says that a session that is drained has nothing in flight any more.
    pub(crate) fn is_quiet(&mut self, key: SessionKey) {
        let Some(at) = self.seats.iter().position(|s| s.key == Some(key)) else { return };
        if self.seats[at].lost {
            return;
        }
        if self.seats[at].held != Held::Finishes {
            let state = self.seats[at].held;
            return self.find(Judge::Life, || format!("seat {at} is said to be quiet, and it is {state:?}"));
        }
        if self.seats[at].device.is_some_and(|d| self.court().unsettled.contains(&d.controller)) {
            self.find(Judge::Life, || {
                format!("seat {at} is said to be quiet, and storage has something of it")
            });
        }
        // What is answered by now was answered before.
        (0..3).for_each(|queue| {
            self.reap(at, queue);
        });
        self.seats[at].held = Held::Quiet;
        self.court().hold(key.0);
    }

    /// A session's device is lost, or it has ended: it waits for nothing.
    pub(crate) fn is_held_no_more(&mut self, at: usize, key: SessionKey) {
        self.seats[at].held = Held::No;
        self.court().held.remove(&key.0);
    }

    /// All that is drained comes to rest, and nobody who waits is kept from being heard; then it goes on.
    pub(crate) fn end_drains(&mut self) {
        self.rest("what is drained to be quiet", |w| {
            let heard =
                |s: &Seat| s.has_been_heard() || s.held == Held::Quiet && s.stops_with_what_was_left();
            let answered = |s: &Seat| s.place.hostile || heard(s) && (!s.lost || s.is_answered());
            w.seats.iter().all(|s| s.held != Held::Finishes && answered(s))
        });
        self.operate(crate::step::Operation::Resume(0));
    }
}
