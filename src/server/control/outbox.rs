//! What control says to others while it works: messages for workers, and what it found that cannot be.

use alloc::collections::VecDeque;

use super::super::message::ToWorker;
use super::anomaly::{Anomalies, Anomaly};

/// What is to be carried out of the control role.
#[derive(Default)]
pub(super) struct Outbox {
    messages: VecDeque<(usize, ToWorker)>,
    anomalies: Anomalies,
}

impl Outbox {
    /// Sends a message to a worker.
    pub(super) fn tell(&mut self, worker: usize, message: ToWorker) {
        self.messages.push_back((worker, message));
    }

    pub(super) fn take(&mut self) -> Option<(usize, ToWorker)> {
        self.messages.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Something happened that cannot.
    pub(super) fn anomaly(&mut self, what: Anomaly) {
        self.anomalies.note(what);
    }

    pub(super) fn anomalies(&self) -> &Anomalies {
        &self.anomalies
    }
}
