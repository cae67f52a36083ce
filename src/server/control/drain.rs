//! Devices that are drained: what their sessions have in flight ends, and what their drivers ask from then on waits in the rings,
//! until they are resumed. Nothing fails, and nobody is disconnected.

use alloc::vec::Vec;

use nvme_policy::Extent;

use super::super::message::{SessionKey, ToWorker};
use super::session::{Hold, Session};
use super::{Control, Event};

/// What is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// Everything.
    All,
    /// All of a controller.
    Controller(u16),
    /// Those blocks: a namespace, or a partition.
    Blocks(Extent),
}

impl Drained {
    /// Whether a session of these blocks is held.
    fn holds(&self, extent: &Extent) -> bool {
        match self {
            Self::All => true,
            Self::Controller(controller) => extent.namespace().controller == *controller,
            Self::Blocks(blocks) => blocks.overlaps(extent),
        }
    }

    /// Whether all of the other is in it.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Controller(of), Self::Controller(other)) => of == other,
            (Self::Controller(of), Self::Blocks(blocks)) => blocks.namespace().controller == *of,
            (Self::Blocks(blocks), Self::Blocks(other)) => blocks.contains(other),
            _ => false,
        }
    }
}

impl Control {
    /// Drains: sessions there take nothing new, those that come included. The sessions that finish what they have in flight; each is
    /// [`Event::Held`] once it has nothing.
    pub fn drain(&mut self, what: Drained) -> Vec<SessionKey> {
        if !self.drained.contains(&what) {
            self.drained.push(what);
        }
        self.hold_sessions();
        let held = self.sessions.iter().filter(|(_, s)| what.holds(s.extent()) && !s.is_quiet());
        held.map(|(key, _)| *key).collect()
    }

    /// Goes on with what was drained, all that is in it included. Whether anything was.
    pub fn resume(&mut self, what: Drained) -> bool {
        let before = self.drained.len();
        self.drained.retain(|drained| !what.covers(drained));
        self.hold_sessions();
        self.drained.len() < before
    }

    /// Has all sessions of a controller wait, beside what is drained, for as long as somebody else may still change what is there; or not any
    /// more. Whether that is news.
    pub fn set_unsettled(&mut self, controller: u16, unsettled: bool) -> bool {
        let known = self.unsettled.contains(&controller);
        if unsettled && !known {
            self.unsettled.push(controller);
        }
        self.unsettled.retain(|other| unsettled || *other != controller);
        self.hold_sessions();
        known != unsettled
    }

    /// Whether a session waits for that.
    pub fn is_unsettled(&self, key: SessionKey) -> bool {
        self.sessions.get(&key).is_some_and(|s| self.unsettled.contains(&s.extent().namespace().controller))
    }

    /// What is drained.
    pub fn drained(&self) -> &[Drained] {
        &self.drained
    }

    /// Whether a session of these blocks is held.
    fn is_drained(&self, extent: &Extent) -> bool {
        self.unsettled.contains(&extent.namespace().controller)
            || self.drained.iter().any(|drained| drained.holds(extent))
    }

    /// Whether a session of these blocks is held from its beginning: it has nothing in flight, but there may be what another server began.
    pub(super) fn hold_of(&self, extent: &Extent) -> Hold {
        match (self.is_drained(extent), self.unsettled.contains(&extent.namespace().controller)) {
            (false, _) => Hold::No,
            (true, true) => Hold::Finishes,
            (true, false) => Hold::Quiet,
        }
    }

    /// Has each session held, or not, as what is drained says.
    fn hold_sessions(&mut self) {
        let keys: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for key in keys {
            let Some(session) = self.sessions.get(&key) else { continue };
            let held = self.is_drained(session.extent());
            let unsettled = self.is_unsettled(key);
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            if !session.set_held(held) {
                // It was held already. What is under way there may be another server's, and that has an end too.
                if unsettled {
                    session.is_not_quiet();
                } else if session.has_said_it_is_quiet() {
                    self.quiet(key);
                }
                continue;
            }
            let told = self.tell_workers(key, || ToWorker::Hold(key, held));
            if held {
                self.stop_what_waits(key);
                let quiet = self.sessions.get_mut(&key).is_some_and(|s| s.ask_for_quiet(told));
                if quiet {
                    self.quiet(key);
                }
            }
            if !held {
                self.launch_queues(key);
            }
        }
    }

    /// Nothing of a session is in flight on one of its workers, and nothing comes.
    pub(super) fn held(&mut self, key: SessionKey) {
        if self.sessions.get_mut(&key).is_some_and(Session::one_less_to_be_quiet) {
            self.quiet(key);
        }
    }

    /// Nothing of a session is in flight, and nothing comes; unless somebody else may still change what is there.
    fn quiet(&mut self, key: SessionKey) {
        if !self.is_unsettled(key) && self.sessions.get_mut(&key).is_some_and(Session::became_quiet) {
            self.events.push_back(Event::Held(key));
        }
    }
}
