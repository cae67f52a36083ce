//! QEMU's VT-d IOMMU, programmed as an operating system does: root table, context tables, one table of pages for each
//! device. Bus addresses are above 4 GiB, nobody's physical address, and none is used twice.
//!
//! Clauses: Intel Virtualization Technology for Directed I/O, revision 3.3.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvme_platform::{DmaError, DmaRights, DmaSpace, Iova, PAGE, Window};

use crate::memory::Memory;
use crate::qtest::Qtest;

const REGISTERS: u64 = 0xfed9_0000;
// 11.4.
const CAP: u64 = 0x08;
const ECAP: u64 = 0x10;
const GCMD: u64 = 0x18;
const GSTS: u64 = 0x1c;
const RTADDR: u64 = 0x20;
const CCMD: u64 = 0x28;
const FSTS: u64 = 0x34;

const FIRST: u64 = 0x12_0000_0000;
const END: u64 = 1 << 39;
const PRESENT: u64 = 1;
const READ: u64 = 1;
const WRITE: u64 = 2;

/// The unit. Clones are the same.
#[derive(Clone)]
pub(crate) struct Iommu {
    qtest: Qtest,
    memory: Memory,
    root: Window,
    iotlb: u64,
    faults: u64,
}

/// A transaction that the unit blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) reason: u8,
}

impl Iommu {
    pub(crate) fn new(qtest: Qtest, memory: Memory) -> Self {
        let root = memory.take(1).unwrap();
        let (cap, ecap) = (qtest.read64(REGISTERS + CAP), qtest.read64(REGISTERS + ECAP));
        assert!(cap >> 8 & 0b10 != 0, "three-level tables (CAP.SAGAW)");
        let iotlb = (ecap >> 8 & 0x3ff) * 16 + 8;
        let faults = (cap >> 24 & 0x3ff) * 16;
        qtest.write64(REGISTERS + RTADDR, memory.address(&root));
        let unit = Self { qtest, memory, root, iotlb, faults };
        unit.command(30);
        unit.invalidate();
        unit.command(31);
        unit
    }

    /// A one-shot bit of GCMD, and the same bit of GSTS; translation stays as it is.
    fn command(&self, bit: u32) {
        let enabled = self.qtest.read32(REGISTERS + GSTS) & 1 << 31;
        self.qtest.write32(REGISTERS + GCMD, enabled | 1 << bit);
        assert!(self.qtest.read32(REGISTERS + GSTS) & 1 << bit != 0, "GSTS bit {bit}");
    }

    /// Everything that was cached, of all domains (11.4.5.1, 11.4.6.1).
    fn invalidate(&self) {
        self.qtest.write64(REGISTERS + CCMD, 1 << 63 | 1 << 61);
        self.qtest.write64(REGISTERS + self.iotlb, 1 << 63 | 1 << 60);
        let state = self.qtest.read64(REGISTERS + self.iotlb);
        assert!(state >> 63 == 0 || state == u64::MAX, "the invalidation ended, or the machine did");
    }

    /// The first fault that is recorded; it is forgotten then (11.4.14).
    pub(crate) fn fault(&self) -> Option<Fault> {
        let record = REGISTERS + self.faults;
        let high = self.qtest.read64(record + 8);
        let fault = Fault { at: self.qtest.read64(record), reason: (high >> 32) as u8 };
        if high >> 63 == 0 {
            return None;
        }
        self.qtest.write32(record + 12, 1 << 31);
        self.qtest.write32(REGISTERS + FSTS, 1);
        Some(fault)
    }

    /// A domain for function 0 of a bus, in which nothing can be reached yet (9.1, 9.3).
    pub(crate) fn attach(&self, bus: u8) -> Domain {
        let (context, table) = (self.memory.take(1).unwrap(), self.memory.take(1).unwrap());
        let top = self.memory.address(&table);
        // Three levels, and a domain identifier.
        let high = u64::from(bus) << 8 | 1;
        context.write_value(0, &[top | PRESENT, high]).unwrap();
        let at = usize::from(bus) * 16;
        self.root.write_value(at, &[self.memory.address(&context) | PRESENT, 0]).unwrap();
        self.invalidate();
        let pages = Pages { table, next: FIRST, reserved: BTreeMap::new(), mapped: BTreeMap::new() };
        Domain { unit: self.clone(), context, pages: Arc::new(Mutex::new(pages)) }
    }
}

struct Pages {
    table: Window,
    next: u64,
    /// Start and length.
    reserved: BTreeMap<u64, u64>,
    /// Start and memory.
    mapped: BTreeMap<u64, Window>,
}

/// What one device can reach. Clones are the same domain.
#[derive(Clone)]
pub(crate) struct Domain {
    unit: Iommu,
    context: Window,
    pages: Arc<Mutex<Pages>>,
}

impl Domain {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry for a page: which table, and the offset there. Tables in between are made.
    fn entry(&self, pages: &Pages, at: u64) -> (Window, usize) {
        let memory = &self.unit.memory;
        let mut table = pages.table.clone();
        for level in [2, 1] {
            let offset = (at >> (12 + 9 * level) & 511) as usize * 8;
            let entry: u64 = table.read_value(offset).unwrap();
            table = if entry == 0 {
                let next = memory.take(1).unwrap();
                table.write_value(offset, &(memory.address(&next) | READ | WRITE)).unwrap();
                next
            } else {
                memory.all().sub((entry & !0xfff) as usize, PAGE).unwrap()
            };
        }
        (table, (at >> 12 & 511) as usize * 8)
    }

    fn set(&self, pages: &Pages, at: u64, value: u64) {
        let (table, offset) = self.entry(pages, at);
        table.write_value(offset, &value).unwrap();
    }

    /// The memory that the device reaches at an address.
    pub(crate) fn window(&self, at: u64, len: usize) -> Option<Window> {
        let pages = self.pages();
        let (start, window) = pages.mapped.range(..=at).next_back()?;
        window.sub((at - start) as usize, len).ok()
    }

    /// How many ranges are reserved.
    pub(crate) fn reservations(&self) -> usize {
        self.pages().reserved.len()
    }

    /// Takes everything away, for good.
    pub(crate) fn close(&self) {
        self.context.write_value(0, &[0_u64, 0]).unwrap();
        self.unit.invalidate();
        let mut pages = self.pages();
        pages.reserved.clear();
        pages.mapped.clear();
        pages.next = END;
    }
}

impl DmaSpace for Domain {
    fn reserve(&mut self, memory: &Window, _: DmaRights) -> Result<Iova, DmaError> {
        let len = memory.len() as u64;
        if len == 0 || !len.is_multiple_of(PAGE as u64) {
            return Err(DmaError::BadRange);
        }
        let mut pages = self.pages();
        let at = pages.next;
        // A page in between: running over the end is a fault, never a neighbour.
        let next = at.checked_add(len).map(|end| end + PAGE as u64).filter(|next| *next < END);
        pages.next = next.ok_or(DmaError::NoAddresses)?;
        pages.reserved.insert(at, len);
        Ok(Iova(at))
    }

    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        let physical = self.unit.memory.address(memory);
        let mut pages = self.pages();
        let end = at.0 + memory.len() as u64;
        let inside = pages.reserved.range(..=at.0).next_back().is_some_and(|(s, len)| end <= s + len);
        let below = pages.mapped.range(..end).next_back();
        let clash = below.is_some_and(|(start, w)| start + w.len() as u64 > at.0);
        if !inside || clash || memory.is_empty() || (at.0 | physical | memory.len() as u64) & 0xfff != 0 {
            return Err(DmaError::BadRange);
        }
        let bits = if rights == DmaRights::ReadWrite { READ | WRITE } else { READ };
        for offset in (0..memory.len() as u64).step_by(PAGE) {
            self.set(&pages, at.0 + offset, (physical + offset) | bits);
        }
        pages.mapped.insert(at.0, memory.clone());
        // Entries that were not present are not cached (CAP.CM = 0).
        Ok(())
    }

    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        let mut pages = self.pages();
        if pages.reserved.get(&at.0) != Some(&len) {
            return Err(DmaError::BadRange);
        }
        pages.reserved.remove(&at.0);
        let gone: Vec<_> = pages.mapped.extract_if(at.0..at.0 + len, |_, _| true).collect();
        for (start, window) in gone {
            for offset in (0..window.len() as u64).step_by(PAGE) {
                self.set(&pages, start + offset, 0);
            }
        }
        self.unit.invalidate();
        Ok(())
    }
}
