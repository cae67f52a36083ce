//! Requests that took long, the last ones of each length.
//!
//! A request that was answered within [`LONG`] costs nothing here: whether a run of requests took longer is asked once, when the run begins
//! (`tally`). What did is written down by the worker that served it, without a lock, into one of a fixed number of places; whoever reads takes a
//! place that is just being written to be empty. Several workers may write: a place is one's as long as it writes there, and who
//! finds it taken leaves its request out.

mod place;
mod sync;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::array;
use core::sync::atomic::{AtomicU64, Ordering};

use nvme_platform::Time;

use self::place::Place;
use super::counts::Asked;
use crate::operation::Outcome;

/// How long a request takes, in nanoseconds, that is remembered: a millisecond.
pub const LONG: u64 = 1_000_000;
/// How many are remembered of each length.
pub const REMEMBERED: usize = 64;
/// How many lengths there are: powers of two of a millisecond. The last one is all that is longer.
const LENGTHS: usize = 12;
/// What is kept of a request.
const WORDS: usize = 8;

/// A request that took long. Times are those of the passes in which it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Laggard {
    /// Its session's number.
    pub session: u64,
    /// Its virtqueue.
    pub queue: u16,
    /// What it asked for.
    pub asked: Asked,
    /// How it ended.
    pub outcome: Outcome,
    /// Of how many bytes it was.
    pub bytes: u64,
    /// So many of that kind were taken and told together, of which this is the first.
    pub together: u32,
    /// For how many nanoseconds its virtqueue had been held back by a limit, right before it was taken: it waited there for as long, at most.
    pub held: u64,
    /// When it was taken from the ring.
    pub taken: Time,
    /// When the last of it was given to the controller.
    pub submitted: Time,
    /// When the last of it was seen to be completed.
    pub completed: Time,
    /// When its driver had been told.
    pub used: Time,
}

impl Laggard {
    /// How many nanoseconds it took, those among them for which it was held back.
    pub fn nanos(&self) -> u64 {
        self.held.saturating_add(self.used.as_nanos().saturating_sub(self.taken.as_nanos()))
    }

    fn words(&self) -> [u64; WORDS] {
        let outcome = match self.outcome {
            Outcome::Done => 0,
            Outcome::Unsupported => 1,
            Outcome::Failed => 2,
        };
        [
            self.session,
            u64::from(self.queue)
                | (self.asked as u64) << 16
                | outcome << 24
                | u64::from(self.together) << 32,
            self.bytes,
            self.held,
            self.taken.as_nanos(),
            self.submitted.as_nanos(),
            self.completed.as_nanos(),
            self.used.as_nanos(),
        ]
    }

    fn from_words(words: [u64; WORDS]) -> Self {
        let [session, what, bytes, held, taken, submitted, completed, used] = words;
        Self {
            session,
            queue: what as u16,
            asked: Asked::ALL.get((what >> 16 & 0xff) as usize).copied().unwrap_or(Asked::Other),
            outcome: match what >> 24 & 0xff {
                0 => Outcome::Done,
                1 => Outcome::Unsupported,
                _ => Outcome::Failed,
            },
            bytes,
            together: (what >> 32) as u32,
            held,
            taken: Time::from_nanos(taken),
            submitted: Time::from_nanos(submitted),
            completed: Time::from_nanos(completed),
            used: Time::from_nanos(used),
        }
    }
}

/// The last requests of each length.
pub struct Laggards {
    /// How many were written, by length.
    next: [AtomicU64; LENGTHS],
    places: Box<[Place<WORDS>]>,
}

impl Default for Laggards {
    fn default() -> Self {
        Self {
            next: array::from_fn(|_| AtomicU64::new(0)),
            places: (0..LENGTHS * REMEMBERED).map(|_| Place::new()).collect(),
        }
    }
}

impl core::fmt::Debug for Laggards {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Laggards").finish_non_exhaustive()
    }
}

/// Which length that is.
fn length(nanos: u64) -> usize {
    let milliseconds = nanos / LONG;
    ((milliseconds | 1).ilog2() as usize).min(LENGTHS - 1)
}

impl Laggards {
    /// Remembers a request. One that took no longer than [`LONG`] is none of them.
    pub fn remember(&self, laggard: &Laggard) {
        if laggard.nanos() < LONG {
            return;
        }
        let length = length(laggard.nanos());
        // Which place is whose: not for whoever reads, who takes them as they are.
        let Some(next) = self.next.get(length) else { return };
        let at = next.fetch_add(1, Ordering::Relaxed) as usize % REMEMBERED;
        if let Some(place) = self.places.get(length * REMEMBERED + at) {
            place.write(laggard.words());
        }
    }

    /// The last [`REMEMBERED`] requests that took `nanos` or longer, in the order in which they were answered. Of those that took no more than twice
    /// as long, some may be missing though they are among the last, where many took less.
    pub fn longer_than(&self, nanos: u64) -> Vec<Laggard> {
        let first = length(nanos) * REMEMBERED;
        let words = self.places.iter().skip(first).filter_map(Place::read);
        let mut found: Vec<Laggard> =
            words.map(Laggard::from_words).filter(|laggard| laggard.nanos() >= nanos).collect();
        found.sort_unstable_by_key(|laggard| (laggard.used, laggard.taken, laggard.session));
        let more = found.len().saturating_sub(REMEMBERED);
        found.drain(..more);
        found
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn laggard(used: u64, took: u64) -> Laggard {
        Laggard {
            session: 7,
            queue: 3,
            asked: Asked::Discard,
            outcome: Outcome::Unsupported,
            bytes: took,
            together: u32::MAX - 5,
            held: 0,
            taken: Time::from_nanos(used - took),
            submitted: Time::from_nanos(used - took + 1),
            completed: Time::from_nanos(used - 1),
            used: Time::from_nanos(used),
        }
    }

    #[test]
    fn the_last_ones_that_took_as_long_are_found_in_their_order() {
        let log = Laggards::default();
        let second = 1_000_000_000;
        for n in 0..200 {
            log.remember(&laggard(10 * second + n, if n % 2 == 0 { 3 * LONG } else { 40 * LONG }));
        }
        log.remember(&laggard(11 * second, 9 * second));
        // Too short to be one of them.
        log.remember(&laggard(12 * second, LONG - 1));
        let all = log.longer_than(0);
        assert_eq!(all.len(), REMEMBERED);
        assert_eq!(all.last(), Some(&laggard(11 * second, 9 * second)));
        assert!(all.is_sorted_by_key(|laggard| laggard.used));
        assert_eq!(all[0].used.as_nanos(), 10 * second + 137, "the last ones of whatever length");
        let long = log.longer_than(40 * LONG);
        assert_eq!(long.len(), REMEMBERED);
        assert!(long.iter().all(|laggard| laggard.nanos() >= 40 * LONG));
        // Many short ones take no place of long ones.
        for n in 0..1000 {
            log.remember(&laggard(20 * second + n, LONG));
        }
        assert_eq!(log.longer_than(40 * LONG), long);
        assert_eq!(log.longer_than(41 * LONG), [laggard(11 * second, 9 * second)]);
        assert!(log.longer_than(u64::MAX).is_empty());
    }

    #[test]
    fn time_for_which_it_was_held_back_is_its_time() {
        let log = Laggards::default();
        let held = Laggard { held: 5 * LONG, ..laggard(LONG, 10) };
        log.remember(&held);
        assert_eq!(log.longer_than(5 * LONG), [held]);
    }

    /// Several threads write, and one reads: what it finds was written as it is.
    #[test]
    fn nothing_is_found_half_written() {
        let log = Laggards::default();
        let whole = |laggard: &Laggard| laggard.bytes == laggard.nanos() && laggard.queue == 3;
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..20_000 {
                        log.remember(&laggard(1 << 40, LONG + 7 * n + thread));
                    }
                });
            }
            for _ in 0..200 {
                assert!(log.longer_than(0).iter().all(whole));
            }
        });
        assert_eq!(log.longer_than(0).len(), REMEMBERED);
    }
}
