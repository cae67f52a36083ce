//! A session that holds others up gets a worker of its own, for another thread.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::message::{GroupKey, PairId, SessionKey};
use super::{Pair, Worker};
use crate::nvme::QueuePair;

/// A session on its way to another thread.
pub struct Split {
    /// Serves that session, and nobody else.
    pub worker: Worker,
    /// The session's queue pair, and the interrupt vector of it, if it is there and not with control.
    pub pair: (PairId, Option<u16>),
}

impl Worker {
    /// The group of a session that is here.
    pub fn group(&self, session: SessionKey) -> Option<GroupKey> {
        self.roster.group_of(session)
    }

    /// Takes a session out, with its virtqueues under their tokens, its queue pair, and what is in flight: a worker that serves it
    /// alone. `None`: it is not here, or others are on its pair. What control tells of that session and of that pair is the new
    /// worker's to hear from now on.
    pub fn split_off(&mut self, session: SessionKey) -> Option<Split> {
        let id = self.roster.own_pair(session)?;
        let tokens = self.roster.tokens_of(session);
        self.none_leaves(&tokens);
        let roster = self.roster.split_off(session)?;
        let mut worker = Self::new(Duration::ZERO);
        worker.apart = true;
        let mut vector = None;
        if let Some(at) = self.pairs.iter().position(|pair| pair.id == id) {
            let mut pair = self.pairs.swap_remove(at);
            pair.line = VecDeque::new();
            if roster.stands_in_line() {
                pair.line.push_back(0);
            }
            pair.queues.set_apart(true);
            pair.queues.share(false);
            vector = Some(pair.queues.vector());
            worker.pairs.push(pair);
        }
        worker.roster = roster;
        worker.drains = self.drains.extract_if(.., |drain| drain.session == session).collect();
        worker.stopping = self.stopping.extract_if(.., |token| tokens.contains(token)).collect();
        worker.held = self.held.extract_if(.., |(_, token)| tokens.contains(token)).collect();
        worker.held_until = worker.held.iter().map(|(until, _)| *until).min();
        worker.holding = self.holding.extract_if(.., |key| *key == session).collect();
        self.overran.retain(|(key, _)| *key != session);
        Some(Split { worker, pair: (id, vector) })
    }

    /// Whether it holds memory for ever, so that it must not go.
    pub fn keeps(&self) -> bool {
        !self.quarantined.is_empty()
    }

    /// Its queue pairs, for another worker: its session has ended.
    pub fn take_pairs(&mut self) -> Vec<(PairId, Box<QueuePair>)> {
        let pairs = self.pairs.drain(..).map(|Pair { id, mut queues, .. }| {
            queues.set_apart(false);
            (id, queues)
        });
        pairs.collect()
    }
}
