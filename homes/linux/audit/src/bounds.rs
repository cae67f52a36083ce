//! How much of what callers and clients can cause is written one by one; the rest is counted.
//!
//! Whoever asks for what he cannot have, again and again, must neither fill the file nor hide in it what others do. So each tenant
//! has so many at once ([`BURST`], [`BURST_DATASPACES`]), then one in a while, and how many were not written is said in a record
//! of its own, at most once in [`COUNTED`]. A tenant is a factory right below the server's own, with all that was made of it: with a bound
//! for each factory, whoever may make factories would have all of it anew with each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::{Event, Record};

/// Refusals of one tenant that are written at once, and refused dataspaces.
pub const BURST: u32 = 32;
/// Registered dataspaces of one tenant's sessions that are.
pub const BURST_DATASPACES: u32 = 512;
/// Then there is one more in so long.
const EVERY: Duration = Duration::from_secs(10);
const EVERY_DATASPACE: Duration = Duration::from_secs(1);
/// How often it is said how many were counted.
const COUNTED: Duration = Duration::from_secs(60);

struct Bound {
    /// How much is left, and since when it grows.
    left: u32,
    since: Duration,
    /// Not written.
    counted: u64,
    /// When that was said last.
    said: Duration,
}

/// See the [module](self). Times are since whatever is zero for the caller.
#[derive(Default)]
pub struct Bounds {
    of: BTreeMap<(u64, u8), Bound>,
}

/// What is bounded: its place among these, how many at once, and how long until there is one more.
fn kind(event: Event) -> Option<(u8, u32, Duration)> {
    match event {
        Event::Refusal => Some((0, BURST, EVERY)),
        Event::DataspaceRefused => Some((1, BURST, EVERY)),
        Event::Dataspace => Some((2, BURST_DATASPACES, EVERY_DATASPACE)),
        _ => None,
    }
}

fn event(kind: u8) -> Event {
    match kind {
        0 => Event::Refusal,
        1 => Event::DataspaceRefused,
        _ => Event::Dataspace,
    }
}

impl Bounds {
    /// Whether one more of a tenant's is written; otherwise it is counted. What is not bounded always is.
    pub fn allow(&mut self, tenant: u64, event: Event, now: Duration) -> bool {
        let Some((kind, burst, every)) = kind(event) else { return true };
        let new = Bound { left: burst, since: now, counted: 0, said: now };
        let bound = self.of.entry((tenant, kind)).or_insert(new);
        let grown = now.saturating_sub(bound.since).as_nanos() / every.as_nanos().max(1);
        let grown = u32::try_from(grown).unwrap_or(u32::MAX);
        bound.left = bound.left.saturating_add(grown).min(burst);
        bound.since = if bound.left == burst { now } else { bound.since + every.saturating_mul(grown) };
        if let Some(left) = bound.left.checked_sub(1) {
            bound.left = left;
            return true;
        }
        if bound.counted == 0 {
            bound.said = now;
        }
        bound.counted = bound.counted.saturating_add(1);
        false
    }

    /// When there is a count to be written.
    pub fn deadline(&self) -> Option<Duration> {
        self.of.values().filter(|bound| bound.counted > 0).map(|bound| bound.said + COUNTED).min()
    }

    /// The counts to be written now.
    pub fn due(&mut self, now: Duration) -> Vec<Record> {
        self.take(|_, bound| now >= bound.said + COUNTED, now)
    }

    /// Those of a factory that has ended, which is forgotten.
    pub fn forget(&mut self, factory: u64, now: Duration) -> Vec<Record> {
        let counts = self.take(|of, _| of == factory, now);
        self.of.retain(|(of, _), _| *of != factory);
        counts
    }

    /// All of them: nothing comes any more.
    pub fn all(&mut self, now: Duration) -> Vec<Record> {
        self.take(|_, _| true, now)
    }

    fn take(&mut self, which: impl Fn(u64, &Bound) -> bool, now: Duration) -> Vec<Record> {
        let mut counts = Vec::new();
        for ((factory, kind), bound) in &mut self.of {
            if bound.counted == 0 || !which(*factory, bound) {
                continue;
            }
            bound.said = now;
            counts.push(Record {
                factory: Some(*factory),
                count: Some(std::mem::take(&mut bound.counted)),
                why: Some("too many to be written one by one".into()),
                ..Record::of(event(*kind))
            });
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    fn written(bounds: &mut Bounds, factory: u64, many: u32, now: Duration) -> usize {
        (0..many).filter(|_| bounds.allow(factory, Event::Refusal, now)).count()
    }

    #[test]
    fn a_flood_is_counted_and_one_factory_s_takes_nothing_from_another_s() {
        let mut bounds = Bounds::default();
        assert_eq!(written(&mut bounds, 1, 10_000, at(0)), 32);
        assert_eq!(written(&mut bounds, 2, 3, at(0)), 3);
        assert!((0..10_000).all(|_| bounds.allow(1, Event::Grant, at(0))), "what is granted is written");
        assert_eq!(bounds.due(at(59)), []);
        assert_eq!(bounds.deadline(), Some(at(60)));
        let counts = bounds.due(at(60));
        assert_eq!(
            counts.iter().map(|r| (r.event, r.factory, r.count)).collect::<Vec<_>>(),
            [(Event::Refusal, Some(1), Some(9968))]
        );
        assert_eq!((bounds.deadline(), bounds.due(at(200))), (None, Vec::new()));
    }

    #[test]
    fn in_a_while_one_more_is_written() {
        let mut bounds = Bounds::default();
        assert_eq!(written(&mut bounds, 1, 100, at(0)), 32);
        bounds.due(at(60));
        assert_eq!(written(&mut bounds, 1, 100, at(65)), 6);
        assert_eq!(written(&mut bounds, 1, 100, at(69)), 0);
        assert_eq!(written(&mut bounds, 1, 100, at(70)), 1, "the half that was left counts");
        // In a day: what fits beside everything else.
        let mut day = 0;
        for second in 100..86_500 {
            day += written(&mut bounds, 1, 3, at(second));
        }
        assert!((8600..8700).contains(&day), "{day}");
    }

    #[test]
    fn what_was_counted_is_said_when_the_factory_or_the_server_ends() {
        let mut bounds = Bounds::default();
        written(&mut bounds, 1, 40, at(0));
        written(&mut bounds, 2, 50, at(0));
        assert_eq!(bounds.forget(1, at(1)).first().unwrap().count, Some(8));
        assert_eq!(bounds.all(at(1)).first().unwrap().count, Some(18));
        assert_eq!(bounds.all(at(2)), []);
        assert_eq!(written(&mut bounds, 1, 40, at(2)), 32, "the next factory of that number begins anew");
    }
}
