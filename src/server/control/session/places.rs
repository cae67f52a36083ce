//! Where each virtqueue of a session is: with a worker, on its way from one to another, or waiting for a pair.
//!
//! A session is at home on one worker, with the pair that it was given first. Queues of it that have much to do may be on other workers, each
//! of which has another pair of it then ([`Abroad`]). What is said of a session is said to all workers that have queues of it, and is done
//! when all have answered. A queue on its way is in control's hands for a moment, with nothing in flight; whatever was said meanwhile it
//! learns before it goes on.

use alloc::boxed::Box;
use alloc::vec::Vec;

use nvme_platform::Notify;
use nvme_session::queue::BlkQueue;
use nvme_session::virtqueue::Broken;

use super::super::super::message::{PairId, Returned, SessionKey, ToWorker};
use super::super::Control;
use super::{Session, SessionPair};

/// Where a virtqueue is.
pub(super) enum QueueState {
    /// Here, waiting for its session's pair: on that worker, or at home.
    Waiting(Box<BlkQueue>, Box<dyn Notify>, Option<usize>),
    /// With that worker.
    Running(usize),
    /// A worker was asked to hand it back.
    Leaving(Journey),
    /// That worker was told to stop it. Where its driver's next request will be, if it came back meanwhile.
    Stopping(usize, Option<u16>),
}

/// From one worker to another.
pub(super) struct Journey {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) unheard: Unheard,
}

/// What was said to a virtqueue on its way.
#[derive(Default)]
pub(in super::super) struct Unheard {
    /// How its driver is to be told from then on.
    pub(in super::super) new: Option<Box<dyn Notify>>,
    /// Why it is to serve nothing any more.
    pub(in super::super) broken: Option<Broken>,
}

/// A session's pair on a worker where it is not at home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Abroad {
    pub(in super::super) worker: usize,
    /// `None`: the controller is making it, for that virtqueue.
    pub(in super::super) pair: Result<PairId, u16>,
}

impl QueueState {
    /// The worker that has it.
    pub(super) fn at(&self) -> Option<usize> {
        match self {
            Self::Waiting(..) => None,
            Self::Running(at) | Self::Stopping(at, _) => Some(*at),
            Self::Leaving(journey) => Some(journey.from),
        }
    }

    /// Whether it is on that worker, or on its way there.
    fn needs(&self, worker: usize) -> bool {
        match self {
            Self::Waiting(_, _, to) => *to == Some(worker),
            Self::Running(at) | Self::Stopping(at, _) => *at == worker,
            Self::Leaving(Journey { from, to, .. }) => *from == worker || *to == worker,
        }
    }
}

impl Session {
    /// The workers that have queues of it.
    pub(in super::super) fn workers(&self) -> Vec<usize> {
        let mut workers: Vec<usize> = self.queues.values().filter_map(QueueState::at).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// The worker that has a virtqueue of it.
    pub fn worker_of(&self, index: u16) -> Option<usize> {
        self.queues.get(&index).and_then(QueueState::at)
    }

    /// Its pair on a worker.
    pub(in super::super) fn pair_on(&self, worker: usize) -> Option<PairId> {
        match self.pair {
            SessionPair::Has(pair) if worker == self.worker => Some(pair),
            _ => self.abroad.iter().find(|abroad| abroad.worker == worker)?.pair.ok(),
        }
    }

    /// Whether it uses that pair.
    pub(in super::super) fn uses(&self, pair: PairId) -> bool {
        self.pair == SessionPair::Has(pair) || self.abroad.iter().any(|abroad| abroad.pair == Ok(pair))
    }

    /// Whether it uses any pair, so that something of it may be in flight.
    pub(in super::super) fn has_pair(&self) -> bool {
        matches!(self.pair, SessionPair::Has(_)) || self.abroad.iter().any(|abroad| abroad.pair.is_ok())
    }

    /// Whether a queue of it is on that worker, or on its way there.
    pub(in super::super) fn needs(&self, worker: usize) -> bool {
        self.queues.values().any(|queue| queue.needs(worker))
    }

    /// A virtqueue is to go to another worker: the one that has it, if it may.
    pub(in super::super) fn leaves(&mut self, index: u16, to: usize) -> Option<usize> {
        let state = self.queues.get_mut(&index)?;
        let QueueState::Running(from) = *state else { return None };
        *state = QueueState::Leaving(Journey { from, to, unheard: Unheard::default() });
        Some(from)
    }

    /// A virtqueue came back from a worker that was asked for it, or goes on there. Whether it is here, to go on to where it is meant to go;
    /// and what was said meanwhile.
    pub(in super::super) fn arrives(
        &mut self,
        index: u16,
        worker: usize,
        returned: Option<Returned>,
    ) -> (bool, Unheard) {
        let nothing = (false, Unheard::default());
        let Some(state) = self.queues.get_mut(&index).filter(|state| state.at() == Some(worker)) else {
            return nothing;
        };
        match (state, returned) {
            (state @ QueueState::Leaving(_), returned) => {
                let QueueState::Leaving(journey) = core::mem::replace(state, QueueState::Running(worker))
                else {
                    return nothing;
                };
                let Journey { to, mut unheard, .. } = journey;
                let Some(Returned { mut queue, mut notify }) = returned else { return (false, unheard) };
                // What was said to all while it was on its way.
                let _ = queue.set_table(self.registry.table());
                queue.set_grant(self.minted.grant().clone());
                queue.set_write_back(self.write_back);
                if let Some(new) = &mut unheard.new {
                    // The new way may have missed what the old one was told.
                    new.used();
                    core::mem::swap(new, &mut notify);
                }
                *state = QueueState::Waiting(queue, notify, Some(to));
                (true, unheard)
            }
            (QueueState::Stopping(_, next), Some(Returned { queue, .. })) => {
                *next = Some(queue.next_avail());
                nothing
            }
            _ => nothing,
        }
    }

    /// Whether that virtqueue is with that worker, and serves.
    pub(in super::super) fn runs(&self, index: u16, worker: usize) -> bool {
        matches!(self.queues.get(&index), Some(QueueState::Running(at)) if *at == worker)
    }
}

impl Control {
    /// Says something to all workers that have queues of a session. To how many.
    pub(in super::super) fn tell_workers(&mut self, key: SessionKey, say: impl Fn() -> ToWorker) -> usize {
        let workers = self.sessions.get(&key).map(Session::workers).unwrap_or_default();
        for worker in &workers {
            self.tell(*worker, say());
        }
        workers.len()
    }
}
