//! Who waits for an answer. The kernel has a place for one caller in each thread, and, where it was built so (it is, unless told
//! otherwise), a table of places for each task, by number; a receive says into which of them the caller goes.

use alloc::vec::Vec;

use super::env;
use super::ipc::Place;
use crate::kernel::Caller;

/// Callers that can be kept, and the last one. The kernel takes some pages for them out of this task's quota, once.
const CALLERS: usize = 512;

pub(super) struct Callers {
    /// Where the next caller goes.
    next: usize,
    /// Places that nobody is kept in, by number; none at all where the kernel has no such table.
    free: Vec<usize>,
    in_task: bool,
}

impl Callers {
    /// Before anybody can call.
    pub(super) fn new() -> Self {
        let first = env::get().first_free_reply_cap;
        let last = first + CALLERS - 1;
        // What is between lies on the same pages.
        let in_task = Place::of_task(first).is_there() && Place::of_task(last).is_there();
        let free = if in_task { (first + 1..=last).rev().collect() } else { Vec::new() };
        Self { next: first, free, in_task }
    }

    /// Where the last caller is, and the next one goes.
    pub(super) fn place(&self) -> Place {
        if self.in_task { Place::of_task(self.next) } else { Place::THREAD }
    }

    /// Leaves the last caller where it is.
    pub(super) fn keep(&mut self) -> Option<Caller> {
        let next = self.free.pop()?;
        Some(Caller(core::mem::replace(&mut self.next, next)))
    }

    /// Where a caller is that was kept. It is answered at once; then the place is free.
    pub(super) fn take(&mut self, caller: Caller) -> Place {
        self.free.push(caller.0);
        Place::of_task(caller.0)
    }
}
