//! What the controllers report.

use nvme_platform::Time;

use super::Control;
use super::unit::{Input, News};
use crate::nvme::ControllerEvent;

/// Most steps of one controller in one poll; the rest is done in the next.
const STEPS: usize = 256;

impl Control {
    pub(super) fn poll_unit(&mut self, controller: u16, now: Time) {
        for _ in 0..STEPS {
            let Some((unit, _)) = self.unit(controller) else { return };
            match unit.poll(now) {
                Some(News::Driver(event)) => self.driver_says(controller, event, now),
                Some(News::Found(info, table)) => self.table_found(controller, &info, table),
                Some(News::Scanned) => self.check_scanned(),
                Some(News::Worked) => {}
                None => return,
            }
        }
        self.more = true;
    }

    fn driver_says(&mut self, controller: u16, event: ControllerEvent, now: Time) {
        let Some((unit, out)) = self.unit(controller) else { return };
        let input = match event {
            ControllerEvent::Ready => return unit.ready(out),
            ControllerEvent::Failed { why, quiet } => {
                nvme_platform::error!("{}: {why}", unit.name());
                return self.device_lost(controller, quiet, now);
            }
            ControllerEvent::Gone => {
                nvme_platform::error!("{}: the controller is gone", unit.name());
                return self.device_lost(controller, None, now);
            }
            ControllerEvent::PairReady { token, pair } => {
                return self.pair_ready(controller, token, pair, now);
            }
            ControllerEvent::PairFailed { token, why } => {
                return self.pair_failed(controller, token, why, now);
            }
            ControllerEvent::NamespacesChanged => return self.namespaces_changed(controller),
            ControllerEvent::ScanRead { token, result } => return unit.table_read(token, result, now, out),
            ControllerEvent::Smart(smart) => return unit.health_told(&smart),
            ControllerEvent::ShutDown { clean } => {
                if !clean {
                    nvme_platform::warn!("{}: the controller did not confirm its shutdown", unit.name());
                }
                return unit.is_shut_down();
            }
            ControllerEvent::PairDeleted { id, quiet } => unit.was_deleted(id, quiet),
            ControllerEvent::PairRecreated { id, doorbells } => unit.was_recreated(id, doorbells),
            ControllerEvent::PairLost { id, why } => {
                nvme_platform::error!("{}: queue pair {id} is lost: {why}", unit.name());
                unit.not_recreated(id)
            }
            ControllerEvent::Aborted { pair, cid, outcome } => {
                nvme_platform::debug!(
                    "{}: abort of {:#06x} on pair {}: {}",
                    unit.name(),
                    cid,
                    pair,
                    outcome.word()
                );
                Input::Aborted { queue: pair, cid }
            }
            ControllerEvent::Reset { quiet } => {
                let input = unit.was_reset(quiet);
                // It may have come back as another.
                self.namespaces_changed(controller);
                input
            }
            ControllerEvent::ResetNeeded(why) => {
                nvme_platform::warn!("{}: a reset is needed: {why}", unit.name());
                unit.reset_needed()
            }
        };
        self.recover(controller, input, now);
    }
}
