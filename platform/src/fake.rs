//! Fakes that are stricter than the real thing: an IOMMU that faults on any address that is not mapped and never
//! uses an address twice, a pool that counts, a client that counts how often it was told.

extern crate std;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nvme_mem::{Window, heap};

use crate::{DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, Notify, PAGE};

/// Bus addresses start here: no address of this process, no guest address, above 32 bits.
const FIRST: u64 = 0x00ab_0000_0000;

/// An access by the controller to memory that it may not reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault(
    /// The first address that could not be reached.
    pub Iova,
);

struct Part {
    memory: Window,
    rights: DmaRights,
}

#[derive(Default)]
struct Space {
    /// Reserved ranges: start → length.
    reserved: BTreeMap<u64, u64>,
    /// Mapped parts by their start.
    parts: BTreeMap<u64, Part>,
    next: u64,
    faults: u32,
    quota: Option<u64>,
}

impl Space {
    fn reserve(&mut self, len: u64) -> Result<u64, DmaError> {
        if len == 0 || !len.is_multiple_of(PAGE as u64) {
            return Err(DmaError::BadRange);
        }
        let at = FIRST + self.next;
        // A page in between: running over the end is a fault, never a neighbour.
        let next = self.next.checked_add(len).and_then(|n| n.checked_add(PAGE as u64));
        self.next = next.filter(|n| *n < 1 << 56).ok_or(DmaError::NoAddresses)?;
        self.reserved.insert(at, len);
        Ok(at)
    }

    fn map(&mut self, at: u64, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        let len = memory.len() as u64;
        let page = PAGE as u64;
        if len == 0
            || !len.is_multiple_of(page)
            || !at.is_multiple_of(page)
            || !memory.address().is_multiple_of(PAGE)
        {
            return Err(DmaError::BadRange);
        }
        let (start, room) = self.reserved.range(..=at).next_back().ok_or(DmaError::BadRange)?;
        if at - start >= *room || len > room - (at - start) {
            return Err(DmaError::BadRange);
        }
        let clash =
            self.parts.range(..at + len).next_back().is_some_and(|(s, p)| s + p.memory.len() as u64 > at);
        if clash {
            return Err(DmaError::BadRange);
        }
        if let Some(left) = &mut self.quota {
            *left = left.checked_sub(len).ok_or(DmaError::NoMemory)?;
        }
        self.parts.insert(at, Part { memory: memory.clone(), rights });
        Ok(())
    }

    fn unmap(&mut self, at: u64, len: u64) -> Result<(), DmaError> {
        if self.reserved.get(&at) != Some(&len) {
            return Err(DmaError::BadRange);
        }
        self.reserved.remove(&at);
        let gone: Vec<u64> = self.parts.range(at..at + len).map(|(s, _)| *s).collect();
        for start in gone {
            if let (Some(part), Some(left)) = (self.parts.remove(&start), &mut self.quota) {
                *left += part.memory.len() as u64;
            }
        }
        Ok(())
    }

    fn resolve(&mut self, at: u64, len: usize, write: bool) -> Result<(Window, usize), Fault> {
        let found = self.parts.range(..=at).next_back().and_then(|(start, part)| {
            let offset = (at - start) as usize;
            let room = part.memory.len().checked_sub(offset).filter(|r| *r > 0)?;
            if write && part.rights == DmaRights::Read {
                return None;
            }
            let now = room.min(len);
            part.memory.sub(offset, now).ok().map(|w| (w, now))
        });
        found.ok_or_else(|| {
            self.faults += 1;
            Fault(Iova(at))
        })
    }
}

/// An IOMMU in front of one fake controller. Its addresses are nobody else's, and none is used twice. Clones are
/// the same IOMMU.
#[derive(Clone, Default)]
pub struct FakeIommu(Arc<Mutex<Space>>);

impl FakeIommu {
    /// One through which nothing can be reached yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that maps no more than `bytes` at a time; then it says [`DmaError::NoMemory`].
    pub fn with_quota(bytes: u64) -> Self {
        let iommu = Self::default();
        iommu.space().quota = Some(bytes);
        iommu
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads as the controller would. A fault is counted; what lies before it was read.
    pub fn read(&self, at: Iova, into: &mut [u8]) -> Result<(), Fault> {
        let (mut at, mut into) = (at.0, into);
        while !into.is_empty() {
            let (window, now) = self.space().resolve(at, into.len(), false)?;
            let (head, tail) = into.split_at_mut(now);
            window.read(0, head).map_err(|_| Fault(Iova(at)))?;
            (at, into) = (at + now as u64, tail);
        }
        Ok(())
    }

    /// Writes as the controller would. A fault is counted; what lies before it was written.
    pub fn write(&self, at: Iova, from: &[u8]) -> Result<(), Fault> {
        let (mut at, mut from) = (at.0, from);
        while !from.is_empty() {
            let (window, now) = self.space().resolve(at, from.len(), true)?;
            let (head, tail) = from.split_at(now);
            window.write(0, head).map_err(|_| Fault(Iova(at)))?;
            (at, from) = (at + now as u64, tail);
        }
        Ok(())
    }

    /// The memory that the controller reaches at `at`, when one mapping holds all of its `len` bytes.
    pub fn window(&self, at: Iova, len: usize, write: bool) -> Result<Window, Fault> {
        let (window, now) = self.space().resolve(at.0, len, write)?;
        if now == len { Ok(window) } else { Err(Fault(Iova(at.0 + now as u64))) }
    }

    /// How many accesses faulted.
    pub fn faults(&self) -> u32 {
        self.space().faults
    }

    /// How many bytes the controller can reach.
    pub fn mapped(&self) -> u64 {
        self.space().parts.values().map(|p| p.memory.len() as u64).sum()
    }

    /// How many ranges are reserved, mapped or not.
    pub fn reservations(&self) -> usize {
        self.space().reserved.len()
    }

    /// A pool whose memory is behind this IOMMU.
    pub fn pool(&self) -> FakePool {
        FakePool { iommu: self.clone(), outstanding: Arc::default() }
    }
}

impl DmaSpace for FakeIommu {
    fn reserve(&mut self, memory: &Window, _: DmaRights) -> Result<Iova, DmaError> {
        self.space().reserve(memory.len() as u64).map(Iova)
    }

    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        self.space().map(at.0, memory, rights)
    }

    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        self.space().unmap(at.0, len)
    }
}

/// The driver's own memory behind a [`FakeIommu`]. Memory that was recycled can no longer be reached. Clones are
/// the same pool.
#[derive(Clone)]
pub struct FakePool {
    iommu: FakeIommu,
    outstanding: Arc<AtomicUsize>,
}

impl FakePool {
    /// How many pages are allocated and not recycled.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }
}

impl DmaPool for FakePool {
    #[expect(clippy::disallowed_methods, reason = "the pool of the fake")]
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        let window = pages.checked_mul(PAGE).and_then(heap).ok_or(DmaError::NoMemory)?;
        let len = window.len() as u64;
        let mut space = self.iommu.space();
        let at = space.reserve(len)?;
        if let Err(error) = space.map(at, &window, DmaRights::ReadWrite) {
            let _ = space.unmap(at, len);
            return Err(error);
        }
        self.outstanding.fetch_add(pages, Ordering::Relaxed);
        Ok(DriverMemory::from_pool(window, Iova(at)))
    }

    fn recycle(&mut self, memory: DriverMemory) {
        let len = memory.window().len();
        if self.iommu.space().unmap(memory.iova().0, len as u64).is_ok() {
            self.outstanding.fetch_sub(len / PAGE, Ordering::Relaxed);
        }
    }
}

/// A client that counts how often it was told. Clones are the same client.
#[derive(Clone, Default)]
pub struct FakeNotify {
    used: Arc<AtomicU32>,
    broken: Arc<AtomicU32>,
}

impl FakeNotify {
    /// One that was told nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often it was told that the used ring has news.
    pub fn times_used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// How often it was told that the queue is broken.
    pub fn times_broken(&self) -> u32 {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Notify for FakeNotify {
    fn used(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    fn broken(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_iommu_faults_on_what_is_not_mapped() {
        let mut iommu = FakeIommu::new();
        let memory = heap(2 * PAGE).unwrap();
        let at = iommu.reserve(&heap(3 * PAGE).unwrap(), DmaRights::ReadWrite).unwrap();
        assert!(iommu.read(at, &mut [0; 1]).is_err(), "reserved is not mapped");
        iommu.map(at, &memory, DmaRights::ReadWrite).unwrap();
        iommu.write(Iova(at.0 + PAGE as u64 - 1), &[7, 8]).unwrap();
        let mut two = [0; 2];
        memory.read(PAGE - 1, &mut two).unwrap();
        assert_eq!(two, [7, 8]);
        let end = at.0 + 2 * PAGE as u64;
        assert_eq!(iommu.read(Iova(end - 1), &mut two), Err(Fault(Iova(end))));
        assert_eq!(iommu.faults(), 2);
        iommu.unmap(at, 3 * PAGE as u64).unwrap();
        assert!(iommu.read(at, &mut two).is_err());
        assert_eq!((iommu.mapped(), iommu.reservations()), (0, 0));
        let next = iommu.reserve(&heap(PAGE).unwrap(), DmaRights::Read).unwrap();
        assert_ne!(next, at, "no address is used twice");
    }

    #[test]
    fn the_iommu_refuses_writes_to_memory_that_is_read_only() {
        let mut iommu = FakeIommu::new();
        let memory = heap(PAGE).unwrap();
        let at = iommu.reserve(&memory, DmaRights::Read).unwrap();
        iommu.map(at, &memory, DmaRights::Read).unwrap();
        assert!(iommu.read(at, &mut [0; 8]).is_ok() && iommu.write(at, &[0; 8]).is_err());
    }

    #[test]
    fn the_iommu_refuses_overlaps_and_what_was_not_reserved() {
        let mut iommu = FakeIommu::new();
        let memory = heap(2 * PAGE).unwrap();
        let at = iommu.reserve(&memory, DmaRights::Read).unwrap();
        let second = Iova(at.0 + PAGE as u64);
        assert_eq!(iommu.map(second, &memory, DmaRights::Read), Err(DmaError::BadRange));
        iommu.map(at, &memory, DmaRights::Read).unwrap();
        let page = memory.sub(0, PAGE).unwrap();
        assert_eq!(iommu.map(second, &page, DmaRights::Read), Err(DmaError::BadRange));
        assert_eq!(iommu.unmap(at, PAGE as u64), Err(DmaError::BadRange));
    }

    #[test]
    fn the_pool_counts_and_recycled_memory_is_out_of_reach() {
        let iommu = FakeIommu::with_quota(3 * PAGE as u64);
        let mut pool = iommu.pool();
        let memory = pool.allocate(2).unwrap();
        assert_eq!(pool.allocate(2).err(), Some(DmaError::NoMemory));
        let at = memory.iova();
        assert_eq!(pool.outstanding(), 2);
        iommu.write(at, &[1; 100]).unwrap();
        pool.recycle(memory);
        assert_eq!(pool.outstanding(), 0);
        assert!(iommu.write(at, &[1; 100]).is_err());
    }
}
