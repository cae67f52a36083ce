//! What was left of devices whose controllers cannot be scanned yet: their storage is held up by what the server before began there.
//!
//! All of it waits as it lies, and goes on when they are scanned, before anybody is given anything that was found there.

use std::collections::BTreeSet;

use nvme_core::server::control::ControllerState;
use nvme_handover as handover;
use nvme_platform::Time;

use super::super::Server;
use super::LeftSession;
use super::factories::LeftFactory;
use crate::keep::Kept;

/// What waits.
pub(in super::super) struct Late {
    /// The numbers of factories that have gone on.
    pub(super) known: BTreeSet<u64>,
    /// The operator's.
    pub(super) fixed: Vec<handover::Factory>,
    pub(super) factories: Vec<LeftFactory>,
    pub(super) sessions: Vec<LeftSession>,
}

impl Server {
    /// Whether a controller is still to be scanned.
    pub(super) fn is_awaited(&self, serial: &str) -> bool {
        self.awaited(serial).is_some()
    }

    /// The controller that is still to be scanned, by its image's serial number.
    pub(in super::super) fn awaited(&self, serial: &str) -> Option<u16> {
        let starting = self
            .control
            .controllers()
            .map(|(_, _, state)| matches!(state, ControllerState::Starting | ControllerState::Scanning));
        let served = (0..).zip(&self.images).zip(starting).filter(|(_, starting)| *starting);
        let mut served = served.filter_map(|((at, served), _)| Some((at, served.as_ref()?)));
        served.find(|(_, served)| served.stored.image().serial() == serial).map(|(at, _)| at)
    }

    /// Takes up what waited for a controller that is scanned by now.
    pub(in super::super) fn take_up_late(&mut self, time: Time) {
        let Some(late) = self.late.take() else { return };
        let Late { mut known, fixed, factories, sessions } = late;
        let mut late = BTreeSet::new();
        let fixed = self.take_up_fixed(fixed, &mut known, &mut late, time);
        let factories = self.take_up_factories(factories, &mut known, &mut late, time);
        let sessions = self.take_up_sessions(sessions, &late, &known, time);
        self.wait_with(Late { known, fixed, factories, sessions });
    }

    /// What there is of it waits.
    pub(super) fn wait_with(&mut self, late: Late) {
        let some = !late.fixed.is_empty() || !late.factories.is_empty() || !late.sessions.is_empty();
        self.late = some.then_some(late);
    }

    /// Whether something of controllers that are scanned waits as well, since a factory does that holds a device of one that is not. What
    /// such factories hold was bound anew meanwhile, and what such sessions have is nobody's as far as the catalogue knows: so nothing is
    /// given to anybody until all of it has gone on.
    pub(in super::super) fn is_held_for_late(&self) -> bool {
        let Some(late) = &self.late else { return false };
        let here = |left: &LeftSession| !self.is_awaited(&left.document.session.device.serial);
        !late.fixed.is_empty() || !late.factories.is_empty() || late.sessions.iter().any(here)
    }

    /// Whether a static client has a session that waits.
    pub(in super::super) fn is_late_client(&self, client: Option<&str>) -> bool {
        let sessions = self.late.iter().flat_map(|late| &late.sessions);
        client.is_some() && sessions.map(|left| left.document.session.client.as_deref()).any(|c| c == client)
    }

    /// The server is told to stop: what waits ends.
    pub(in super::super) fn end_late(&mut self) {
        let Some(late) = self.late.take() else { return };
        let sessions = late.sessions.into_iter().map(|left| (left.name, left.document.slot, left.shelf));
        let factories = late.factories.into_iter().map(|left| (left.name, left.document.slot, left.shelf));
        for (name, slot, shelf) in sessions.chain(factories) {
            let kept = Kept { shelf, slot, name };
            if let Some(keep) = &mut self.keep {
                keep.forget(&kept);
            }
            kept.dispose();
        }
    }
}
