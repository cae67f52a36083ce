//! How a session ends: cleared for its next client, ended, lost with its device, or closed with its memory kept.

use alloc::vec::Vec;

use nvme_platform::debug;

use super::super::super::message::{Old, SessionKey, ToWorker};
use super::super::{Anomaly, Control, Event};
use super::SessionPair;
use super::{Goal, Session, SessionError};

impl Control {
    /// Clears away what a session's client left: its queues stop, its memory is unmapped, its features are
    /// forgotten. Ends in [`Event::Cleared`].
    pub fn clear(&mut self, key: SessionKey) {
        self.head_for(key, Goal::Clear);
    }

    /// Ends a session: its queues stop, its memory is unmapped, its device is free again. Ends in
    /// [`Event::Ended`]. Nothing else can be asked of it any more.
    pub fn end(&mut self, key: SessionKey) {
        self.head_for(key, Goal::End);
    }

    fn head_for(&mut self, key: SessionKey, goal: Goal) {
        // A home may ask for the end of one that has ended.
        let Some(session) = self.sessions.get_mut(&key).filter(|s| s.goal != Goal::End) else { return };
        session.goal = goal;
        // None is not too much.
        let _ = session.registry.reserve(0);
        debug!("session {}: {}", key.0, if goal == Goal::End { "ends" } else { "is cleared" });
        self.more = true;
        self.tell_workers(key, || ToWorker::Withdraw(key));
        for index in self.running_queues(key) {
            // It runs, so it can be stopped.
            let _ = self.stop(key, index, Old::Left);
        }
    }

    /// Takes the next step of what sessions are busy with.
    pub(in super::super) fn poll_sessions(&mut self) {
        self.assign_waiting();
        let keys: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.job.is_some() || s.goal != Goal::Serve)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.poll_memory(key);
            self.poll_end(key);
        }
    }

    fn poll_end(&mut self, key: SessionKey) {
        let Some(session) = self.known(key) else { return };
        if session.goal == Goal::Serve || !session.queues.is_empty() {
            return;
        }
        if !session.quarantined {
            if session.job.is_some() {
                return;
            }
            if !session.registry.is_empty() {
                return self.remove_everything(key);
            }
        }
        if session.goal == Goal::Clear {
            session.goal = Goal::Serve;
            session.features = 0;
            session.write_back = session.minted.limits().volatile_cache;
            self.events.push_back(Event::Cleared(key));
            return;
        }
        self.release_pair(key);
        let Some(session) = self.sessions.remove(&key) else {
            return self.out.anomaly(Anomaly::NoSession(key));
        };
        let kept = session.quarantined;
        if kept {
            nvme_platform::error!("session {}: its memory is kept, for nothing proves it free", key.0);
            core::mem::forget(session.registry);
            if let Some(job) = session.job {
                if job.is_asked() {
                    self.events.push_back(Event::Done(key, Err(SessionError::DeviceLost)));
                }
                core::mem::forget(job);
            }
        }
        let id = session.minted.session();
        let ended = if kept { self.catalogue.end_unproven(id) } else { self.catalogue.end(id) };
        if let Some(namespace) = ended.rescan {
            self.rescan(namespace);
        }
        self.events.push_back(Event::Ended(key));
        self.factories_ended();
    }

    /// The device of these sessions will not come back.
    pub(in super::super) fn lose_sessions(&mut self, which: impl Fn(&Session) -> bool) {
        let lost: Vec<_> = self.sessions.iter().filter(|(_, s)| which(s)).map(|(key, _)| *key).collect();
        for key in lost {
            self.lose_session(key);
        }
    }

    /// The session's device will not come back.
    pub(in super::super) fn lose_session(&mut self, key: SessionKey) {
        let Some(session) = self.known(key) else { return };
        if core::mem::replace(&mut session.lost, true) {
            return;
        }
        // It waits for nothing any more, and nobody says so again when something else is resumed.
        session.set_held(false);
        if !matches!(session.pair, SessionPair::Has(_)) {
            session.pair = SessionPair::None;
        }
        session.offer.lose();
        self.launch_queues(key);
        // It comes after the queues that were just launched, and there may be others.
        self.tell_workers(key, || ToWorker::Fail(key));
        self.events.push_back(Event::Lost(key));
        self.events.push_back(Event::ConfigChanged(key));
    }

    /// The session's memory cannot be proven free: it is kept, and the session is closed.
    pub(in super::super) fn quarantine(&mut self, key: SessionKey) {
        let Some(session) = self.known(key) else { return };
        session.quarantined = true;
        self.tell_workers(key, || ToWorker::Quarantine(key));
        self.lose_session(key);
        self.end(key);
    }
}
