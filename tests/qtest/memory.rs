//! The machine's memory, which is a file: who has which pages of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvme_linux::clientmem::map_shared;
use nvme_platform::{PAGE, Window};

/// What nobody takes: low memory, where a PC has its legacy.
const FIRST: u64 = 1 << 20;

/// All of it. Clones are the same memory.
#[derive(Clone)]
pub(crate) struct Memory {
    all: Window,
    /// Free ranges: start and length. None adjoins another.
    free: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Memory {
    pub(crate) fn new(file: &File, bytes: u64) -> Self {
        let all = map_shared(file.as_fd(), 0, bytes as usize).unwrap();
        Self { all, free: Arc::new(Mutex::new([(FIRST, bytes - FIRST)].into())) }
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Zeroed pages in a row. A page in between belongs to nobody.
    pub(crate) fn take(&self, pages: usize) -> Option<Window> {
        let len = (pages * PAGE) as u64;
        let mut free = self.free();
        let (start, room) = free.iter().find(|(_, room)| **room > len).map(|(s, r)| (*s, *r))?;
        free.remove(&start);
        let gap = len + PAGE as u64;
        if room > gap {
            free.insert(start + gap, room - gap);
        }
        let window = self.all.sub(start as usize, len as usize).ok()?;
        window.fill(0, len as usize, 0).ok()?;
        Some(window)
    }

    /// Takes back what [`take`](Self::take) gave.
    pub(crate) fn give(&self, window: &Window) {
        let (mut start, mut len) = (self.address(window), (window.len() + PAGE) as u64);
        let mut free = self.free();
        if let Some((before, room)) = free.range(..start).next_back().map(|(s, r)| (*s, *r))
            && before + room == start
        {
            free.remove(&before);
            (start, len) = (before, len + room);
        }
        if let Some(room) = free.remove(&(start + len)) {
            len += room;
        }
        free.insert(start, len);
    }

    /// The physical address of a part of this memory.
    pub(crate) fn address(&self, window: &Window) -> u64 {
        let offset = window.address().checked_sub(self.all.address()).expect("memory of the machine");
        assert!(offset + window.len() <= self.all.len(), "not memory of the machine");
        offset as u64
    }

    pub(crate) fn all(&self) -> &Window {
        &self.all
    }
}
