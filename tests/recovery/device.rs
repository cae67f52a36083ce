//! A software controller whose place on the bus can be made to fail, and that keeps count of what it can reach.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nvme_platform::{
    Bus, CutOff, Device, DeviceError, DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova,
    QueueDoorbells, Registers, Window,
};
use nvme_soft::SoftDevice;

/// What a test can do to a device, and see of it.
#[derive(Default)]
pub(crate) struct Knobs {
    pub(crate) cut_off_fails: AtomicBool,
    pub(crate) reset_fails: AtomicBool,
    /// A function reset brings CSTS.RDY back to the truth.
    pub(crate) reset_heals: AtomicBool,
    pub(crate) unmap_fails: AtomicBool,
    /// So many calls of `map` succeed.
    pub(crate) maps_left: Mutex<Option<usize>>,
    /// So many bytes may be locked.
    pub(crate) lock_limit: Mutex<Option<u64>>,
    /// The lengths of what `map` was asked for.
    pub(crate) steps: Mutex<Vec<usize>>,
    /// What of client memory is reserved: address and how many bytes of it are mapped.
    pub(crate) mapped: Mutex<BTreeMap<u64, u64>>,
    pub(crate) maps: AtomicUsize,
    pub(crate) unmaps: AtomicUsize,
    pub(crate) function_resets: AtomicUsize,
    pub(crate) cut_offs: AtomicUsize,
    /// Values written to CC.
    pub(crate) configured: Mutex<Vec<u32>>,
    /// Pages of the driver's own.
    pub(crate) pool: AtomicUsize,
    /// So many bytes of the driver's own may be locked.
    pub(crate) pool_limit: Mutex<Option<u64>>,
}

impl Knobs {
    pub(crate) fn set(flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
    }

    /// How many regions are reserved, and how many bytes mapped.
    pub(crate) fn reach(&self) -> (usize, u64) {
        let mapped = self.mapped.lock().unwrap();
        (mapped.len(), mapped.values().sum())
    }

    pub(crate) fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }
}

pub(crate) struct TestDevice {
    pub(crate) soft: SoftDevice,
    pub(crate) knobs: Arc<Knobs>,
}

impl Registers for TestDevice {
    fn read32(&self, offset: u32) -> u32 {
        self.soft.read32(offset)
    }
    fn write32(&mut self, offset: u32, value: u32) {
        if offset == 0x14 {
            self.knobs.configured.lock().unwrap().push(value);
        }
        self.soft.write32(offset, value);
    }
}

impl DmaSpace for TestDevice {
    fn reserve(&mut self, memory: &Window, rights: DmaRights) -> Result<Iova, DmaError> {
        let at = self.soft.dma().reserve(memory, rights)?;
        self.knobs.mapped.lock().unwrap().insert(at.0, 0);
        Ok(at)
    }
    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        if let Some(left) = &mut *self.knobs.maps_left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or(DmaError::NoMemory)?;
        }
        let need = self.knobs.reach().1 + memory.len() as u64;
        if let Some(allowed) = self.knobs.lock_limit.lock().unwrap().filter(|limit| need > *limit) {
            return Err(DmaError::LockLimit { need, allowed });
        }
        self.knobs.maps.fetch_add(1, Ordering::SeqCst);
        self.knobs.steps.lock().unwrap().push(memory.len());
        self.soft.dma().map(at, memory, rights)?;
        let mut mapped = self.knobs.mapped.lock().unwrap();
        if let Some((_, bytes)) = mapped.range_mut(..=at.0).next_back() {
            *bytes += memory.len() as u64;
        }
        Ok(())
    }
    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        self.knobs.unmaps.fetch_add(1, Ordering::SeqCst);
        if self.knobs.unmap_fails.load(Ordering::SeqCst) {
            return Err(DmaError::NoMemory);
        }
        self.soft.dma().unmap(at, len)?;
        self.knobs.mapped.lock().unwrap().remove(&at.0);
        Ok(())
    }
}

impl DmaPool for TestDevice {
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        let need = (Knobs::count(&self.knobs.pool) + pages) as u64 * 4096;
        if let Some(allowed) = self.knobs.pool_limit.lock().unwrap().filter(|limit| need > *limit) {
            return Err(DmaError::LockLimit { need, allowed });
        }
        let memory = self.soft.pool().allocate(pages)?;
        self.knobs.pool.fetch_add(pages, Ordering::SeqCst);
        Ok(memory)
    }
    fn recycle(&mut self, memory: DriverMemory) {
        self.knobs.pool.fetch_sub(memory.window().len() / 4096, Ordering::SeqCst);
        self.soft.pool().recycle(memory);
    }
}

impl Bus for TestDevice {
    fn vectors(&self) -> u16 {
        self.soft.vectors()
    }
    fn master(&mut self, on: bool) -> Result<(), DeviceError> {
        self.soft.master(on)
    }
    fn reset(&mut self) -> Result<(), DeviceError> {
        self.knobs.function_resets.fetch_add(1, Ordering::SeqCst);
        if self.knobs.reset_fails.load(Ordering::SeqCst) {
            return Err(DeviceError::Failed);
        }
        if self.knobs.reset_heals.load(Ordering::SeqCst)
            && let Some(faults) = self.soft.handle().faults()
        {
            faults.stick_ready(None);
        }
        Bus::reset(&mut self.soft)
    }
    fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
        self.knobs.cut_offs.fetch_add(1, Ordering::SeqCst);
        if self.knobs.cut_off_fails.load(Ordering::SeqCst) {
            return Err(DeviceError::Failed);
        }
        let proof = self.soft.cut_off()?;
        self.knobs.mapped.lock().unwrap().clear();
        Ok(proof)
    }
}

impl Device for TestDevice {
    fn registers(&mut self) -> &mut dyn Registers {
        self
    }
    fn dma(&mut self) -> &mut dyn DmaSpace {
        self
    }
    fn pool(&mut self) -> &mut dyn DmaPool {
        self
    }
    fn bus(&mut self) -> &mut dyn Bus {
        self
    }
    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        self.soft.doorbells(queue, stride)
    }
}
