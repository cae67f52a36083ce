//! Doorbells that are written to memory, and to the register only if the controller waits for that (Doorbell Buffer Config, Base 5.8 and
//! appendix B.5). A doorbell write to a virtual controller leaves the virtual machine; a word in memory does not.
//!
//! Both pages are the driver's own. What the controller writes there decides one thing, whether the register is written as well: one that
//! never asks for it is served as one that does not answer.

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use nvme_platform::{DmaError, DmaPool, DriverMemory, Iova, PAGE, QueueDoorbells, Time, Window};

/// The two pages of a controller: where doorbells are written, and from which value on the controller wants to be told.
pub(super) struct DoorbellBuffers {
    doorbells: DriverMemory,
    events: DriverMemory,
    /// The distance of two doorbells.
    stride: usize,
    /// Whether the controller was told of them since it was reset, and took them.
    on: bool,
}

impl DoorbellBuffers {
    /// Pages for so many queue pairs beside the admin queue's; `None` where they do not hold that many.
    pub(super) fn new(pool: &mut dyn DmaPool, pairs: u16, stride: u32) -> Result<Option<Self>, DmaError> {
        let Some(stride) = fits(pairs, stride) else { return Ok(None) };
        let doorbells = pool.allocate(1)?;
        match pool.allocate(1) {
            Ok(events) => Ok(Some(Self { doorbells, events, stride, on: false })),
            Err(why) => {
                pool.recycle(doorbells);
                Err(why)
            }
        }
    }

    /// Whether so many pairs have a place there.
    pub(super) fn holds(&self, pairs: u16, stride: u32) -> bool {
        fits(pairs, stride) == Some(self.stride)
    }

    /// Where they are, for the command.
    pub(super) fn places(&self) -> (Iova, Iova) {
        (self.doorbells.iova(), self.events.iova())
    }

    /// The controller answered the command.
    pub(super) fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// The controller was seen to be disabled: it knows nothing of them, and begins with zeroes.
    pub(super) fn forget(&mut self) {
        self.on = false;
        for page in [&self.doorbells, &self.events] {
            // All of a page is inside of it.
            let _ = page.window().fill(0, PAGE, 0);
        }
    }

    /// A pair is to be created that the controller does not have: it begins with zeroes.
    pub(super) fn clear(&self, id: u16) {
        for page in [&self.doorbells, &self.events] {
            let _ = page.window().fill(self.place(id), 2 * self.stride, 0);
        }
    }

    fn place(&self, id: u16) -> usize {
        2 * usize::from(id) * self.stride
    }

    /// A pair's doorbells by way of the pages, where the controller has them.
    pub(super) fn around(&self, id: u16, registers: Box<dyn QueueDoorbells>) -> Box<dyn QueueDoorbells> {
        if !self.on {
            return registers;
        }
        let at = self.place(id);
        let slot = |at| Slot { at, last: 0 };
        Box::new(Buffered {
            registers,
            doorbells: self.doorbells.window().clone(),
            events: self.events.window().clone(),
            tail: slot(at),
            head: slot(at + self.stride),
        })
    }
}

/// The distance of two doorbells, if a page holds those of so many pairs and the admin queue's.
fn fits(pairs: u16, stride: u32) -> Option<usize> {
    let stride = usize::try_from(stride).ok().filter(|stride| *stride >= 4 && stride % 4 == 0)?;
    let bytes = (2 * (usize::from(pairs) + 1)).checked_mul(stride)?;
    (bytes <= PAGE).then_some(stride)
}

/// One doorbell.
struct Slot {
    at: usize,
    /// What was written last.
    last: u16,
}

impl Slot {
    /// Writes a value. Whether the register is to be written, too.
    fn write(&mut self, doorbells: &Window, events: &Window, value: u16) -> bool {
        let last = core::mem::replace(&mut self.last, value);
        // Released: what was written to the queue is seen before.
        let written = doorbells.store32(self.at, value.into());
        // The value has to be seen by whoever writes an event after this looks for one: the other side writes its event and then looks at
        // the doorbell once more, so one of both sees what the other wrote.
        fence(Ordering::SeqCst);
        match (written, events.load32(self.at)) {
            (Ok(()), Ok(event)) => passes(event as u16, last, value),
            // There is no such word: then the register is what there is.
            _ => true,
        }
    }
}

/// Whether the step from one value to another passes the one that was asked for. Values wrap at a queue's end, not at 2^16: a step over
/// that end passes more than it seems to, and the register is written once more than it had to be.
fn passes(event: u16, last: u16, value: u16) -> bool {
    value.wrapping_sub(event).wrapping_sub(1) < value.wrapping_sub(last)
}

struct Buffered {
    registers: Box<dyn QueueDoorbells>,
    doorbells: Window,
    events: Window,
    tail: Slot,
    head: Slot,
}

impl QueueDoorbells for Buffered {
    fn submission_tail(&mut self, tail: u16) {
        if self.tail.write(&self.doorbells, &self.events, tail) {
            self.registers.submission_tail(tail);
        }
    }

    fn completion_head(&mut self, head: u16) {
        if self.head.write(&self.doorbells, &self.events, head) {
            self.registers.completion_head(head);
        }
    }

    fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        self.registers.run(budget, now)
    }

    fn runs_here(&self) -> bool {
        self.registers.runs_here()
    }

    fn copies_here(&self) -> bool {
        self.registers.copies_here()
    }

    fn waits_for_storage(&self) -> bool {
        self.registers.waits_for_storage()
    }

    fn set_apart(&mut self, apart: bool) {
        self.registers.set_apart(apart);
    }
}

#[cfg(test)]
#[path = "doorbell_buffers_tests.rs"]
mod tests;
