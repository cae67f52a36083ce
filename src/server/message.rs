//! What control and workers say to each other. Every message is bounded, and whoever sends one does not wait for it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{Notify, Time};
use nvme_policy::Grant;
use nvme_session::factory::FactoryId;
use nvme_session::memory::MemoryTable;
use nvme_session::queue::{BlkQueue, QueueTag};
use nvme_session::virtqueue::Broken;

use super::limits::Limits;
use crate::nvme::{Mishap, QueuePair};

/// One I/O queue pair of one controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PairId {
    /// Which controller.
    pub controller: u16,
    /// The identifier of its submission and completion queue.
    pub queue: u16,
}

/// One virtqueue of one session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueKey {
    /// Which session.
    pub session: SessionKey,
    /// Which of its queues.
    pub index: u16,
}

/// A session, numbered by control; a number is not used again while anything of the old session is left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey(pub u64);

/// Sessions that share a worker's time as one: those of a top-level factory, or a static client's. Groups have equal shares,
/// and in each of them its sessions have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupKey(pub u64);

impl GroupKey {
    /// The server's own factory's.
    pub const FACTORY: Self = Self(0);

    /// Whether it is a static client's.
    pub fn is_static(self) -> bool {
        // Factories are counted from the other end.
        self != Self::FACTORY && self.0 < 1 << 63
    }

    /// A factory's, of those right below the server's own.
    pub fn of_factory(top: FactoryId) -> Self {
        // Sessions have small numbers, factories are counted from the other end.
        if top == FactoryId::SERVER { Self::FACTORY } else { Self(u64::MAX - top.number()) }
    }

    /// A static client's, by its session.
    pub fn of_static(session: SessionKey) -> Self {
        Self(session.0.saturating_add(1))
    }
}

/// From control to a worker.
pub enum ToWorker {
    /// Here is a queue pair of yours, new or back after a recovery.
    AddPair(PairId, Box<QueuePair>),
    /// Hand back that pair with all that is in flight. Its virtqueues wait. Answered by [`FromWorker::PairTaken`].
    TakePair(PairId),
    /// Serve this virtqueue on that pair.
    AddQueue(NewQueue),
    /// Take nothing more from this virtqueue, finish what is in flight, and drop it. Answered by
    /// [`FromWorker::QueueStopped`].
    StopQueue(QueueKey, Old),
    /// Take nothing more from this virtqueue, finish what is in flight, and hand it back: it is going to another worker. Answered by
    /// [`FromWorker::GivenBack`].
    GiveBack(QueueKey),
    /// Tell the driver of this virtqueue in another way from now on. Answered by [`FromWorker::NotifySet`].
    SetNotify(QueueKey, Box<dyn Notify>),
    /// The session's memory is this from now on. Answered by [`FromWorker::TableSet`] when nothing in flight lies
    /// in the regions that are gone, which are named by their slots.
    SetTable(NewTable),
    /// The session's cache mode is write-back, or write-through. Answered by [`FromWorker::WriteBackSet`].
    SetWriteBack(SessionKey, bool),
    /// The session holds this from now on: what it held, and more.
    SetGrant(SessionKey, Grant),
    /// Break the session's virtqueues: its memory vanished.
    Break(SessionKey, Broken),
    /// The session's limits have changed.
    Limit(SessionKey),
    /// The session's device is lost: end what it asks with an error from now on.
    Fail(SessionKey),
    /// Take nothing more from the session's virtqueues for now, or go on. While it is held, what its drivers ask waits in their rings.
    /// When nothing of it is in flight any more, or it goes on before, that it was held is answered by [`FromWorker::Held`].
    Hold(SessionKey, bool),
    /// The session's client is gone: what is in flight ends, and nothing is issued again that failed for the moment.
    Withdraw(SessionKey),
    /// The session has ended, and has let go of its queue pair: there is nothing to do for it any more.
    Release(SessionKey),
    /// Forget the session's virtqueues though something is in flight for them: their device cannot be proven quiet. What
    /// they hold is kept for ever. Each is answered by [`FromWorker::QueueStopped`].
    Quarantine(SessionKey),
    /// Is this command still in flight? Answered by [`FromWorker::Stuck`].
    IsStuck(StuckCommand),
}

/// What becomes of requests that were in flight when the last server died, where a virtqueue stops that has not come to them yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Old {
    /// They are done first: the driver may go on elsewhere.
    First,
    /// They are left to whoever serves the virtqueue next, or nobody asks for them any more.
    Left,
}

/// Of what a message to a worker speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// Of a session.
    Session(SessionKey),
    /// Of a queue pair.
    Pair(PairId),
}

impl ToWorker {
    /// Of what it speaks. A home that gave a session a worker of its own finds that with it.
    pub fn about(&self) -> About {
        match self {
            Self::AddPair(pair, _) | Self::TakePair(pair) => About::Pair(*pair),
            Self::IsStuck(command) => About::Pair(command.pair),
            Self::AddQueue(new) => About::Session(new.key.session),
            Self::StopQueue(key, _) | Self::GiveBack(key) | Self::SetNotify(key, _) => {
                About::Session(key.session)
            }
            Self::SetTable(new) => About::Session(new.session),
            Self::SetWriteBack(session, _) | Self::SetGrant(session, _) | Self::Break(session, _) => {
                About::Session(*session)
            }
            Self::Fail(session)
            | Self::Hold(session, _)
            | Self::Limit(session)
            | Self::Withdraw(session)
            | Self::Release(session)
            | Self::Quarantine(session) => About::Session(*session),
        }
    }
}

/// A virtqueue on its way to its worker.
pub struct NewQueue {
    /// Whose it is.
    pub key: QueueKey,
    /// Whose time is spent for it.
    pub group: GroupKey,
    /// The queue.
    pub queue: Box<BlkQueue>,
    /// The pair that serves it.
    pub pair: PairId,
    /// How its driver is told.
    pub notify: Box<dyn Notify>,
    /// What bounds its session.
    pub limits: Arc<Limits>,
    /// Whether its session is at home on another worker.
    pub abroad: bool,
}

/// A virtqueue that comes back from its worker ([`ToWorker::GiveBack`]), with nothing in flight.
pub struct Returned {
    /// The queue.
    pub queue: Box<BlkQueue>,
    /// How its driver is told.
    pub notify: Box<dyn Notify>,
}

/// A session's memory from now on.
pub struct NewTable {
    /// Whose it is.
    pub session: SessionKey,
    /// What is registered.
    pub table: Arc<MemoryTable>,
    /// Rises with each change; control's own.
    pub generation: u64,
    /// The slots of regions that are not in it any more.
    pub removed: Vec<u16>,
}

/// A command whose deadline has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StuckCommand {
    /// Where it was submitted.
    pub pair: PairId,
    /// Its command identifier.
    pub cid: u16,
    /// The virtqueue that it belongs to, as the worker numbers it.
    pub token: QueueTag,
}

/// From a worker to control.
pub enum FromWorker {
    /// Answers [`ToWorker::TakePair`]; `None` when the worker has no such pair.
    PairTaken(PairId, Option<Box<QueuePair>>),
    /// Answers [`ToWorker::StopQueue`]: where the driver's next request will be.
    QueueStopped(QueueKey, u16),
    /// Answers [`ToWorker::GiveBack`]. `None`: it goes on here, or is not there, or has stopped.
    GivenBack(QueueKey, Option<Returned>),
    /// The worker has much to do, or has not any more.
    Busy(bool),
    /// It has more to do than there is time for, and this virtqueue is one that another worker could serve as well.
    Crowded(QueueKey),
    /// A virtqueue that is not at home here had better go there: it has little to do (false), or others need the time (true).
    GoHome(QueueKey, bool),
    /// Answers [`ToWorker::SetNotify`].
    NotifySet(QueueKey),
    /// Answers [`ToWorker::SetWriteBack`]: what is taken from now on is served in that mode.
    WriteBackSet(SessionKey),
    /// A session that is held ([`ToWorker::Hold`]) has nothing in flight.
    Held(SessionKey),
    /// A virtqueue is broken. It serves nothing until it is stopped and set up again.
    QueueBroken(QueueKey, Broken),
    /// Answers [`ToWorker::SetTable`], with the table's generation.
    TableSet(SessionKey, u64),
    /// A command's deadline has passed; said again as long as it does not end.
    Expired(StuckCommand),
    /// Answers [`ToWorker::IsStuck`]: whether it is.
    Stuck(StuckCommand, bool),
    /// A request failed. Not each is told.
    Failed(Mishap),
}

/// What one pass of a worker came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// Whether anything was done: then another pass is worth it at once.
    pub worked: bool,
    /// When the worker wants to be called again though nothing happens.
    pub wake: Option<Time>,
}
