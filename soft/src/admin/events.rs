//! Asynchronous events (5.2).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::admin::Answer;
use crate::wire::Status;

/// Requests that may wait (Identify Controller, AERL, plus one).
pub(crate) const REQUESTS_MAX: usize = 4;
/// Most events that wait for a request; there is one of each kind at most.
const EVENTS_MAX: usize = 8;

/// An event: dword 0 of the completion (figure 147): type in bits 2:0, information in 15:8, log page in 23:16.
#[derive(Clone, Copy, PartialEq, Eq)]
struct EventWord(u32);

impl EventWord {
    const NAMESPACE_CHANGED: Self = Self(0x04 << 16 | 2);

    const fn error(what: u8) -> Self {
        Self(0x01 << 16 | (what as u32) << 8)
    }

    fn kind(self) -> u8 {
        1 << (self.0 & 7)
    }
}

/// Requests, events, and which types are silent until their log page is read.
#[derive(Default)]
pub(crate) struct Events {
    requests: VecDeque<u16>,
    pending: Vec<EventWord>,
    silent: u8,
}

impl Events {
    /// Asynchronous Event Request.
    pub(crate) fn request(&mut self, cid: u16) -> Result<Answer, Status> {
        if self.requests.len() >= REQUESTS_MAX {
            return Err(Status::EVENT_LIMIT);
        }
        self.requests.push_back(cid);
        Ok(Answer::Later)
    }

    pub(crate) fn waits(&self, cid: u16) -> bool {
        self.requests.contains(&cid)
    }

    pub(crate) fn abort(&mut self, cid: u16) {
        self.requests.retain(|c| *c != cid);
    }

    fn raise(&mut self, event: EventWord) {
        if !self.pending.contains(&event) && self.pending.len() < EVENTS_MAX {
            self.pending.push(event);
        }
    }

    /// An error, by its event information: 0 a doorbell of no queue, 1 a bad doorbell value.
    pub(crate) fn error(&mut self, what: u8) {
        self.raise(EventWord::error(what));
    }

    pub(crate) fn namespace_changed(&mut self) {
        self.raise(EventWord::NAMESPACE_CHANGED);
    }

    /// A request and the event that completes it.
    pub(crate) fn next(&mut self) -> Option<(u16, u32)> {
        let index = self.pending.iter().position(|e| e.kind() & self.silent == 0)?;
        let cid = self.requests.pop_front()?;
        let event = self.pending.remove(index);
        self.silent |= event.kind();
        Some((cid, event.0))
    }

    /// The log page of an event was read, without Retain Asynchronous Event.
    pub(crate) fn heard(&mut self, log_page: u8) {
        match log_page {
            0x01 => self.silent &= !EventWord::error(0).kind(),
            0x04 => self.silent &= !EventWord::NAMESPACE_CHANGED.kind(),
            _ => {}
        }
    }
}
