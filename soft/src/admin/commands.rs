//! Admin commands, by their opcode.

use crate::admin::{Answer, features, log};
use crate::control::Control;
use crate::shared::Shared;
use crate::wire::{Sqe, Status, admin};
use crate::world::View;

impl Control {
    /// Executes one admin command, but for Abort, which needs the queue.
    pub(crate) fn execute(&mut self, shared: &Shared, view: &View, sqe: &Sqe) -> Result<Answer, Status> {
        // No fused admin commands, and PRPs only (4.1.3: "shall use PRPs" over PCI Express).
        if sqe.flags != 0 {
            return Err(Status::INVALID_FIELD);
        }
        match sqe.opcode {
            admin::IDENTIFY => self.identify(shared, view, sqe),
            admin::CREATE_CQ => self.create_completion_queue(shared, view, sqe),
            admin::CREATE_SQ => self.create_submission_queue(shared, view, sqe),
            admin::DELETE_SQ => self.delete_submission_queue(shared, sqe),
            admin::DELETE_CQ => self.delete_completion_queue(shared, sqe),
            admin::SET_FEATURES => features::set(&mut self.features, &self.nature, shared, view, sqe),
            admin::GET_FEATURES => features::get(&self.features, &self.nature, sqe),
            admin::GET_LOG_PAGE => {
                log::get(&mut self.logs, &mut self.events, &self.nature, shared, view, sqe)
            }
            admin::ASYNC_EVENT => self.events.request(sqe.cid.get()),
            _ => Err(Status::INVALID_OPCODE),
        }
    }
}
