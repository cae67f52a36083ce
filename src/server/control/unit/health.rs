//! How a controller is, asked once a minute; what is critical is said when it begins, and when it is over.

use core::fmt;
use core::time::Duration;

use nvme_platform::{Time, info, warn};

use crate::nvme::Smart;

/// How often it is asked.
const EVERY: Duration = Duration::from_mins(1);

/// What was said of a controller, and when to ask it again.
#[derive(Default)]
pub(super) struct Health {
    next: Time,
    critical: u8,
}

/// The bits of a critical warning (Base 5.16.1.3), in words.
struct Warning(u8);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORDS: [&str; 6] = [
            "spare is below its threshold",
            "temperature is beyond a threshold",
            "reliability is degraded",
            "the medium can only be read",
            "the volatile memory's backup failed",
            "persistent memory can only be read",
        ];
        let mut before = "";
        for (bit, word) in WORDS.iter().enumerate() {
            if self.0 >> bit & 1 != 0 {
                write!(f, "{before}{word}")?;
                before = ", ";
            }
        }
        if before.is_empty() { f.write_str("a reason of no name") } else { Ok(()) }
    }
}

impl Health {
    /// When it is to be asked.
    pub(super) fn deadline(&self) -> Time {
        self.next
    }

    /// Whether it is to be asked now.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + EVERY;
        }
        due
    }

    /// It answered.
    pub(super) fn told(&mut self, name: &str, smart: &Smart) {
        let before = core::mem::replace(&mut self.critical, smart.critical);
        let Smart { critical, temperature, spare, used, .. } = *smart;
        let celsius = smart.celsius();
        match (before, critical) {
            (before, now) if before == now => {}
            (_, 0) => info!("{name}: its critical warning is over ({celsius} °C, {temperature} K)"),
            _ => warn!(
                "{name}: critical warning {critical:#04x}: {} ({celsius} °C, spare {spare} %, used {used} %)",
                Warning(critical)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_controller_is_asked_at_once_and_then_every_minute() {
        let mut health = Health::default();
        let at = Time::from_nanos;
        assert!(health.is_due(at(7)) && !health.is_due(at(8)));
        assert_eq!(health.deadline(), at(60_000_000_007));
        assert!(!health.is_due(at(60_000_000_006)) && health.is_due(at(60_000_000_007)));
    }

    #[test]
    fn a_warning_names_all_its_reasons() {
        assert_eq!(Warning(0b101).to_string(), "spare is below its threshold, reliability is degraded");
        assert_eq!(Warning(0x80).to_string(), "a reason of no name");
    }
}
