//! BAR 0: registers and doorbells.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use nvme_platform::{QueueDoorbells, Registers};

use super::traits::Mmio;

/// The first doorbell register (NVMe over PCIe Transport 1.0, 3.1.2).
pub(super) const DOORBELLS: usize = 0x1000;

/// A register file, until it is withdrawn.
#[derive(Clone)]
pub(super) struct Bar {
    registers: Arc<dyn Mmio>,
    withdrawn: Arc<AtomicBool>,
}

impl Bar {
    pub(super) fn new(registers: Arc<dyn Mmio>) -> Self {
        Self { registers, withdrawn: Arc::default() }
    }

    /// Everything reads as all ones from here on, and nothing is written any more.
    pub(super) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    fn there(&self) -> Option<&dyn Mmio> {
        (!self.withdrawn.load(Ordering::Relaxed)).then_some(&*self.registers)
    }

    /// The doorbells of a queue pair, if they lie in the BAR.
    pub(super) fn doorbells(&self, queue: u16, stride: u32) -> Option<PairDoorbells> {
        let stride = usize::try_from(stride).ok().filter(|stride| stride.is_multiple_of(4) && *stride > 0)?;
        let tail = usize::from(queue).checked_mul(2 * stride)?.checked_add(DOORBELLS)?;
        let head = tail.checked_add(stride)?;
        (head.checked_add(4)? <= self.registers.len()).then(|| PairDoorbells {
            bar: self.clone(),
            tail,
            head,
        })
    }
}

impl Registers for Bar {
    fn read32(&self, offset: u32) -> u32 {
        self.there().map_or(u32::MAX, |registers| registers.read32(offset as usize))
    }

    fn write32(&mut self, offset: u32, value: u32) {
        if let Some(registers) = self.there() {
            registers.write32(offset as usize, value);
        }
    }
}

/// The doorbells of one queue pair.
pub(super) struct PairDoorbells {
    bar: Bar,
    tail: usize,
    head: usize,
}

impl QueueDoorbells for PairDoorbells {
    fn submission_tail(&mut self, tail: u16) {
        if let Some(registers) = self.bar.there() {
            registers.write32(self.tail, tail.into());
        }
    }

    fn completion_head(&mut self, head: u16) {
        if let Some(registers) = self.bar.there() {
            registers.write32(self.head, head.into());
        }
    }
}
