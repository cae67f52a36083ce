//! Whether a command that failed is tried again, and when.
//!
//! A status says whether it is of any use (DNR), and how long the controller wants to be left alone before that (CRD, which chooses
//! one of three times that it told; NVM Express Base 2.0, 3.3.3.2.1 and 5.17.2.1). Like Linux, whatever does not say "do not retry" is
//! tried again, five times. What a controller asks for never makes a request last longer than its own deadline.

use core::time::Duration;

use nvme_platform::Time;

use super::spec::command::Status;
use super::spec::identify;

/// How often, after the first time.
pub(super) const TRIES: u8 = 5;
/// The unit of CRDT1 to CRDT3.
const UNIT: Duration = Duration::from_millis(100);
/// How long the control role's own reads leave a controller alone that says that it is not the time, and not for how long.
const PAUSE: Duration = Duration::from_millis(100);

/// The times that a controller may ask for: CRDT1 to CRDT3, in units of 100 ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Delays([u16; 3]);

impl Delays {
    /// It asks for none.
    #[cfg(test)]
    pub(super) const NONE: Self = Self([0; 3]);

    /// As Identify Controller has them.
    pub(super) fn of(data: &identify::Controller) -> Self {
        Self(data.crdt.map(|time| time.get()))
    }

    /// Whether there are any: then the host has to say that it heeds them (Host Behavior Support, ACRE).
    pub(super) fn any(self) -> bool {
        self.0.iter().any(|time| *time != 0)
    }

    fn of_status(self, status: Status) -> Duration {
        let which = usize::from(status.retry_delay()).checked_sub(1);
        let time = which.and_then(|which| self.0.get(which));
        UNIT * u32::from(time.copied().unwrap_or(0))
    }
}

/// When a command that failed so is to be issued again; `None`: that is of no use. `tries`: how often it was.
pub(super) fn again(status: Status, tries: u8, delays: Delays, now: Time, deadline: Time) -> Option<Time> {
    if status.ok() || status.do_not_retry() || tries >= TRIES {
        return None;
    }
    Some(now + delays.of_status(status)).filter(|at| *at < deadline)
}

/// The same for what is in no hurry: what the control role itself asks. A status that is about the moment, and names no time, is left
/// some.
pub(super) fn again_later(
    status: Status,
    tries: u8,
    delays: Delays,
    now: Time,
    deadline: Time,
) -> Option<Time> {
    let at = again(status, tries, delays, now, deadline)?;
    Some(if at == now && status.is_transient() { at + PAUSE } else { at }).filter(|at| *at < deadline)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    const NOW: Time = Time::from_nanos(7);

    fn end() -> Time {
        NOW + Duration::from_secs(30)
    }

    fn delays() -> Delays {
        let mut data = identify::Controller::new_zeroed();
        data.crdt = [1.into(), 20.into(), 300.into()];
        Delays::of(&data)
    }

    #[test]
    fn what_does_not_say_do_not_retry_is_tried_five_times() {
        let not_ready = Status(Status::NAMESPACE_NOT_READY);
        for tries in 0..TRIES {
            assert_eq!(again(not_ready, tries, Delays::default(), NOW, end()), Some(NOW));
        }
        assert_eq!(again(not_ready, TRIES, Delays::default(), NOW, end()), None);
        assert_eq!(again(Status(0), 0, Delays::default(), NOW, end()), None);
        for status in [0x4082, 0x4002, 0x5a21] {
            assert_eq!(again(Status(status), 0, delays(), NOW, end()), None, "{status:#x}");
        }
    }

    #[test]
    fn the_time_that_the_controller_asks_for_is_heeded_up_to_the_deadline() {
        assert!(delays().any() && !Delays::default().any());
        for (crd, ms) in [(0, 0), (1, 100), (2, 2000)] {
            let at = again(Status(0x21 | crd << 11), 0, delays(), NOW, end());
            assert_eq!(at, Some(NOW + Duration::from_millis(ms)), "{crd}");
        }
        let third = Status(0x21 | 3 << 11);
        assert_eq!(again(third, 0, delays(), NOW, end()), None, "30 s are too long");
        let longer = end() + Duration::from_nanos(1);
        assert_eq!(again(third, 0, delays(), NOW, longer), Some(end()));
        assert_eq!(again(third, 0, Delays::default(), NOW, end()), Some(NOW), "it told no times");
    }

    #[test]
    fn what_is_in_no_hurry_waits_a_little_where_the_status_is_about_the_moment() {
        let at = |status| again_later(Status(status), 0, delays(), NOW, end());
        for status in [0x1d, 0x21, 0x22, 0x24, 0x82, 0x84, 0x300, 0x303] {
            assert_eq!(at(status), Some(NOW + PAUSE), "{status:#x}");
        }
        for status in [0x01, 0x02, 0x06, 0x281, 0x301] {
            assert_eq!(at(status), Some(NOW), "{status:#x}");
        }
        assert_eq!(at(0x21 | 2 << 11), Some(NOW + Duration::from_secs(2)));
        assert_eq!(again_later(Status(0x82), 0, delays(), NOW, NOW + PAUSE), None);
    }
}
