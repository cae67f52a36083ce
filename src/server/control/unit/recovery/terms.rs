//! The terms in which a recovery is spoken of: its steps, what happens to it, and what it wants to be done.

use nvme_platform::Time;
use nvme_session::queue::QueueTag;

use super::super::super::super::message::StuckCommand;

/// What the recovery is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Step {
    /// Nothing is the matter.
    Idle,
    /// Abort was sent.
    Aborting(StuckCommand),
    /// The worker was asked whether the command is still there; if so, it has until then, or nothing is left but to
    /// take the pair back.
    Asking(StuckCommand, Option<Time>),
    /// Abort was answered, and the command is still there. It has until then.
    Grace(StuckCommand, Time),
    /// The worker was asked whether a command that was reported late meanwhile is still there.
    Looking(StuckCommand),
    /// The worker was asked for the pair.
    Taking(StuckCommand),
    /// The pair's queues are being deleted.
    Deleting(StuckCommand),
    /// The pair's queues are being created again.
    Recreating(StuckCommand),
    /// All pairs are being taken back for a reset.
    Gathering,
    /// The reset is under way.
    Resetting,
    /// After a reset, the queues of this pair are being created again.
    Reviving(u16),
    /// The device is lost.
    Lost,
}

impl Step {
    pub(in super::super) fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Aborting(_) => "aborting",
            Self::Asking(..) => "asking",
            Self::Grace(..) => "grace",
            Self::Looking(_) => "looking",
            Self::Taking(_) => "taking",
            Self::Deleting(_) => "deleting",
            Self::Recreating(_) => "recreating",
            Self::Gathering => "gathering",
            Self::Resetting => "resetting",
            Self::Reviving(_) => "reviving",
            Self::Lost => "lost",
        }
    }
}

/// What happened. `away`: how many pairs that a reset has to wait for are not here. `next`: of the pairs that are here, the
/// one whose queues are to be created next, this one aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super::super) enum Input {
    /// Time went on.
    Tick,
    /// A command's deadline has passed.
    Late(StuckCommand),
    /// An abort was answered, or was not.
    Aborted { queue: u16, cid: u16 },
    /// A worker says whether a command is still in flight.
    Stuck(StuckCommand, bool),
    /// A pair is here: its worker handed it back.
    Back { queue: u16, away: u16 },
    /// A pair will not come, or is none any more.
    Left { queue: u16, away: u16 },
    /// A new pair is here.
    Made(u16),
    /// The queues of a pair are deleted.
    Deleted(u16),
    /// The queues of a pair exist again.
    Recreated { queue: u16, next: Option<u16> },
    /// The queues of a pair cannot be made again.
    NotRecreated { queue: u16, next: Option<u16> },
    /// Only a reset helps.
    ResetNeeded { away: u16 },
    /// The reset finished.
    Reset { next: Option<u16> },
    /// The controller is gone, or of no use any more.
    Lost,
}

impl Input {
    pub(in super::super) fn word(self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Late(_) => "late",
            Self::Aborted { .. } => "aborted",
            Self::Stuck(..) => "stuck",
            Self::Back { .. } => "back",
            Self::Left { .. } => "left",
            Self::Made(_) => "made",
            Self::Deleted(_) => "deleted",
            Self::Recreated { .. } => "recreated",
            Self::NotRecreated { .. } => "not recreated",
            Self::ResetNeeded { .. } => "reset needed",
            Self::Reset { .. } => "reset",
            Self::Lost => "lost",
        }
    }
}

/// Whose commands are not issued again but fail, when a pair goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super::super) enum Fails {
    /// Nobody's.
    None,
    /// Those of this virtqueue.
    Of(QueueTag),
    /// All.
    All,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super::super) enum Effect {
    /// Ask the controller to abort the command.
    Abort(StuckCommand),
    /// Ask the worker whether the command is still in flight. If there is no such pair: [`Input::Stuck`], with no.
    Ask(StuckCommand),
    /// Ask the worker for the pair. If no worker has it: [`Input::Left`].
    Take(u16),
    /// Ask the workers for all pairs that are not here.
    TakeAll,
    /// Delete the queues of the pair, which is here. If that cannot be asked: [`Input::ResetNeeded`].
    Delete(u16),
    /// Create the queues of the pair again. If that cannot be asked: [`Input::NotRecreated`].
    Recreate(u16),
    /// The pair goes on, on its new queues, with its worker.
    Restart(u16, Fails),
    /// The pair's commands fail and its sessions are lost; it goes back to its worker, which hands out the failures.
    Drop(u16),
    /// The pair goes to its worker.
    Give(u16),
    /// The pair of a lost device ends: with proof its commands fail; without, it is kept for ever.
    End(u16),
    /// Reset the controller; all pairs are here.
    Reset,
    /// All pairs go on after a reset: those that were to be deleted are.
    Settle,
    /// Cut the device off; everything on it ends.
    Lose,
    /// The same, for it was reset that often in short time.
    GiveUp(usize),
    /// It cannot be that this happens now.
    Anomaly,
}

/// What is to be done, in this order; two things at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super::super) struct Effects([Option<Effect>; 2]);

impl Effects {
    pub(super) const NONE: Self = Self([None; 2]);

    pub(super) const fn one(effect: Effect) -> Self {
        Self([Some(effect), None])
    }

    pub(super) const fn two(first: Effect, second: Effect) -> Self {
        Self([Some(first), Some(second)])
    }

    /// This one, and then the other, if there is one: `rest` has one at most.
    pub(super) fn before(effect: Effect, rest: Self) -> Self {
        let [second, _] = rest.0;
        Self([Some(effect), second])
    }

    /// Whether it cannot be that this happens now.
    pub(in super::super) fn has_anomaly(self) -> bool {
        self.into_iter().any(|effect| effect == Effect::Anomaly)
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = core::iter::Flatten<core::array::IntoIter<Option<Effect>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}
