//! `nvme-ctl stat`: what sessions do, a second.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::thread;
use std::time::Duration;

use nvme_linux::inventory::{
    ByKind, Controller, ControllerCounters, Counters, Inventory, Latency, Session, Worker,
};
use nvme_linux::standard::print;
use serde::Serialize;

use crate::failure::Failure;
use crate::list::fetch;
use crate::server::Place;
use crate::tree::{clean, table};

/// What was done in some time, a second: the fields and their names are those of [`Counters`].
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rates {
    pub(crate) requests: ByKind<f64>,
    pub(crate) failed: ByKind<f64>,
    pub(crate) unsupported: ByKind<f64>,
    pub(crate) errors: ByKind<BTreeMap<String, f64>>,
    /// Of the requests of that time. Its sum, a second, is how many were in flight on the average.
    pub(crate) latency_seconds: ByKind<Latency>,
    pub(crate) read_bytes: f64,
    pub(crate) written_bytes: f64,
    /// As it is.
    pub(crate) in_flight: u64,
    /// As it is.
    pub(crate) depth_most: u64,
    pub(crate) held_seconds: f64,
    pub(crate) notifications: f64,
    pub(crate) slow_path: f64,
    pub(crate) bounced: f64,
    /// As it is.
    pub(crate) registered_bytes: u64,
}

impl Rates {
    /// From two readings. A session that was not there before began with nothing.
    pub(crate) fn between(before: &Counters, after: &Counters, seconds: f64) -> Self {
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let each = |before: &ByKind<u64>, after: &ByKind<u64>| before.zip(after, |b, a| rate(*b, *a));
        Self {
            requests: each(&before.requests, &after.requests),
            failed: each(&before.failed, &after.failed),
            unsupported: each(&before.unsupported, &after.unsupported),
            errors: before.errors.zip(&after.errors, |before, after| {
                let since = |word| before.get(word).copied().unwrap_or(0);
                after.iter().map(|(word, now)| (word.clone(), rate(since(word), *now))).collect()
            }),
            latency_seconds: before.latency_seconds.zip(&after.latency_seconds, |b, a| a.since(b)),
            read_bytes: rate(before.read_bytes, after.read_bytes),
            written_bytes: rate(before.written_bytes, after.written_bytes),
            in_flight: after.in_flight,
            depth_most: after.depth_most,
            held_seconds: (after.held_seconds - before.held_seconds).max(0.0) / seconds,
            notifications: rate(before.notifications, after.notifications),
            slow_path: rate(before.slow_path, after.slow_path),
            bounced: rate(before.bounced, after.bounced),
            registered_bytes: after.registered_bytes,
        }
    }

    /// How many requests were in flight on the average.
    pub(crate) fn depth(&self, seconds: f64) -> f64 {
        self.latency_seconds.iter().map(|(_, latency)| latency.sum).sum::<f64>() / seconds
    }

    /// Reads and writes aside.
    pub(crate) fn others(&self) -> f64 {
        let ByKind { flush, discard, write_zeroes, other, .. } = &self.requests;
        flush + discard + write_zeroes + other
    }

    /// The latency of all kinds together.
    pub(crate) fn latency(&self) -> Latency {
        let mut all = Latency::default();
        for (_, one) in self.latency_seconds.iter() {
            all.sum += one.sum;
            for (n, many) in &one.buckets {
                match all.buckets.iter_mut().find(|(m, _)| m == n) {
                    Some((_, sum)) => *sum += many,
                    None => all.buckets.push((*n, *many)),
                }
            }
        }
        all.buckets.sort_unstable();
        all
    }
}

/// One session's part of a report.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) session: u64,
    pub(crate) device: String,
    pub(crate) rates: Rates,
    pub(crate) counters: Counters,
}

/// One worker's part of a report: what part of the time it was busy, and asleep.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerRow {
    pub(crate) worker: u32,
    pub(crate) busy_seconds: f64,
    pub(crate) asleep_seconds: f64,
}

/// One controller's part of a report: how it is.
#[derive(Debug, Serialize)]
pub(crate) struct ControllerRow {
    pub(crate) controller: String,
    pub(crate) state: String,
    pub(crate) counters: ControllerCounters,
}

/// What was done between two documents.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The time between them.
    pub(crate) seconds: f64,
    pub(crate) sessions: Vec<Row>,
    pub(crate) workers: Vec<WorkerRow>,
    pub(crate) controllers: Vec<ControllerRow>,
}

impl Report {
    pub(crate) fn between(before: &Inventory, after: &Inventory) -> Self {
        let seconds = (after.clock.saturating_sub(before.clock) as f64 / 1e9).max(1e-9);
        let nothing = Counters::default();
        let row = |session: &Session| {
            let earlier = before.sessions.iter().find(|s| s.id == session.id);
            let earlier = earlier.map_or(&nothing, |s| &s.counters);
            Row {
                session: session.id,
                device: session.device.clone(),
                rates: Rates::between(earlier, &session.counters, seconds),
                counters: session.counters.clone(),
            }
        };
        let worker = |worker: &Worker| {
            let earlier = before.workers.iter().find(|w| w.worker == worker.worker);
            let (busy, asleep) = earlier.map_or((0.0, 0.0), |w| (w.busy_seconds, w.asleep_seconds));
            WorkerRow {
                worker: worker.worker,
                busy_seconds: (worker.busy_seconds - busy).max(0.0) / seconds,
                asleep_seconds: (worker.asleep_seconds - asleep).clamp(0.0, seconds) / seconds,
            }
        };
        let controller = |controller: &Controller| ControllerRow {
            controller: controller.serial.clone(),
            state: controller.state.word().to_owned(),
            counters: controller.counters.clone(),
        };
        Self {
            seconds,
            sessions: after.sessions.iter().map(row).collect(),
            workers: after.workers.iter().map(worker).collect(),
            controllers: after.controllers.iter().map(controller).collect(),
        }
    }

    fn text(&self) -> String {
        let heads = [
            "session", "device", "r/s", "w/s", "o/s", "rMB/s", "wMB/s", "r µs", "w µs", "99% µs", "depth",
            "held",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for Row { session, device, rates, .. } in &self.sessions {
            let micros = |latency: &Latency| format!("{:.0}", latency.mean() * 1e6);
            rows.push(vec![
                session.to_string(),
                clean(device),
                format!("{:.0}", rates.requests.read),
                format!("{:.0}", rates.requests.write),
                format!("{:.0}", rates.others()),
                format!("{:.1}", rates.read_bytes / 1e6),
                format!("{:.1}", rates.written_bytes / 1e6),
                micros(&rates.latency_seconds.read),
                micros(&rates.latency_seconds.write),
                format!("{:.0}", rates.latency().quantile(0.99) * 1e6),
                format!("{:.1}", rates.depth(self.seconds)),
                format!("{:.0}%", rates.held_seconds * 100.0),
            ]);
        }
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = table(&rows, &mut out);
        for worker in &self.workers {
            let percent = |part: f64| (part * 100.0).round();
            let (busy, asleep) = (percent(worker.busy_seconds), percent(worker.asleep_seconds));
            let _ = writeln!(out, "worker {}: {busy}% busy, {asleep}% asleep", worker.worker);
        }
        out
    }
}

/// Prints what was done in the next second; or, with an interval, again and again.
pub(crate) fn stat(place: &Place, json: bool, seconds: Option<u32>) -> Result<(), Failure> {
    let interval = Duration::from_secs(seconds.unwrap_or(1).max(1).into());
    let mut before = fetch(place)?;
    loop {
        thread::sleep(interval);
        let after = fetch(place)?;
        let report = Report::between(&before, &after);
        let text = if json {
            serde_json::to_string(&report).map_err(|e| e.to_string())? + "\n"
        } else {
            report.text()
        };
        print(text.as_bytes()).map_err(|error| error.to_string())?;
        if seconds.is_none() {
            return Ok(());
        }
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(reads: u64, sum: f64) -> Counters {
        let mut counters = Counters { read_bytes: reads * 4096, ..Counters::default() };
        counters.requests.read = reads;
        counters.latency_seconds.read = Latency { sum, buckets: vec![(13, reads)] };
        counters
    }

    fn inventory(clock: u64, reads: u64, sum: f64) -> Inventory {
        let session =
            Session { id: 7, device: "a:n1".into(), counters: counters(reads, sum), ..Session::default() };
        let worker = Worker { worker: 0, busy_seconds: sum, asleep_seconds: 2.0 * sum };
        Inventory { clock, sessions: vec![session], workers: vec![worker], ..Inventory::default() }
    }

    #[test]
    fn rates_are_of_the_time_between_two_documents_by_the_server_s_clock() {
        let report =
            Report::between(&inventory(1_000_000_000, 100, 0.5), &inventory(3_000_000_000, 300, 1.5));
        let [row] = report.sessions.as_slice() else { panic!("{report:?}") };
        assert_eq!((row.rates.requests.read, row.rates.read_bytes), (100.0, 409_600.0));
        assert_eq!(row.rates.latency().count(), 200);
        assert!((row.rates.depth(report.seconds) - 0.5).abs() < 1e-9, "200 reads of 5 ms in 2 s");
        assert!((report.workers[0].busy_seconds - 0.5).abs() < 1e-9);
        assert!((report.workers[0].asleep_seconds - 1.0).abs() < 1e-9);
        let text = report.text();
        assert!(text.lines().next().unwrap().contains("rMB/s") && text.contains("a:n1"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn the_names_of_rates_are_those_of_counters() {
        let names = |value: serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(
            names(serde_json::to_value(Rates::default()).unwrap()),
            names(serde_json::to_value(Counters::default()).unwrap())
        );
    }
}
