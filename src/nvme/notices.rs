//! Asynchronous events: what the controller says without being asked (Base 5.2).
//!
//! An event is armed again when its log page was read. Lines are written for the first, second, fourth … event only:
//! a controller may make up as many as it likes.

use nvme_platform::{Window, debug, warn};

use super::admin::Job;
use super::controller::Controller;
use super::event::{ResetReason, Smart};
use super::spec::command::Completion;
use super::spec::log::{ErrorEntry, Health, event, page};

impl Controller {
    pub(super) fn event_came(&mut self, completion: &Completion) {
        if !completion.status.ok() {
            // One less than it said that it takes, or none at all. Nothing depends on it.
            debug!(
                "controller {}: an event request ended with status {:#06x}",
                self.index, completion.status.0
            );
            return;
        }
        self.notices = self.notices.saturating_add(1);
        let [kind, information, log, _] = completion.dw0.to_le_bytes();
        debug!(
            "controller {}: event type {} information {:#04x} log {:#04x}",
            self.index,
            kind & 7,
            information,
            log
        );
        if (kind & 7, information) == (event::ERROR, event::PERSISTENT) {
            // Nothing that it says of itself, or does, can be relied upon; the specification asks for a reset.
            return self.stuck(ResetReason::Internal);
        }
        let id = match (kind & 7, information) {
            (event::NOTICE, event::NAMESPACE_CHANGED) => page::CHANGED_NAMESPACES,
            (event::ERROR, _) => page::ERROR,
            (event::SMART, _) => page::SMART,
            _ => log,
        };
        self.ask(Job::Log { id, asked: false });
    }

    pub(super) fn log_came(&mut self, id: u8, asked: bool, completion: &Completion, data: &Window) {
        if !asked {
            self.ask(Job::AsyncEvent);
        }
        if id == page::CHANGED_NAMESPACES && !asked {
            // Whatever the list says: all namespaces are looked at.
            self.begin_listing();
            return;
        }
        if !completion.status.ok() {
            debug!("controller {}: log page {:#04x}: status {:#06x}", self.index, id, completion.status.0);
            return;
        }
        match id {
            page::ERROR if self.notices.is_power_of_two() => {
                if let Ok(entry) = data.read_value::<ErrorEntry>(0) {
                    warn!(
                        "controller {}: error {}: queue {} command {:#06x} status {:#06x} namespace {} block {}",
                        self.index,
                        entry.count.get(),
                        entry.sqid.get(),
                        entry.cid.get(),
                        entry.status.get() >> 1,
                        entry.nsid.get(),
                        entry.lba.get()
                    );
                }
            }
            page::SMART => {
                let Ok(health) = data.read_value::<Health>(0) else { return };
                let smart = Smart {
                    critical: health.critical,
                    temperature: health.temperature.get(),
                    spare: health.spare,
                    used: health.used,
                    media_errors: health.media_errors.get(),
                    power_cycles: health.power_cycles.get(),
                    hours: health.hours.get(),
                };
                if asked {
                    self.smart(smart);
                } else if self.notices.is_power_of_two() {
                    warn!(
                        "controller {}: health warning {:#04x}: {} K, spare {} %, used {} %, {} media errors",
                        self.index,
                        smart.critical,
                        smart.temperature,
                        smart.spare,
                        smart.used,
                        smart.media_errors
                    );
                }
            }
            _ => {}
        }
    }
}
