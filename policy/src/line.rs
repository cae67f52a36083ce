//! A token bucket that several take from, each in its turn.
//!
//! The [`Bucket`] says how much may be taken; here is who is next. Whoever is refused gets in line: it reserves the next units and comes back
//! when those before it, and its own but for the last request, are paid for. So nobody is starved by who looks first, or more often. What a
//! request came to beyond what was reserved moves all those who wait, and is left out of what its taker reserves in the rounds that follow: over
//! time each has about the same, however long its requests are. What somebody reserved and has no use for is given back
//! ([`Line::give_back`]); then those behind move up.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::bucket::{Bucket, PARTS, SECOND};

/// What several take from. Times are nanoseconds on one clock that never goes back.
#[derive(Debug, Default)]
pub struct Line {
    /// How much there is in all.
    bucket: Bucket,
    /// Units of one reservation: those of the longest request that was seen at least, so that whoever comes by them has a request's worth.
    round: AtomicU64,
    /// Until when what was reserved takes, in parts of nanoseconds.
    end: AtomicU64,
    /// By how much all places have moved in all, modulo 2⁶⁴.
    moved: AtomicU64,
}

/// Somebody's place in a [`Line`], or none.
#[derive(Debug)]
pub struct Place {
    /// When its units may be taken, as it was when they were reserved, in parts of nanoseconds; 0: it has no place.
    due: AtomicU64,
    /// What [`Line::moved`] was then.
    moved: AtomicU64,
    /// Units that are reserved and not yet taken. None: a round that it sits out.
    units: AtomicU64,
    /// Of them, those that it took.
    used: AtomicU64,
    /// What it is taken to have use for at once: twice what it had, the last time.
    wants: AtomicU64,
    /// Units that it had beyond what it reserved, and has not sat out yet.
    beyond: AtomicU64,
}

// Relaxed throughout: no other memory depends on any of these. They only say who is next; how much there is says the bucket.
const RELAXED: Ordering = Ordering::Relaxed;
const NANOS: u128 = 1_000_000_000;
/// Whoever waits for no longer looks when its time has come, in parts of nanoseconds.
const SOON: u64 = 10_000_000 * PARTS;
/// A part of a second's units: nobody reserves more at once because requests are long.
const LONGEST: u64 = 20;

impl Line {
    /// Of so many units a second, reserved for so long a time (in nanoseconds) at once.
    pub fn new(rate: Option<NonZeroU64>, together: u64) -> Self {
        let round = rate.map_or(1, |rate| u128::from(together) * u128::from(rate.get()) / NANOS + 1);
        let round = AtomicU64::new(u64::try_from(round).unwrap_or(u64::MAX));
        Self { bucket: Bucket::new(rate), round, ..Self::default() }
    }

    /// Units a second.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.bucket.rate()
    }

    /// How many units it may take now, the last request of them on credit; at least one. Or when to ask again: it is in line then.
    ///
    /// `request` is what one request is expected to come to.
    pub fn may(&self, place: &Place, request: u64, now: u64) -> Result<u64, u64> {
        let Some(rate) = self.rate() else { return Ok(u64::MAX) };
        let at = now.saturating_mul(PARTS);
        loop {
            if let Some(due) = self.due(place) {
                if due > at {
                    // Those ahead may have no use for what they reserved: it looks again when half of the time is over.
                    let wait = if due - at > SOON { (due - at) / 2 } else { due - at };
                    return Err((at + wait).div_ceil(PARTS));
                }
                let units = place.units.load(RELAXED);
                if units > 0 {
                    let most = self.bucket.may(now);
                    if let Err(until) = most {
                        self.delay(place, until.saturating_sub(now), rate, at);
                    }
                    return most.map(|most| most.min(units));
                }
                place.leave();
            }
            if self.end.load(RELAXED) <= at
                && let Ok(units) = self.bucket.may(now)
            {
                return Ok(units);
            }
            self.reserve(place, request, rate, at);
        }
    }

    /// It took so many units.
    pub fn take(&self, place: &Place, units: u64, now: u64) {
        let Some(rate) = self.rate() else { return };
        let at = now.saturating_mul(PARTS);
        self.bucket.take(units, now);
        if self.due(place).is_none_or(|due| due > at) {
            // Nobody was there, or just not yet. What is on credit is before all others, and what it did not sit out is not all forgiven.
            let late = self.bucket.paid().saturating_sub(at);
            self.end.fetch_max(self.bucket.paid(), RELAXED);
            let beyond =
                u64::try_from(u128::from(late) * u128::from(rate.get()) / SECOND).unwrap_or(u64::MAX);
            let before = place.beyond.load(RELAXED).min(self.round.load(RELAXED));
            place.beyond.store(before.saturating_add(beyond), RELAXED);
            return;
        }
        let less = |reserved: u64| Some(reserved.saturating_sub(units));
        let reserved = place.units.fetch_update(RELAXED, RELAXED, less).unwrap_or_default();
        let used = place.used.fetch_add(units, RELAXED).saturating_add(units);
        if reserved > units {
            return;
        }
        place.wants.store(used.saturating_mul(2), RELAXED);
        place.leave();
        let beyond = units - reserved;
        if beyond > 0 {
            let cost = cost(beyond, rate);
            if self.lengthen(cost, at) > at {
                self.moved.fetch_add(cost, RELAXED);
            }
            place.beyond.fetch_add(beyond, RELAXED);
        }
    }

    /// It has no use for what is left of what it reserved, if its time has come: whoever is behind it moves up.
    pub fn give_back(&self, place: &Place, now: u64) {
        let Some(rate) = self.rate() else { return };
        if self.due(place).is_some_and(|due| due <= now.saturating_mul(PARTS)) {
            let cost = cost(place.units.swap(0, RELAXED), rate);
            place.wants.store(place.used.load(RELAXED).saturating_mul(2).max(1), RELAXED);
            place.leave();
            let _ = self.end.fetch_update(RELAXED, RELAXED, |end| Some(end.saturating_sub(cost)));
            self.moved.fetch_sub(cost, RELAXED);
        }
    }

    /// When its units may be taken, if it has a place.
    fn due(&self, place: &Place) -> Option<u64> {
        let due = place.due.load(RELAXED);
        // What moved since is far less than half of all there is, to either side.
        let since = self.moved.load(RELAXED).wrapping_sub(place.moved.load(RELAXED)).cast_signed();
        (due != 0).then(|| due.saturating_add_signed(since))
    }

    /// Gets in line.
    fn reserve(&self, place: &Place, request: u64, rate: NonZeroU64, at: u64) {
        let longest = request.min(rate.get() / LONGEST).max(1);
        let round = self.round.fetch_max(longest, RELAXED).max(longest);
        let beyond = place.beyond.load(RELAXED);
        let sat_out = beyond.min(round);
        place.beyond.store(beyond - sat_out, RELAXED);
        let units = (round - sat_out).min(place.wants.load(RELAXED).max(longest));
        place.moved.store(self.moved.load(RELAXED), RELAXED);
        let start = self.lengthen(cost(units, rate), at);
        let wait = if units > 0 {
            cost(units, rate) - cost(request.clamp(1, units), rate)
        } else {
            // Whoever is due when it is looks first. If nobody is in line then, no time is lost: it was not used, and is made up for.
            cost(round, rate) / 4
        };
        place.used.store(0, RELAXED);
        place.units.store(units, RELAXED);
        place.due.store(start.saturating_add(wait).max(1), RELAXED);
    }

    /// More was taken than was reserved: whoever is due now waits for so many nanoseconds, and those behind it for longer.
    fn delay(&self, place: &Place, nanos: u64, rate: NonZeroU64, at: u64) {
        let wait = nanos.saturating_mul(PARTS);
        let behind = wait.saturating_add(cost(self.round.load(RELAXED), rate) / 8);
        self.lengthen(behind, at);
        let moved = self.moved.fetch_add(behind, RELAXED).wrapping_add(behind);
        place.moved.store(moved, RELAXED);
        place.due.store(at.saturating_add(wait).max(1), RELAXED);
    }

    /// So much more is reserved, in parts of nanoseconds. From when on.
    fn lengthen(&self, cost: u64, at: u64) -> u64 {
        let start = |end: u64| end.max(at).max(self.bucket.paid());
        // It never fails, since there is always a next.
        let next = |end: u64| Some(start(end).saturating_add(cost));
        self.end.fetch_update(RELAXED, RELAXED, next).map_or(at, start)
    }
}

impl Default for Place {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let wants = AtomicU64::new(u64::MAX);
        Self { due: zero(), moved: zero(), units: zero(), used: zero(), wants, beyond: zero() }
    }
}

impl Place {
    fn leave(&self) {
        self.due.store(0, RELAXED);
    }
}

/// How long so many units take, in parts of nanoseconds.
fn cost(units: u64, rate: NonZeroU64) -> u64 {
    let cost = (u128::from(units) * SECOND).div_ceil(u128::from(rate.get()));
    u64::try_from(cost).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
