//! Asynchronous events: what the controller says without being asked (Base 5.2).
//!
//! An event is armed again when its log page was read. Lines are written for the first, second, fourth … event only:
//! a controller may make up as many as it likes.

use nvme_platform::{debug, warn};

use super::super::event::Smart;
use super::super::spec::command::{Completion, Status};
use super::super::spec::log::{ErrorEntry, Health, event, page};
use super::admin::Page;

/// What an event asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notice {
    /// Nothing: the controller takes no such request.
    Refused,
    /// Nothing that it says of itself, or does, can be relied upon; the specification asks for a reset.
    Internal,
    /// Its log page is to be read.
    Log(u8),
}

/// What a log page asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    Nothing,
    /// The namespaces are to be looked at.
    Namespaces,
    /// What was asked for.
    Smart(Smart),
}

/// The events of a controller.
pub(super) struct Notices {
    index: u16,
    count: u64,
    /// The newest entry of the error log that was there when it was looked at last.
    newest: Option<u64>,
}

impl Notices {
    pub(super) fn new(index: u16) -> Self {
        Self { index, count: 0, newest: None }
    }

    /// An event request was answered.
    pub(super) fn came(&mut self, completion: &Completion) -> Notice {
        if !completion.status.ok() {
            // One less than it said that it takes, or none at all. Nothing depends on it.
            debug!(
                "controller {}: an event request ended with status {:#06x}",
                self.index, completion.status.0
            );
            return Notice::Refused;
        }
        self.count = self.count.saturating_add(1);
        let [kind, information, log, _] = completion.dw0.to_le_bytes();
        debug!(
            "controller {}: event type {} information {:#04x} log {:#04x}",
            self.index,
            kind & 7,
            information,
            log
        );
        match (kind & 7, information) {
            (event::ERROR, event::PERSISTENT) => Notice::Internal,
            (event::NOTICE, event::NAMESPACE_CHANGED) => Notice::Log(page::CHANGED_NAMESPACES),
            (event::ERROR, _) => Notice::Log(page::ERROR),
            (event::SMART, _) => Notice::Log(page::SMART),
            _ => Notice::Log(log),
        }
    }

    /// A log page came; `asked`: the control role wanted it.
    pub(super) fn log(&mut self, id: u8, asked: bool, completion: &Completion, data: &Page) -> News {
        if id == page::CHANGED_NAMESPACES && !asked {
            // Whatever the list says, and whether it came: all namespaces are looked at.
            return News::Namespaces;
        }
        if !completion.status.ok() {
            debug!("controller {}: log page {:#04x}: status {:#06x}", self.index, id, completion.status.0);
            return News::Nothing;
        }
        match id {
            page::ERROR if asked => self.look_at_errors(&data.read()),
            page::ERROR => self.tell_error(&data.read()),
            page::SMART => {
                let smart = smart(&data.read());
                if asked {
                    return News::Smart(smart);
                }
                self.tell_health(&smart);
            }
            _ => {}
        }
        News::Nothing
    }

    fn tell_error(&mut self, entry: &ErrorEntry) {
        self.newest = self.newest.max(Some(entry.count.get()));
        if self.count.is_power_of_two() {
            self.say_error(entry);
        }
    }

    /// The newest entry, now and then. What was there at first is old; an entry that was said is not said again.
    fn look_at_errors(&mut self, entry: &ErrorEntry) {
        let count = entry.count.get();
        if self.newest.replace(count).is_some_and(|newest| count > newest) {
            self.say_error(entry);
        }
    }

    fn say_error(&self, entry: &ErrorEntry) {
        let status = Status(entry.status.get() >> 1);
        warn!(
            "controller {}: error {}: queue {} command {:#06x} namespace {} block {}: status {:#05x} ({})",
            self.index,
            entry.count.get(),
            entry.sqid.get(),
            entry.cid.get(),
            entry.nsid.get(),
            entry.lba.get(),
            status.code(),
            status.name()
        );
    }

    fn tell_health(&self, smart: &Smart) {
        if self.count.is_power_of_two() {
            warn!(
                "controller {}: health warning {:#04x}: {} K, spare {} %, used {} %, {} media errors",
                self.index, smart.critical, smart.temperature, smart.spare, smart.used, smart.media_errors
            );
        }
    }
}

fn smart(health: &Health) -> Smart {
    Smart {
        critical: health.critical,
        temperature: health.temperature.get(),
        spare: health.spare,
        used: health.used,
        media_errors: health.media_errors.get(),
        power_cycles: health.power_cycles.get(),
        hours: health.hours.get(),
        unsafe_shutdowns: health.unsafe_shutdowns.get(),
        error_entries: health.error_entries.get(),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn ended(dw0: u32, status: u16) -> Completion {
        Completion { dw0, sqhd: 0, sqid: 0, cid: 0, status: Status(status) }
    }

    fn event(kind: u8, information: u8, log: u8) -> Completion {
        ended(u32::from_le_bytes([kind, information, log, 0]), 0)
    }

    #[test]
    fn an_event_is_told_by_its_type_and_else_by_its_log_page() {
        let mut notices = Notices::new(0);
        for (completion, notice) in [
            (event(event::ERROR, event::PERSISTENT, 1), Notice::Internal),
            (event(event::ERROR, 0, 0), Notice::Log(page::ERROR)),
            (event(event::SMART, 1, 0), Notice::Log(page::SMART)),
            (event(event::NOTICE, event::NAMESPACE_CHANGED, 0), Notice::Log(page::CHANGED_NAMESPACES)),
            (event(event::NOTICE, 3, 0x0c), Notice::Log(0x0c)),
            (event(7, 0, 0xc0), Notice::Log(0xc0)),
            (ended(0, Status::AER_LIMIT), Notice::Refused),
        ] {
            assert_eq!(notices.came(&completion), notice, "{completion:?}");
        }
    }

    #[test]
    fn what_the_log_pages_lead_to() {
        let mut notices = Notices::new(0);
        let mut health = Health::new_zeroed();
        health.temperature = 300.into();
        let data = Page::of(health.as_bytes());
        let (ok, failed) = (ended(0, 0), ended(0, 2));
        for status in [&ok, &failed] {
            assert_eq!(notices.log(page::CHANGED_NAMESPACES, false, status, &data), News::Namespaces);
        }
        let told = Smart { temperature: 300, ..Smart::default() };
        assert_eq!(notices.log(page::SMART, true, &ok, &data), News::Smart(told));
        assert_eq!(notices.log(page::SMART, true, &failed, &data), News::Nothing);
        assert_eq!(notices.log(page::SMART, false, &ok, &data), News::Nothing);
        assert_eq!(notices.log(page::ERROR, false, &ok, &data), News::Nothing);
    }

    #[test]
    fn an_entry_of_the_error_log_is_new_once() {
        let mut notices = Notices::new(0);
        let mut look = |count: u64| {
            let mut entry = ErrorEntry::new_zeroed();
            entry.count = count.into();
            assert_eq!(
                notices.log(page::ERROR, true, &ended(0, 0), &Page::of(entry.as_bytes())),
                News::Nothing
            );
            notices.newest
        };
        assert_eq!((look(7), look(7), look(9)), (Some(7), Some(7), Some(9)));
        // One that was emptied begins anew.
        assert_eq!((look(0), look(1)), (Some(0), Some(1)));
    }
}
