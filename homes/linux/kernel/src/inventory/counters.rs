//! What is counted, under the names that `ls --json`, `stat` and `metrics` share.
//!
//! [`NAMES`] is the table of them; doc/watching.md shows the same one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a number belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// A session.
    Session,
    /// A worker.
    Worker,
    /// A controller.
    Controller,
}

/// How a number behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// It rises.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Counts by power of two, and their sum.
    Histogram,
}

/// One name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// What it belongs to.
    pub scope: Scope,
    /// The name: of the field in JSON; `metrics` puts `nvme_drv_` and the scope before it.
    pub name: &'static str,
    /// How it behaves.
    pub form: Form,
    /// Whether it is there once for each kind of request.
    pub by_kind: bool,
    /// Whether it is there once for each status in these, as far as that occurred.
    pub by_status: bool,
    /// What it says.
    pub what: &'static str,
}

impl Name {
    /// What `metrics` calls it: without the `_total` of counters, which the text has besides.
    pub fn metric(&self) -> String {
        let scope = match self.scope {
            Scope::Session => "session",
            Scope::Worker => "worker",
            Scope::Controller => "controller",
        };
        format!("nvme_drv_{scope}_{}", self.name)
    }
}

const fn name(scope: Scope, name: &'static str, form: Form, what: &'static str) -> Name {
    Name { scope, name, form, by_kind: false, by_status: false, what }
}

const fn by_kind(name: &'static str, form: Form, what: &'static str) -> Name {
    Name { scope: Scope::Session, name, form, by_kind: true, by_status: false, what }
}

/// All names.
pub const NAMES: &[Name] = {
    use Form::{Counter, Gauge, Histogram};
    use Scope::{Controller, Session, Worker};
    &[
        by_kind("requests", Counter, "requests that were answered"),
        by_kind("failed", Counter, "of these, those with the status IOERR"),
        by_kind("unsupported", Counter, "of these, those with the status UNSUPP"),
        Name {
            by_status: true,
            ..by_kind("errors", Counter, "commands for them that the controller failed for good")
        },
        by_kind("latency_seconds", Histogram, "time from a request's being taken to its driver's being told"),
        name(Session, "read_bytes", Counter, "bytes that reads asked for"),
        name(Session, "written_bytes", Counter, "bytes that writes brought"),
        name(Session, "in_flight", Gauge, "requests that were taken and are not answered"),
        name(Session, "depth_most", Gauge, "the most that were in flight in one virtqueue"),
        name(
            Session,
            "held_seconds",
            Counter,
            "time for which limits kept requests waiting, summed over virtqueues",
        ),
        name(Session, "notifications", Counter, "how often the driver was told of answers"),
        name(Session, "slow_path", Counter, "requests that were not of the form that most have"),
        name(
            Session,
            "bounced",
            Counter,
            "requests whose data was copied, since the controller could not reach it",
        ),
        name(Session, "registered_bytes", Gauge, "memory that its client has registered"),
        name(Worker, "busy_seconds", Counter, "time for which it did something"),
        name(
            Worker,
            "asleep_seconds",
            Counter,
            "time for which it slept; what is neither it spent looking for work",
        ),
        name(Controller, "ready", Gauge, "1 while it serves; 0 while it starts, is reset, or has failed"),
        name(Controller, "critical_warning", Gauge, "bits of its critical warning; 0 is none"),
        name(Controller, "temperature_celsius", Gauge, "its temperature"),
        name(Controller, "spare_ratio", Gauge, "spare that is left; 1 is all of it"),
        name(Controller, "used_ratio", Gauge, "endurance that is used; may be more than 1"),
        name(
            Controller,
            "media_errors",
            Counter,
            "errors of its medium, or of data, that it could not correct",
        ),
        name(Controller, "unsafe_shutdowns", Counter, "how often it lost power without being told before"),
        name(Controller, "error_entries", Counter, "entries that its error log ever had"),
        name(Controller, "failed", Counter, "commands of sessions that it failed for good"),
        name(
            Controller,
            "repeated",
            Counter,
            "commands that it failed for the moment, and that were issued again",
        ),
        name(Controller, "late", Counter, "how often the deadline of a command passed"),
        name(Controller, "aborts", Counter, "how often it was asked to abort a command"),
        name(Controller, "resets", Counter, "how often it was reset"),
        name(Controller, "dropped", Counter, "completions that belonged to no command, and were dropped"),
    ]
};

/// One value for each kind of request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByKind<T> {
    /// Reads.
    pub read: T,
    /// Writes.
    pub write: T,
    /// Flushes.
    pub flush: T,
    /// Discards.
    pub discard: T,
    /// Write-zeroes.
    pub write_zeroes: T,
    /// The device's name, and what is not known.
    pub other: T,
}

impl<T> ByKind<T> {
    /// The values with their words.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        [
            ("read", &self.read),
            ("write", &self.write),
            ("flush", &self.flush),
            ("discard", &self.discard),
            ("write_zeroes", &self.write_zeroes),
            ("other", &self.other),
        ]
        .into_iter()
    }

    /// The same for each of them.
    pub fn map<U>(&self, mut each: impl FnMut(&T) -> U) -> ByKind<U> {
        ByKind {
            read: each(&self.read),
            write: each(&self.write),
            flush: each(&self.flush),
            discard: each(&self.discard),
            write_zeroes: each(&self.write_zeroes),
            other: each(&self.other),
        }
    }

    /// Two of them, value by value.
    pub fn zip<U, V>(&self, other: &ByKind<U>, mut each: impl FnMut(&T, &U) -> V) -> ByKind<V> {
        ByKind {
            read: each(&self.read, &other.read),
            write: each(&self.write, &other.write),
            flush: each(&self.flush, &other.flush),
            discard: each(&self.discard, &other.discard),
            write_zeroes: each(&self.write_zeroes, &other.write_zeroes),
            other: each(&self.other, &other.other),
        }
    }
}

impl ByKind<u64> {
    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.iter().map(|(_, n)| n).fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

/// Counts by how the controller called it: by the words of doc/watching.md, of which there are few. What is left out is none.
pub type ByStatus = BTreeMap<String, u64>;

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// All of them together, in seconds.
    pub sum: f64,
    /// Pairs of N and how many took from 2ᴺ to 2ᴺ⁺¹ nanoseconds; what is left out is none.
    pub buckets: Vec<(u8, u64)>,
}

impl Latency {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, (_, many)| sum.wrapping_add(*many))
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |n: u8| earlier.buckets.iter().find(|(m, _)| *m == n).map_or(0, |(_, many)| *many);
        let grown = self.buckets.iter().map(|(n, many)| (*n, many.saturating_sub(before(*n))));
        Self {
            sum: (self.sum - earlier.sum).max(0.0),
            buckets: grown.filter(|(_, many)| *many > 0).collect(),
        }
    }

    /// The mean, in seconds.
    pub fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 { 0.0 } else { self.sum / count as f64 }
    }

    /// The time that so great a part of them took at most, as far as powers of two tell: the end of its bucket, in seconds.
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        for (n, many) in &self.buckets {
            seen = seen.saturating_add(*many);
            if seen >= wanted {
                return Self::end(*n);
            }
        }
        0.0
    }

    /// Where a bucket ends, in seconds.
    pub fn end(n: u8) -> f64 {
        2_f64.powi(i32::from(n) + 1) / 1e9
    }
}

/// What a session did, all of its virtqueues together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Requests that were answered.
    pub requests: ByKind<u64>,
    /// Of these, those with `IOERR`.
    pub failed: ByKind<u64>,
    /// Of these, those with `UNSUPP`.
    pub unsupported: ByKind<u64>,
    /// Commands for them that the controller failed for good.
    pub errors: ByKind<ByStatus>,
    /// How long they took, from being taken to the driver's being told.
    pub latency_seconds: ByKind<Latency>,
    /// Bytes that reads asked for.
    pub read_bytes: u64,
    /// Bytes that writes brought.
    pub written_bytes: u64,
    /// Requests that were taken and are not answered.
    pub in_flight: u64,
    /// The most that were in flight in one virtqueue.
    pub depth_most: u64,
    /// Time for which limits kept requests waiting, summed over virtqueues.
    pub held_seconds: f64,
    /// How often the driver was told of answers.
    pub notifications: u64,
    /// Requests that were not of the form that most have.
    pub slow_path: u64,
    /// Requests whose data was copied, since the controller could not reach it.
    pub bounced: u64,
    /// Bytes of memory that its client has registered.
    pub registered_bytes: u64,
}

/// What one virtqueue did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueCounters {
    /// Which one.
    pub queue: u16,
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes that reads asked for.
    pub read_bytes: u64,
    /// Bytes that writes brought.
    pub written_bytes: u64,
    /// Requests that were taken and are not answered.
    pub in_flight: u64,
    /// The most that were in flight.
    pub depth_most: u64,
}

/// A thread that serves virtqueues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Which one.
    pub worker: u32,
    /// Time for which it did something.
    pub busy_seconds: f64,
    /// Time for which it slept. What is neither it spent looking for work.
    pub asleep_seconds: f64,
}

/// What a controller says of its health, once a minute, and what went wrong with it while this server had it. What it has not said is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControllerCounters {
    /// 1: it serves. 0: it does not.
    pub ready: u8,
    /// Bits (NVM Express Base 2.0, 5.16.1.3).
    pub critical_warning: Option<u8>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<i32>,
    /// 1: all of it.
    pub spare_ratio: Option<f64>,
    /// 1: all of it; may exceed that.
    pub used_ratio: Option<f64>,
    /// How many.
    pub media_errors: Option<u64>,
    /// How often.
    pub unsafe_shutdowns: Option<u64>,
    /// How many.
    pub error_entries: Option<u64>,
    /// Commands of sessions that it failed for good.
    pub failed: u64,
    /// Those that it failed for the moment.
    pub repeated: u64,
    /// How often the deadline of a command passed.
    pub late: u64,
    /// How often it was asked to abort one.
    pub aborts: u64,
    /// How often it was reset.
    pub resets: u64,
    /// Completions of no command.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_s_quantiles_are_ends_of_buckets() {
        let latency = Latency { sum: 0.3, buckets: vec![(10, 98), (20, 1), (30, 1)] };
        assert_eq!(latency.count(), 100);
        assert!((latency.mean() - 0.003).abs() < 1e-9);
        assert_eq!(latency.quantile(0.5), Latency::end(10));
        assert_eq!(latency.quantile(0.99), Latency::end(20));
        assert_eq!(latency.quantile(1.0), Latency::end(30));
        assert_eq!(Latency::default().quantile(0.5), 0.0);
        let later = Latency { sum: 0.5, buckets: vec![(10, 98), (20, 3), (30, 1)] };
        assert_eq!(later.since(&latency).buckets, [(20, 2)]);
        assert!((later.since(&latency).sum - 0.2).abs() < 1e-9);
    }

    #[test]
    fn the_names_of_the_table_are_those_of_the_document() {
        for (scope, document) in [
            (Scope::Session, serde_json::to_value(Counters::default()).unwrap()),
            (Scope::Worker, serde_json::to_value(Worker::default()).unwrap()),
            (Scope::Controller, serde_json::to_value(ControllerCounters::default()).unwrap()),
        ] {
            let fields: Vec<&String> = document.as_object().unwrap().keys().collect();
            let named: Vec<&Name> = NAMES.iter().filter(|n| n.scope == scope).collect();
            for name in &named {
                let value = document.get(name.name).unwrap_or_else(|| panic!("no {}", name.name));
                assert_eq!(value.is_object(), name.by_kind, "{}", name.name);
            }
            let own = usize::from(scope == Scope::Worker);
            assert_eq!(fields.len(), named.len() + own, "{fields:?}");
        }
        let kinds = serde_json::to_value(ByKind::<u64>::default()).unwrap();
        assert!(ByKind::<u64>::default().iter().all(|(word, _)| kinds.get(word).is_some()));
    }
}
