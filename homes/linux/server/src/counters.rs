//! What the core counted, as listings show it.

use nvme_core::nvme;
use nvme_linux::inventory::{ByKind, ByStatus, ControllerCounters, Counters, Latency, QueueCounters};
use nvme_session::queue::{Asked, Counted, CountedKind, Fault};

/// What a session did, and the memory that it has.
pub(crate) fn of(counted: &Counted, registered_bytes: u64) -> Counters {
    let each = |what: fn(&CountedKind) -> u64| by_kind(counted, what);
    Counters {
        requests: each(CountedKind::requests),
        failed: each(|kind| kind.failed),
        unsupported: each(|kind| kind.unsupported),
        errors: by_kind(counted, errors),
        latency_seconds: by_kind(counted, latency),
        read_bytes: counted.read_bytes,
        written_bytes: counted.written_bytes,
        in_flight: counted.in_flight,
        depth_most: counted.depth_most,
        held_seconds: seconds(counted.held),
        notifications: counted.notifications,
        slow_path: counted.slow_path,
        bounced: counted.bounced,
        registered_bytes,
    }
}

/// How a controller is, and what went wrong with it.
pub(crate) fn of_controller(controller: &nvme::Controller, serves: bool) -> ControllerCounters {
    let (smart, troubled) = (controller.smart(), controller.troubled());
    let many = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    ControllerCounters {
        ready: serves.into(),
        critical_warning: smart.map(|smart| smart.critical),
        temperature_celsius: smart.map(nvme::Smart::celsius),
        spare_ratio: smart.map(|smart| f64::from(smart.spare) / 100.0),
        used_ratio: smart.map(|smart| f64::from(smart.used) / 100.0),
        media_errors: smart.map(|smart| many(smart.media_errors)),
        unsafe_shutdowns: smart.map(|smart| many(smart.unsafe_shutdowns)),
        error_entries: smart.map(|smart| many(smart.error_entries)),
        failed: troubled.failed,
        repeated: troubled.repeated,
        late: troubled.late,
        aborts: troubled.aborts,
        resets: troubled.resets,
        dropped: troubled.dropped,
    }
}

/// What one virtqueue did; nothing where it did nothing.
pub(crate) fn of_queue(queue: u16, counted: &Counted) -> Option<QueueCounters> {
    let requests = counted.requests();
    (requests > 0 || counted.in_flight > 0).then_some(QueueCounters {
        queue,
        requests,
        read_bytes: counted.read_bytes,
        written_bytes: counted.written_bytes,
        in_flight: counted.in_flight,
        depth_most: counted.depth_most,
    })
}

fn by_kind<T>(counted: &Counted, what: impl Fn(&CountedKind) -> T) -> ByKind<T> {
    ByKind {
        read: what(counted.of(Asked::Read)),
        write: what(counted.of(Asked::Write)),
        flush: what(counted.of(Asked::Flush)),
        discard: what(counted.of(Asked::Discard)),
        write_zeroes: what(counted.of(Asked::WriteZeroes)),
        other: what(counted.of(Asked::Other)),
    }
}

fn latency(kind: &CountedKind) -> Latency {
    let buckets = (0..).zip(kind.latency).filter(|(_, many)| *many > 0);
    Latency { sum: seconds(kind.time), buckets: buckets.collect() }
}

fn errors(kind: &CountedKind) -> ByStatus {
    let counted = Fault::ALL.into_iter().zip(kind.errors).filter(|(_, many)| *many > 0);
    counted.map(|(fault, many)| (fault.word().to_owned(), many)).collect()
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
