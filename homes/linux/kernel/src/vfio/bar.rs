//! BAR 0: registers and doorbells.
//!
//! A device that is pulled out answers all ones, or the kernel answers for it with SIGBUS: then the window's memory is
//! replaced (see [`memory`](crate::memory)) and the window says so.
#![expect(unsafe_code, reason = "registers are volatile memory that a device changes")]

use std::ptr;
use std::sync::atomic::{Ordering, fence};

use nvme_mem::Window;
use nvme_platform::{QueueDoorbells, Registers};

/// The first doorbell register (NVMe over PCIe Transport 1.0, 3.1.2).
const DOORBELLS: u64 = 0x1000;
/// The least that a controller's BAR 0 can be: all registers, and the admin queue's doorbells.
pub(super) const LEAST: u64 = DOORBELLS + 8;
/// The most of it that is mapped: the doorbells of all pairs at any sensible stride.
pub(super) const MOST: u64 = 16 << 20;

/// A register file.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    window: Window,
}

impl Bar {
    pub(super) fn new(window: Window) -> Self {
        Self { window }
    }

    /// The address of a register. `None`: outside, or not at a multiple of four.
    fn register(&self, offset: u64) -> Option<*mut u32> {
        let offset = usize::try_from(offset).ok().filter(|at| at.is_multiple_of(4))?;
        let inside = offset.checked_add(4).is_some_and(|end| end <= self.window.len());
        inside.then(|| ptr::with_exposed_provenance_mut(self.window.address() + offset))
    }

    fn read(&self, offset: u64) -> u32 {
        let Some(register) = self.register(offset) else { return u32::MAX };
        // SAFETY: inside the window, aligned, and mapped as long as the window is there.
        let value = unsafe { register.read_volatile() };
        // What replaces a device that is gone reads as something else.
        if self.window.failed() { u32::MAX } else { value }
    }

    fn write(&self, offset: u64, value: u32) {
        let Some(register) = self.register(offset) else { return };
        // What was written to queues before must be there when the device learns of it.
        fence(Ordering::SeqCst);
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { register.write_volatile(value) };
    }

    /// The doorbells of a queue pair, if they lie in the BAR.
    pub(super) fn doorbells(&self, queue: u16, stride: u32) -> Option<PairDoorbells> {
        let tail = DOORBELLS + 2 * u64::from(queue) * u64::from(stride);
        let head = tail + u64::from(stride);
        (self.register(tail).is_some() && self.register(head).is_some()).then(|| PairDoorbells {
            bar: self.clone(),
            tail,
            head,
        })
    }

    /// Replaces the device by memory; everything reads as all ones from then on.
    pub(super) fn withdraw(&self) {
        crate::memory::withdraw(&self.window);
    }
}

impl Registers for Bar {
    fn read32(&self, offset: u32) -> u32 {
        self.read(offset.into())
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.write(offset.into(), value);
    }
}

/// The doorbells of one queue pair.
#[derive(Debug)]
pub(super) struct PairDoorbells {
    bar: Bar,
    tail: u64,
    head: u64,
}

impl QueueDoorbells for PairDoorbells {
    fn submission_tail(&mut self, tail: u16) {
        self.bar.write(self.tail, tail.into());
    }

    fn completion_head(&mut self, head: u16) {
        self.bar.write(self.head, head.into());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn bar(len: usize) -> (Bar, Window) {
        let window = nvme_mem::heap(len).unwrap();
        (Bar::new(window.clone()), window)
    }

    #[test]
    fn registers_outside_read_as_all_ones() {
        let (mut bar, window) = bar(0x2000);
        assert_eq!(bar.read32(0x1ffc), 0);
        for offset in [0x2000, 0x1ffe, 2, u32::MAX] {
            assert_eq!(bar.read32(offset), u32::MAX);
            bar.write32(offset, 0x55);
        }
        bar.write32(0x14, 7);
        assert_eq!((bar.read32(0x14), window.read_value::<u32>(0x14)), (7, Ok(7)));
    }

    #[test]
    fn a_window_that_failed_reads_as_all_ones() {
        let (bar, window) = bar(0x2000);
        assert_eq!(bar.read64(0), 0);
        window.owner().fail();
        assert_eq!(bar.read64(0), u64::MAX);
    }

    #[test]
    fn registers_that_vanish_read_as_all_ones_and_writes_to_them_hurt_nobody() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x2000).unwrap();
        let window = crate::memory::device(file.as_fd(), 0, 0x2000).unwrap();
        let mut bar = Bar::new(window);
        let mut pair = bar.doorbells(1, 4).unwrap();
        bar.write32(0x14, 7);
        assert_eq!(bar.read32(0x14), 7);
        // What the kernel does to the mapping of a function that is pulled out: each access is a SIGBUS.
        file.set_len(0).unwrap();
        pair.submission_tail(3);
        pair.completion_head(3);
        bar.write32(0x14, 9);
        assert_eq!((bar.read32(0x14), bar.read32(0x1c), bar.read64(0)), (u32::MAX, u32::MAX, u64::MAX));
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_bar_that_was_withdrawn_reads_as_all_ones() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x2000).unwrap();
        let mut bar = Bar::new(crate::memory::device(file.as_fd(), 0, 0x2000).unwrap());
        bar.withdraw();
        bar.write32(0x14, 9);
        assert_eq!(bar.read32(0x14), u32::MAX);
        // The device has nothing of it.
        assert!(std::fs::read(crate::memory::proc_path(file.as_fd())).unwrap().iter().all(|b| *b == 0));
    }

    #[test]
    fn doorbells_lie_at_their_stride_or_are_refused() {
        let (bar, window) = bar(0x2000);
        let mut pair = bar.doorbells(3, 8).unwrap();
        pair.submission_tail(5);
        pair.completion_head(9);
        assert_eq!(window.read_value::<u32>(0x1000 + 6 * 8), Ok(5));
        assert_eq!(window.read_value::<u32>(0x1000 + 7 * 8), Ok(9));
        assert!(bar.doorbells(511, 4).is_some());
        assert!(bar.doorbells(512, 4).is_none());
        assert!(bar.doorbells(u16::MAX, u32::MAX).is_none());
    }
}
