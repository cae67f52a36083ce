//! What cannot happen, if every part keeps its word. Should it happen all the same, it is counted and said, and nothing else
//! comes of it: control goes on with the others.

use core::fmt;

use super::super::message::{PairId, SessionKey};

/// What happened though it cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anomaly {
    /// Something is about a controller that is not there.
    NoController(u16),
    /// Something is about a session that is not there.
    NoSession(SessionKey),
    /// Something is about a queue pair that is not there.
    NoPair(PairId),
    /// A session has no change of its memory under way, though its next step is due.
    NoChange(SessionKey),
    /// A session has no such region, though it is to be taken away.
    NoRegion(SessionKey, u16),
    /// A queue pair is not where it has to be for what is to be done with it.
    Misplaced(PairId),
    /// A worker does not have a queue pair that it was given.
    NotWithWorker(PairId),
    /// The recovery of a controller (the first) was told something (the last) that it does not wait for in the step that
    /// it is at.
    Recovery(u16, &'static str, &'static str),
    /// A controller reports that it is ready, though it is not being brought up.
    Ready(u16),
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoController(at) => write!(f, "there is no controller {at}"),
            Self::NoSession(key) => write!(f, "there is no session {}", key.0),
            Self::NoPair(id) => write!(f, "controller {} has no queue pair {}", id.controller, id.queue),
            Self::NoChange(key) => write!(f, "session {} changes no memory", key.0),
            Self::NoRegion(key, slot) => write!(f, "session {} has no region {slot}", key.0),
            Self::Misplaced(id) => {
                write!(f, "controller {}: queue pair {} is not where it has to be", id.controller, id.queue)
            }
            Self::NotWithWorker(id) => {
                write!(f, "controller {}: its worker does not have queue pair {}", id.controller, id.queue)
            }
            Self::Recovery(at, step, input) => {
                write!(f, "controller {at}: its recovery heard of \"{input}\" while it was \"{step}\"")
            }
            Self::Ready(at) => write!(f, "controller {at} is ready, and nobody asked"),
        }
    }
}

/// How often something happened that cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Anomalies {
    count: u64,
    last: Option<Anomaly>,
}

impl Anomalies {
    /// Counts it. It is said the first, second, fourth, eighth … time: in at most 64 lines, whoever causes it.
    pub(super) fn note(&mut self, what: Anomaly) {
        self.count = self.count.saturating_add(1);
        self.last = Some(what);
        if self.count.is_power_of_two() {
            nvme_platform::error!("this cannot happen ({} times so far): {what}", self.count);
        }
    }

    /// How often in all.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What it was the last time.
    pub fn last(&self) -> Option<Anomaly> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_the_count_does_not_wrap() {
        let mut all = Anomalies::default();
        (0..1000).for_each(|_| all.note(Anomaly::NoController(7)));
        assert_eq!((all.count(), all.last()), (1000, Some(Anomaly::NoController(7))));
        let mut full = Anomalies { count: u64::MAX, last: None };
        full.note(Anomaly::NoController(7));
        assert_eq!(full.count(), u64::MAX);
    }
}
