//! A command of a window, as a rule has it.

use alloc::vec::Vec;

use nvme_platform::Time;

use crate::batch::Batch;
use crate::faulty::{Abort, Action, Held, hold, spoil};
use crate::wire::{Sqe, Status};

impl Batch<'_> {
    /// Executes a command of a window, as a rule has it. False: no more fits into the queue.
    pub(crate) fn meddle(
        &mut self,
        sqe: Sqe,
        action: Option<Action>,
        held: &mut Vec<Held>,
        now: Time,
    ) -> bool {
        match action {
            Some(Action::Hang) => {
                hold(held, sqe, None, Abort::Ends);
                self.charge();
                return true;
            }
            Some(Action::Delay(time)) => {
                hold(held, sqe, Some(now + time), Abort::Ends);
                self.charge();
                return true;
            }
            Some(Action::DelayDeaf(time)) => {
                hold(held, sqe, Some(now + time), Abort::Deaf);
                self.charge();
                return true;
            }
            Some(Action::Drop) => {
                self.executor.execute(&sqe);
                self.charge();
                return true;
            }
            _ => {}
        }
        let status = match action {
            Some(Action::Fail(status)) => status,
            _ => self.executor.execute(&sqe),
        };
        let mut cqe = self.completion(sqe.cid.get(), status);
        if let Some(Action::Forge(cids)) = &action {
            for cid in cids {
                self.post(&self.completion(*cid, Status::SUCCESS));
                if !self.room() {
                    return false;
                }
            }
        }
        if let Some(action) = &action {
            spoil(action, &mut cqe);
        }
        self.post(&cqe);
        if action == Some(Action::Duplicate) && self.room() {
            self.post(&cqe);
        }
        true
    }
}
