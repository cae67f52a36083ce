//! Controllers that the operator has looked at again: the answer comes once their namespaces and partition tables are known.

use std::time::Duration;

use nvme_core::server::control::ControllerState;
use nvme_linux::factory::Refusal;
use nvme_platform::Time;
use nvme_policy::{Errno, Shown};

use super::Server;
use super::admin::quoted;
use super::waiting::refused;
use crate::devices::Served;

/// How long a look may take until the operator is told that it does.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether images grew, while somebody has a session.
const EVERY: Duration = Duration::from_secs(5);

/// A look whose operator waits.
pub(super) struct Rescan {
    operator: u64,
    /// The controllers; with those that are images comes how large that is.
    controllers: Vec<(u16, Option<u64>)>,
    until: Time,
}

impl Server {
    /// Looks again at controllers of that name: a serial number, or a device of one. At all, without a name. The answer comes later.
    pub(super) fn rescan(&mut self, operator: u64, name: Option<&str>, time: Time) -> Result<(), Refusal> {
        if self.rescans.iter().any(|rescan| rescan.operator == operator) {
            return Err(refused(Errno::Again, "the last look has not been answered yet"));
        }
        let mut controllers = Vec::new();
        for (index, (_, controller, state)) in (0..).zip(self.control.controllers()) {
            let serial = controller.info().serial.as_str();
            let is_one = |rest: &str| {
                let nsid = rest.strip_prefix(":n").and_then(|rest| rest.split(':').next()?.parse().ok());
                rest.is_empty() || controller.namespaces().iter().any(|n| Some(n.namespace().nsid) == nsid)
            };
            let is = name.is_none_or(|name| name.strip_prefix(serial).is_some_and(is_one));
            if is && state != ControllerState::Lost {
                controllers.push((index, None));
            }
        }
        if let Some(name) = name.filter(|_| controllers.is_empty()) {
            let shown = Shown::new(name.as_bytes());
            let why = format!("no controller has the serial number `{}`", shown.as_str());
            return Err(refused(Errno::NotFound, &why));
        }
        for (index, bytes) in &mut controllers {
            if let Some(Some(Served { stored, handle })) = self.images.get(usize::from(*index)) {
                *bytes = Some(stored.image().rescan());
                handle.rescan(1);
            }
        }
        self.lose_images(time);
        for (index, _) in &controllers {
            self.control.look_again(*index);
        }
        self.rescans.push(Rescan { operator, controllers, until: time + PATIENCE });
        Ok(())
    }

    /// Tells operators what was found.
    pub(super) fn tell_rescanned(&mut self, time: Time) {
        while let Some((at, looks)) = self.rescans.iter().enumerate().find_map(|(at, rescan)| {
            let looks = rescan.controllers.iter().any(|(index, _)| self.control.is_looking(*index));
            (!looks || time >= rescan.until).then_some((at, looks))
        }) {
            let Rescan { operator, controllers, .. } = self.rescans.swap_remove(at);
            let why = "a controller has not answered yet, or is being reset: what it has is looked at when it is ready";
            let answer = if looks { Err(refused(Errno::Again, why)) } else { Ok(self.found(&controllers)) };
            self.answer_operator(operator, &answer);
        }
    }

    /// What there is now, as JSON.
    fn found(&self, controllers: &[(u16, Option<u64>)]) -> String {
        let mut items = Vec::new();
        for (index, bytes) in controllers {
            let Some((_, controller, _)) = self.control.controllers().nth(usize::from(*index)) else {
                continue;
            };
            let item = |nsid: u32, bytes: u64| {
                format!("{{\"device\":{},\"bytes\":{bytes}}}", quoted(&controller.info().serial, nsid))
            };
            match bytes {
                Some(bytes) => items.push(item(1, *bytes)),
                None => items.extend(controller.namespaces().iter().map(|namespace| {
                    let bytes = namespace.blocks() * namespace.block_size().bytes();
                    item(namespace.namespace().nsid, bytes)
                })),
            }
        }
        format!("[{}]", items.join(","))
    }

    pub(super) fn rescan_deadline(&self) -> Option<Time> {
        self.rescans.iter().map(|rescan| rescan.until).min()
    }

    /// Looks whether images grew, where nobody need be asked who might not answer: before somebody new is told how large they are.
    pub(super) fn look_at_images(&mut self, time: Time) {
        self.looked = time;
        for Served { stored, handle } in self.images.iter().flatten() {
            if stored.image().is_local() {
                stored.image().rescan();
                handle.rescan(1);
            }
        }
        self.lose_images(time);
    }

    /// Looks so now and then, so that those who have one are told without an operator.
    pub(super) fn look_again(&mut self, time: Time) {
        if self.growth_deadline().is_some_and(|at| time >= at) {
            self.look_at_images(time);
        }
    }

    /// When it is looked next.
    pub(super) fn growth_deadline(&self) -> Option<Time> {
        let some =
            !self.seats.is_empty() && self.images.iter().flatten().any(|s| s.stored.image().is_local());
        some.then(|| self.looked + EVERY)
    }
}
