//! Limits: operators change them while requests are under way, and nobody does more than it may, nor waits for longer than that takes.

use std::num::NonZeroU64;

use nvme_policy::Rate;

use crate::driver::{Asked, Kind};
use crate::judge::Judge;
use crate::judge::rate::{Meter, number, stricter};
use crate::world::World;

/// What an operator bounds a session by: requests, bytes a second; 0: nothing.
const RATES: [(u64, u64); 8] =
    [(0, 0), (10, 0), (300, 0), (0, 64 << 10), (0, 1 << 20), (1000, 4 << 20), (1, 0), (50, 100_000)];

/// How long everything may take besides what limits say.
const SLACK: u64 = 3_000_000_000;

impl World {
    /// A session has other limits, from when its workers have heard of them.
    pub(crate) fn limit(&mut self, at: usize, which: u8) -> bool {
        let Some(key) = self.seats.get(at).and_then(|s| s.key) else { return false };
        let (iops, bytes) = RATES[usize::from(which) % RATES.len()];
        let rate = Rate { iops: NonZeroU64::new(iops), bytes: NonZeroU64::new(bytes) };
        if self.control.limit(key, rate).is_err() {
            return false;
        }
        let some = |n: u64| Some(n).filter(|n| *n > 0);
        self.after_control();
        let heard = self.hands.iter().map(|hand| hand.delivered + hand.to.len() as u64).collect();
        let seat = &mut self.seats[at];
        (seat.meter, seat.limited_at) = (Meter::new(some(iops), some(bytes), self.now.as_nanos()), heard);
        true
    }

    /// What a session that was just minted may do: as its own words say, and those of the factories above it.
    pub(crate) fn meter_of(&self, at: usize, factory: Option<u64>) -> Meter {
        let words = self.words(at);
        let (mut iops, mut bytes) = (number(&words, "iops"), number(&words, "bytes"));
        for factory in self.above(factory) {
            iops = stricter(iops, number(factory.words, "iops"));
            bytes = stricter(bytes, number(factory.words, "bytes"));
        }
        Meter::new(iops, bytes, self.now.as_nanos())
    }

    /// A request is answered: it counts for its session, and for the factories above.
    pub(crate) fn metered(&mut self, at: usize, asked: &Asked, well: bool) {
        if self.seats[at].lost {
            return;
        }
        let moves = matches!(asked.kind, Kind::Read | Kind::Write | Kind::Zeroes) && well;
        let bytes = if moves { u64::from(asked.sectors) * 512 } else { 0 };
        let (now, workers) = (self.now.as_nanos(), self.hands.len() as u64);
        // Each virtqueue of those that stop may have begun one.
        let begun = |seat: &crate::seat::Seat| u64::from(seat.place.queues).max(workers);
        let (own, all) = (begun(&self.seats[at]), self.seats.iter().map(begun).sum());
        let seat = &mut self.seats[at];
        let heard = self.hands.iter().zip(&seat.limited_at).all(|(hand, at)| hand.delivered >= *at);
        if !heard {
            seat.meter.begin(now);
        } else {
            if !std::mem::take(&mut seat.limited_at).is_empty() {
                // What was taken before they heard of it does not count.
                seat.meter.begin(now);
            }
            if let Err(what) = seat.meter.answered(asked.at, bytes, now, (workers, own)) {
                self.find(Judge::Authority, || format!("seat {at} did more than it may: {what}"));
            }
        }
        let above: Vec<u64> = self.above(self.seats[at].factory).map(|f| f.number).collect();
        for number in above {
            let Some(factory) = self.factories.iter_mut().find(|f| f.number == number) else { continue };
            if let Err(what) = factory.meter.answered(asked.at, bytes, now, (workers, all)) {
                self.find(Judge::Authority, || {
                    format!("the sessions of factory {number} did more than they may: {what}")
                });
            }
        }
    }

    /// Another server begins to count: what is asked for from now on.
    pub(crate) fn begin_meters(&mut self, at: usize) {
        let now = self.now.as_nanos();
        self.seats[at].meter.begin(now);
        let above: Vec<u64> = self.above(self.seats[at].factory).map(|f| f.number).collect();
        for factory in self.factories.iter_mut().filter(|f| above.contains(&f.number)) {
            factory.meter.begin(now);
        }
    }

    /// Who has limits takes what was used before time goes by, so that it is known by when it was answered.
    pub(crate) fn look_at_limited(&mut self) {
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            if seat.driver.is_some() && (seat.meter.any() || seat.factory.is_some()) {
                for queue in 0..seat.place.queues as u8 {
                    self.reap(at, queue);
                }
            }
        }
    }

    /// By when all that is asked for now is answered, if nothing is wrong with any device.
    pub(crate) fn all_takes(&self) -> Option<u64> {
        if self.machines.iter().any(|m| m.troubled) {
            return None;
        }
        let mut time = SLACK;
        for seat in &self.seats {
            let asked = seat.driver.iter().flat_map(|d| &d.queues).flat_map(|q| q.slots.iter().flatten());
            // What was taken last is still to be paid for.
            let (requests, bytes) = asked.fold((2, 64 << 10), |(count, bytes), a| {
                (count + 1, bytes + u64::from(a.sectors) * 512 + 512)
            });
            let above = self.above(seat.factory).map(|f| f.meter.takes(requests, bytes));
            time += seat.meter.takes(requests, bytes).max(above.max().unwrap_or(0));
        }
        Some(time)
    }
}
