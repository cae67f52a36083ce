//! Admin commands (NVM Express Base 1.4, 5), each from its entry to its answer.
//!
//! * `identify`: Identify.
//! * `queues`: Create and Delete I/O queues.
//! * `features`: Set and Get Features.
//! * `log`: log pages.
//! * `events`: asynchronous events.

mod events;
mod features;
mod identify;
mod log;
mod queues;

use alloc::string::String;

use crate::config::Config;
use crate::control::Control;
use crate::shared::Shared;
use crate::wire::{Sqe, Status, admin};
use crate::world::View;

pub(crate) use events::Events;
pub(crate) use features::Features;
pub(crate) use log::Logs;

/// What an admin command comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It completes, with this in dword 0.
    Done(u32),
    /// It completes when something happens.
    Later,
    /// It is to be executed again when something has ended.
    Again,
}

/// What the controller is, and stays.
pub(crate) struct Nature {
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    pub(crate) namespaces_max: u32,
    pub(crate) mdts: u8,
    pub(crate) sgl: bool,
    pub(crate) dataset_management: bool,
    pub(crate) write_zeroes: bool,
    pub(crate) write_cache: bool,
    pub(crate) queues: u16,
    pub(crate) mqes: u16,
    pub(crate) timeout: u8,
    pub(crate) doorbell_stride: u8,
    pub(crate) vectors: u16,
}

impl Nature {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            serial: config.serial.clone(),
            model: config.model.clone(),
            firmware: config.firmware.clone(),
            namespaces_max: config.namespaces_max,
            mdts: config.mdts,
            sgl: config.sgl,
            dataset_management: config.dataset_management,
            write_zeroes: config.write_zeroes,
            write_cache: config.write_cache,
            queues: config.queues,
            mqes: config.mqes,
            timeout: config.timeout,
            doorbell_stride: config.doorbell_stride,
            vectors: config.vectors,
        }
    }
}

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
            admin::SET_FEATURES => self.set_features(shared, view, sqe),
            admin::GET_FEATURES => self.get_features(sqe),
            admin::GET_LOG_PAGE => self.get_log_page(shared, view, sqe),
            admin::ASYNC_EVENT => self.events.request(sqe.cid.get()),
            _ => Err(Status::INVALID_OPCODE),
        }
    }
}
