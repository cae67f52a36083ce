//! Dataspaces, the capability slots that name them, and where they are mapped for DMA.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use nvme_platform::Window;

use crate::kernel::{Cap, L4Error};

pub(super) struct Memory {
    pub(super) window: Window,
    /// How much of it lies together, from any offset.
    pub(super) together: u64,
}

pub(super) struct Mapped {
    pub(super) space: Cap,
    pub(super) object: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) at: u64,
}

#[derive(Default)]
pub(super) struct Dma {
    pub(super) next: usize,
    /// Slots, and the objects in them.
    pub(super) slots: BTreeMap<Cap, u64>,
    pub(super) memory: BTreeMap<u64, Memory>,
    pub(super) spaces: BTreeMap<Option<u32>, Cap>,
    pub(super) unassigned: Vec<Option<u32>>,
    pub(super) mapped: Vec<Mapped>,
    /// What is answered when a part is mapped already; none: it is mapped again.
    pub(super) collision: Option<L4Error>,
}

impl Dma {
    pub(super) fn slot(&mut self, object: u64) -> Cap {
        self.next += 1;
        let cap = Cap(self.next << 12);
        self.slots.insert(cap, object);
        cap
    }

    pub(super) fn object(&self, cap: Cap) -> u64 {
        match self.slots.get(&cap) {
            Some(object) => *object,
            None => panic!("slot {:#x} is not in use", cap.0),
        }
    }
}
