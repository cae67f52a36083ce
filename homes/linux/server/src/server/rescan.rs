//! Controllers that the operator has looked at again: the answer comes once their namespaces and partition tables are known.

use std::time::Duration;

use nvme_core::server::control::ControllerState;
use nvme_linux::factory::Refusal;
use nvme_linux::logger::OPERATOR;
use nvme_platform::Time;
use nvme_policy::{Errno, Shown};

use super::Server;
use super::admin::quoted;
use super::waiting::refused;
use crate::devices::Served;

/// How long a look may take until the operator is told that it does.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long whoever has an image may take to say how large it is.
const ASKED: Duration = Duration::from_secs(5);

/// How often it is looked whether images grew, while somebody has a session.
const EVERY: Duration = Duration::from_secs(5);

/// A look whose operator waits.
pub(super) struct Rescan {
    operator: u64,
    /// The controllers; with those that are images comes how large that is.
    controllers: Vec<(u16, Option<u64>)>,
    /// Of these, images whose storage was asked, and has not said it yet.
    asked: Vec<u16>,
    /// Until when it may.
    patience: Time,
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
        let mut asked = Vec::new();
        for (index, bytes) in &mut controllers {
            let Some(Some(Served { stored, handle })) = self.images.get(usize::from(*index)) else {
                continue;
            };
            if stored.image().asks() {
                stored.ask(&self.bell);
                asked.push(*index);
            } else {
                *bytes = Some(stored.image().rescan());
                handle.rescan(1);
            }
        }
        self.lose_images(time);
        for (index, _) in controllers.iter().filter(|(index, _)| !asked.contains(index)) {
            self.control.look_again(*index);
        }
        self.rescans.push(Rescan {
            operator,
            controllers,
            asked,
            patience: time + ASKED,
            until: time + PATIENCE,
        });
        Ok(())
    }

    /// Hears of images how large they are, whose storage was asked.
    fn hear_images(&mut self) {
        for (index, served) in (0..).zip(&self.images) {
            let image = served.as_ref().map(|served| served.stored.image());
            // What was not asked any more by now has left its answer.
            let asking = image.is_some_and(|image| image.question().is_open());
            if let Some(Served { stored, handle }) = served
                && stored.image().question().take_answer()
            {
                // Whether somebody still waits for it or not.
                handle.rescan(1);
                self.control.look_again(index);
            }
            for Rescan { controllers, asked, .. } in self.rescans.iter_mut().filter(|_| !asking) {
                let Some(at) = asked.iter().position(|at| *at == index) else { continue };
                asked.swap_remove(at);
                if let Some((_, bytes)) = controllers.iter_mut().find(|(at, _)| *at == index) {
                    *bytes = image.map(|image| image.size());
                }
            }
        }
    }

    /// Refuses those whose images' storage does not say how large they are. What it says later counts all the same.
    fn refuse_unanswered(&mut self, time: Time) {
        for Rescan { operator, asked, .. } in
            self.rescans.extract_if(.., |r| !r.asked.is_empty() && time >= r.patience).collect::<Vec<_>>()
        {
            let served = asked.iter().filter_map(|at| self.images.get(usize::from(*at))?.as_ref());
            let names: Vec<&str> = served.map(|served| served.stored.image().name()).collect();
            let why = format!(
                "{}: its storage does not say within {} s how large it is; once it does, that counts",
                names.join(", "),
                ASKED.as_secs()
            );
            log::warn!(target: OPERATOR, "{why}");
            self.answer_operator(operator, &Err(refused(Errno::Again, &why)));
        }
    }

    /// Tells operators what was found.
    pub(super) fn tell_rescanned(&mut self, time: Time) {
        self.hear_images();
        self.refuse_unanswered(time);
        while let Some((at, looks)) = self.rescans.iter().enumerate().find_map(|(at, rescan)| {
            let looks = rescan.controllers.iter().any(|(index, _)| self.control.is_looking(*index));
            let looks = looks || !rescan.asked.is_empty();
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
        let until = |rescan: &Rescan| if rescan.asked.is_empty() { rescan.until } else { rescan.patience };
        self.rescans.iter().map(until).min()
    }

    /// Looks whether images grew, as far as the kernel knows, so that nobody is asked who might not answer: before somebody new is told how large they are.
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
