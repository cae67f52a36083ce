//! What a client wants back while storage hangs: how long it waits.
//!
//! A command that waits for storage cannot be taken from it, and nothing proves its memory free before it ends. Waiting alone ends
//! nobody. But whoever stops a queue, takes memory back or leaves is told after a time that it will not be now: the session is closed, and
//! what it had is kept, with its device, since a write of it may still land. Both are free when the storage answers.

use core::time::Duration;

use nvme_platform::{Time, error};

use super::super::super::message::SessionKey;
use super::super::{Control, Event};
use super::Session;
use super::places::QueueState;

/// Whether storage has something of a session that is wanted back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hangs {
    /// Nothing, or nothing is wanted back.
    No,
    /// It has until then.
    Until(Time),
    /// It was too long, and that was said.
    Said,
}

impl Session {
    /// Whether a worker was asked to let go of something.
    fn wants_back(&self) -> bool {
        let stops = self.queues.values().any(|queue| matches!(queue, QueueState::Stopping(..)));
        stops || self.job.as_ref().is_some_and(|job| !job.has_steps())
    }
}

impl Control {
    /// Looks whose time is over.
    pub(in super::super) fn poll_quiet(&mut self, now: Time) {
        let Self { sessions, units, events, config, .. } = self;
        let wait: Duration = config.recovery.quiet;
        for (key, session) in sessions {
            // Of what hardware has, its recovery takes care.
            let stored = units.get(usize::from(session.controller()));
            if !session.wants_back() || !stored.is_some_and(|unit| unit.controller().waits_for_storage()) {
                session.hangs = Hangs::No;
                continue;
            }
            session.hangs = match session.hangs {
                Hangs::No => Hangs::Until(now + wait),
                Hangs::Until(until) if now >= until => {
                    let SessionKey(number) = *key;
                    let (device, secs) = (session.minted.device(), wait.as_secs());
                    error!(
                        "session {number}: the storage of {device} hangs: what is wanted back was not let go of in {secs} s; its memory \
                         and its device are kept until it answers"
                    );
                    events.push_back(Event::Hangs(*key));
                    Hangs::Said
                }
                other => other,
            };
        }
    }

    /// When the first of them is over.
    pub(in super::super) fn quiet_deadline(&self) -> Option<Time> {
        let until = |session: &Session| match session.hangs {
            Hangs::Until(until) => Some(until),
            Hangs::No | Hangs::Said => None,
        };
        self.sessions.values().filter_map(until).min()
    }
}
