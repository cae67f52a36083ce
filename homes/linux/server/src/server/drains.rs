//! Devices that the operator drains: the answer comes once nothing is in flight there.

use nvme_core::server::control::Drained;
use nvme_core::server::message::SessionKey;
use nvme_linux::factory::Refusal;
use nvme_linux::logger::OPERATOR;
use nvme_platform::Time;
use nvme_policy::{DeviceName, Errno, Shown};

use std::time::Duration;

use super::Server;
use super::waiting::refused;
use crate::hints::Told;

/// How long what is in flight may take until the operator is told that it does.
const PATIENCE: Duration = Duration::from_secs(30);

/// A drain whose operator waits.
pub(super) struct Draining {
    operator: u64,
    what: String,
    sessions: Vec<SessionKey>,
    held: usize,
    until: Time,
}

impl Server {
    /// What a word means: a controller by its serial number, or a device; everything, without one.
    fn drained_of(&self, word: Option<&str>) -> Result<Drained, Refusal> {
        let Some(word) = word else { return Ok(Drained::All) };
        // What comes back may be printed by a terminal.
        let shown = Shown::new(word.as_bytes());
        let serials = self.control.controllers().map(|(_, controller, _)| controller.info().serial.as_str());
        let mut found = (0..).zip(serials).filter(|(_, serial)| *serial == word).map(|(index, _)| index);
        match (found.next(), found.next()) {
            (Some(controller), None) => return Ok(Drained::Controller(controller)),
            (Some(_), Some(_)) => {
                let why = "two controllers have this serial number; name a device by its place";
                return Err(refused(Errno::Invalid, &format!("{}: {why}", shown.as_str())));
            }
            (None, _) => {}
        }
        let wrong = |why| refused(Errno::Invalid, &format!("{}: {why}", shown.as_str()));
        let name = DeviceName::parse(word).map_err(wrong)?;
        let blocks = self.control.catalogue().find(&name);
        blocks.map(Drained::Blocks).map_err(|why| refused(Errno::NotFound, &Told(&why).to_string()))
    }

    /// Has sessions of a device finish what they have, and wait. The answer comes later.
    pub(super) fn drain(&mut self, operator: u64, word: Option<&str>, time: Time) -> Result<(), Refusal> {
        let what = self.drained_of(word)?;
        let sessions = self.control.drain(what);
        let held = self.control.sessions().filter(|(_, session)| session.is_held()).count();
        let (what, until) = (word.unwrap_or("everything").to_owned(), time + PATIENCE);
        self.draining.push(Draining { operator, what, sessions, held, until });
        Ok(())
    }

    /// Goes on with what was drained. Whether anything was.
    pub(super) fn resume_drained(&mut self, word: Option<&str>) -> Result<bool, Refusal> {
        let what = self.drained_of(word)?;
        Ok(self.control.resume(what))
    }

    /// Whether sessions wait, by whatever drain.
    pub(super) fn drains(&self) -> bool {
        !self.control.drained().is_empty()
    }

    /// Tells operators what they wait for.
    pub(super) fn tell_drained(&mut self, time: Time) {
        let control = &self.control;
        for draining in &mut self.draining {
            draining.sessions.retain(|key| {
                control.session(*key).is_some_and(|s| s.is_held() && !s.is_quiet() && !s.is_lost())
            });
        }
        while let Some(at) = self.draining.iter().position(|d| d.sessions.is_empty() || time >= d.until) {
            let Draining { operator, what, sessions, held, .. } = self.draining.swap_remove(at);
            let answer = if sessions.is_empty() {
                log::info!(target: OPERATOR, "{what} is drained; {held} sessions wait until it is resumed");
                Ok(format!("{{\"held\":{held}}}"))
            } else {
                let names: Vec<String> = sessions.iter().map(|key| key.0.to_string()).collect();
                let why = format!(
                    "requests of sessions {} are still under way; nothing new is begun",
                    names.join(", ")
                );
                Err(refused(Errno::Again, &why))
            };
            self.answer_operator(operator, &answer);
        }
    }

    pub(super) fn drain_deadline(&self) -> Option<Time> {
        self.draining.iter().map(|draining| draining.until).min()
    }
}
