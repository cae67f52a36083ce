//! Calls that take time.

use alloc::boxed::Box;

use nvme_l4re::kernel::{Caller, Cap, L4Error};
use nvme_platform::Time;
use nvme_policy::{FactoryRequest, SessionRequest};
use nvme_session::factory::{FACTORIES_MAX, FactoryId};

use super::Server;
use super::patience::{MAPPING_PATIENCE, PATIENCE};
use crate::label::{Number, SLOTS};
use crate::message::{Meta, SessionCall};
use crate::{Kernel, Output};

/// Calls to the server's own factory that may wait at a time.
const CREATES_MAX: usize = 32;
/// Calls to each other factory that may wait at a time. These are its own: whoever has another factory finds his places free.
const CREATES_EACH: usize = 2;
/// Calls of one session that may wait at a time: the one that is worked on, and what came after it.
const CALLS_EACH: usize = 4;
/// Calls that may wait at a time, all in all: fewer than the kernel has places for, so that none is ever held.
const CALLS_MAX: usize = 500;
/// The first call of each session, and those to factories, always find a place beside what others have more than one of.
const CALLS_MORE: usize = CALLS_MAX - SLOTS / 2 - CREATES_MAX - FACTORIES_MAX * CREATES_EACH;

/// What is asked, and by whom.
pub(super) enum Asked {
    Factory(Meta),
    Create(FactoryId, Box<SessionRequest>),
    Delegate(FactoryId, Box<FactoryRequest>),
    Session(Number, SessionCall),
}

impl Asked {
    fn session(&self) -> Option<Number> {
        if let Self::Session(number, _) = self { Some(*number) } else { None }
    }

    fn factory(&self) -> Option<FactoryId> {
        if let Self::Create(at, _) | Self::Delegate(at, _) = self { Some(*at) } else { None }
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_note(&self) -> bool {
        matches!(self, Self::Session(_, SessionCall::Unmask))
    }

    /// What it is answered when too many wait.
    pub(super) fn too_many(&self) -> L4Error {
        if let Self::Session(..) = self { L4Error::BUSY } else { L4Error::AGAIN }
    }
}

/// A call that is worked on, or waits for that.
pub(super) struct Pending {
    pub(super) asked: Asked,
    /// What came with it, as long as nobody took it.
    pub(super) cap: Option<Cap>,
    /// Since when it is worked on.
    pub(super) begun: Option<Time>,
}

/// One whose caller is kept.
pub(super) struct Kept {
    pending: Pending,
    caller: Caller,
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// Whether a call of the same session came before: it is answered first.
    pub(super) fn is_behind(&self, asked: &Asked) -> bool {
        let session = asked.session();
        session.is_some() && self.kept.iter().any(|kept| kept.pending.asked.session() == session)
    }

    /// Whether one more such call may wait.
    pub(super) fn may_wait(&self, asked: &Asked) -> bool {
        let (session, factory) = (asked.session(), asked.factory());
        let alike =
            |kept: &&Kept| kept.pending.asked.session() == session && kept.pending.asked.factory() == factory;
        let (alike, all) = (self.kept.iter().filter(alike).count(), self.kept.len());
        match (session, factory) {
            (Some(_), _) if alike == 0 => all < CALLS_MAX,
            (Some(_), _) => alike < CALLS_EACH && all < CALLS_MORE,
            (None, Some(FactoryId::SERVER)) => alike < CREATES_MAX && all < CALLS_MAX,
            (None, Some(_)) => alike < CREATES_EACH && all < CALLS_MAX,
            // It is answered at once.
            (None, None) => true,
        }
    }

    /// Puts a call aside until something happens. Where the kernel keeps no callers, nothing is received until it is answered.
    pub(super) fn wait(&mut self, pending: Pending, caller: Option<Caller>) {
        match caller.or_else(|| self.kernel.keep()) {
            Some(caller) => {
                self.kept.push(Kept { pending, caller });
                self.kept_at = self.next_deadline();
            }
            None => self.held = Some(pending),
        }
    }

    /// Asks those again that wait, in the order in which they came, if something happened since, or one has waited long enough.
    pub(super) fn ask_again(&mut self, now: Time) {
        let due = self.kept_at.is_some_and(|at| at <= now);
        if !core::mem::take(&mut self.stirred) && !due {
            return;
        }
        self.asked_at = now;
        for Kept { pending, caller } in core::mem::take(&mut self.kept) {
            if self.is_behind(&pending.asked) {
                self.kept.push(Kept { pending, caller });
            } else {
                self.work_on(pending, Some(caller), now);
            }
        }
        self.kept_at = self.next_deadline();
    }

    /// When the next one of them has waited long enough for something.
    fn next_deadline(&self) -> Option<Time> {
        let begun = self.kept.iter().filter_map(|kept| kept.pending.begun);
        let deadlines = begun.flat_map(|begun| [begun + PATIENCE, begun + MAPPING_PATIENCE]);
        deadlines.filter(|at| *at > self.asked_at).min()
    }
}
