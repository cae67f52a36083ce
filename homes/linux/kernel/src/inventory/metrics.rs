//! The numbers of an inventory as text that Prometheus reads: its own format, or OpenMetrics.
//!
//! Both are lines of a name, labels and a number; they differ in what a counter's description is called, and in the last line.

use std::fmt::Write;

use serde_json::Value;

use super::counters::Latency;
use super::{Form, Inventory, NAMES, Name, Scope};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The header that goes with it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The first and the last bucket that are always there, by the N of their 2ᴺ to 2ᴺ⁺¹ nanoseconds: from a microsecond to half a minute.
const BUCKETS: std::ops::RangeInclusive<u8> = 9..=34;

/// One thing that has numbers: its labels, and its document.
struct Item {
    labels: String,
    values: Value,
}

/// The whole text.
pub fn text(inventory: &Inventory, format: Format) -> String {
    let sessions = inventory.sessions.iter().map(|session| Item {
        labels: format!(
            "session=\"{}\",device=\"{}\",name=\"{}\"",
            session.id,
            escaped(&session.device),
            escaped(session.name.as_deref().unwrap_or_default())
        ),
        values: serde_json::to_value(&session.counters).unwrap_or_default(),
    });
    let sessions: Vec<Item> = sessions.collect();
    let workers = inventory.workers.iter().map(|worker| Item {
        labels: format!("worker=\"{}\"", worker.worker),
        values: serde_json::to_value(worker).unwrap_or_default(),
    });
    let workers: Vec<Item> = workers.collect();
    let controllers = inventory.controllers.iter().map(|controller| Item {
        labels: format!(
            "controller=\"{}\",place=\"{}\"",
            escaped(&controller.serial),
            escaped(&controller.name)
        ),
        values: serde_json::to_value(&controller.counters).unwrap_or_default(),
    });
    let controllers: Vec<Item> = controllers.collect();
    let mut out = String::new();
    for name in NAMES {
        let items = match name.scope {
            Scope::Session => &sessions,
            Scope::Worker => &workers,
            Scope::Controller => &controllers,
        };
        // Writing to a string does not fail.
        let _ = family(name, items, format, &mut out);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn family(name: &Name, items: &[Item], format: Format, out: &mut String) -> std::fmt::Result {
    let metric = name.metric();
    let (kind, suffix) = match name.form {
        Form::Counter => ("counter", "_total"),
        Form::Gauge => ("gauge", ""),
        Form::Histogram => ("histogram", ""),
    };
    let described = if format == Format::Text { suffix } else { "" };
    writeln!(out, "# HELP {metric}{described} {}.", name.what)?;
    writeln!(out, "# TYPE {metric}{described} {kind}")?;
    for Item { labels, values } in items {
        // What nobody said yet is left out.
        let Some(value) = values.get(name.name).filter(|value| !value.is_null()) else { continue };
        let by_kind = value.as_object().filter(|_| name.by_kind);
        match (by_kind, name.form) {
            (None, _) => writeln!(out, "{metric}{suffix}{{{labels}}} {value}")?,
            (Some(kinds), Form::Histogram) => {
                for (kind, value) in kinds {
                    let latency: Latency = serde_json::from_value(value.clone()).unwrap_or_default();
                    // What never happened needs no buckets.
                    if latency.count() > 0 {
                        histogram(&metric, &format!("{labels},kind=\"{kind}\""), &latency, out)?;
                    }
                }
            }
            (Some(kinds), _) if name.by_status => {
                for (kind, statuses) in kinds {
                    for (status, value) in statuses.as_object().into_iter().flatten() {
                        let labels = format!("{labels},kind=\"{kind}\",status=\"{status}\"");
                        writeln!(out, "{metric}{suffix}{{{labels}}} {value}")?;
                    }
                }
            }
            (Some(kinds), _) => {
                for (kind, value) in kinds {
                    writeln!(out, "{metric}{suffix}{{{labels},kind=\"{kind}\"}} {value}")?;
                }
            }
        }
    }
    Ok(())
}

fn histogram(metric: &str, labels: &str, latency: &Latency, out: &mut String) -> std::fmt::Result {
    let until = |n: u8| {
        let up_to = latency.buckets.iter().filter(|(m, _)| *m <= n);
        up_to.fold(0_u64, |sum, (_, many)| sum.saturating_add(*many))
    };
    for n in BUCKETS {
        writeln!(out, "{metric}_bucket{{{labels},le=\"{}\"}} {}", Latency::end(n), until(n))?;
    }
    let count = latency.count();
    writeln!(out, "{metric}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{metric}_sum{{{labels}}} {}", latency.sum)?;
    writeln!(out, "{metric}_count{{{labels}}} {count}")
}

/// A label's value. What is no printable character is left out: it would be no use to anybody.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' | '"' => out.extend(['\\', c]),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Controller, ControllerCounters, Counters, Session, Worker};
    use super::*;

    fn inventory() -> Inventory {
        let mut counters = Counters { held_seconds: 0.25, ..Counters::default() };
        counters.requests.read = 3;
        counters.errors.write.insert("no_space".into(), 5);
        counters.latency_seconds.read = Latency { sum: 0.5, buckets: vec![(3, 1), (9, 1), (40, 1)] };
        let session = Session {
            id: 7,
            device: "a\"\\\n:n1".into(),
            name: Some("we\"b".into()),
            counters,
            ..Session::default()
        };
        let workers = vec![Worker { worker: 0, busy_seconds: 1.5, asleep_seconds: 2.0 }];
        let counters =
            ControllerCounters { temperature_celsius: Some(-3), resets: 2, ..ControllerCounters::default() };
        let controllers =
            vec![Controller { name: "soft:a".into(), serial: "a".into(), counters, ..Controller::default() }];
        Inventory { controllers, sessions: vec![session], workers, ..Inventory::default() }
    }

    #[test]
    fn every_name_is_described_and_a_histogram_s_buckets_add_up() {
        let text = text(&inventory(), Format::OpenMetrics);
        for name in NAMES {
            assert!(text.contains(&format!("# TYPE {} ", name.metric())), "{}", name.name);
        }
        let labels = r#"session="7",device="a\"\\:n1",name="we\"b""#;
        for line in [
            format!("nvme_drv_session_requests_total{{{labels},kind=\"read\"}} 3"),
            format!("nvme_drv_session_latency_seconds_bucket{{{labels},kind=\"read\",le=\"0.000001024\"}} 2"),
            format!("nvme_drv_session_latency_seconds_bucket{{{labels},kind=\"read\",le=\"+Inf\"}} 3"),
            format!("nvme_drv_session_latency_seconds_count{{{labels},kind=\"read\"}} 3"),
            format!("nvme_drv_session_errors_total{{{labels},kind=\"write\",status=\"no_space\"}} 5"),
            format!("nvme_drv_session_held_seconds_total{{{labels}}} 0.25"),
            "nvme_drv_worker_busy_seconds_total{worker=\"0\"} 1.5".to_owned(),
            "nvme_drv_controller_temperature_celsius{controller=\"a\",place=\"soft:a\"} -3".to_owned(),
            "nvme_drv_controller_resets_total{controller=\"a\",place=\"soft:a\"} 2".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in {text}");
        }
        assert!(text.ends_with("# EOF\n") && !text.contains("kind=\"write\",le="));
        assert!(!text.contains("spare_ratio{"), "nobody said it");
    }

    #[test]
    fn the_older_format_describes_counters_by_their_whole_name() {
        let text = text(&inventory(), Format::Text);
        assert!(text.contains("# TYPE nvme_drv_session_requests_total counter\n"));
        assert!(text.contains("# TYPE nvme_drv_session_in_flight gauge\n") && !text.contains("EOF"));
    }
}
