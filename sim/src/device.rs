//! A software controller on a bus that is watched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvme_platform::{
    Bus, CutOff, Device, DeviceError, DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova,
    QueueDoorbells, Registers, Time, Window,
};
use nvme_soft::SoftDevice;

use crate::judge::court::Court;

/// The books, shared with the devices. One thread has all of them; the lock is what the traits ask for.
#[derive(Clone, Default)]
pub(crate) struct Books(Arc<Mutex<Court>>);

impl Books {
    pub(crate) fn open(&self) -> MutexGuard<'_, Court> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be done to a device from outside, besides what its handle does.
#[derive(Clone, Copy, Default)]
pub(crate) struct Knobs {
    /// It cannot be seen to be cut off.
    pub(crate) cut_off_fails: bool,
    /// Function resets fail.
    pub(crate) reset_fails: bool,
    /// So many more mappings can be made.
    pub(crate) maps_left: Option<u32>,
}

pub(crate) struct Watched {
    pub(crate) soft: SoftDevice,
    pub(crate) books: Books,
    pub(crate) number: usize,
    pub(crate) knobs: Arc<Mutex<Knobs>>,
}

impl Watched {
    fn knobs(&self) -> Knobs {
        *self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registers for Watched {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.soft.read32(offset);
        if offset == 0x1c && value != u32::MAX && value & 1 == 0 {
            self.books.open().disabled(self.number);
        }
        value
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.books.open().wrote(self.number, offset, value);
        self.soft.write32(offset, value);
        if offset >= 0x1000 {
            // An Abort completes a command on another queue.
            self.books.open().scan(self.number);
        }
    }
}

impl DmaSpace for Watched {
    fn reserve(&mut self, memory: &Window, rights: DmaRights) -> Result<Iova, DmaError> {
        self.soft.dma().reserve(memory, rights)
    }

    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        {
            let mut knobs = self.knobs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(left) = &mut knobs.maps_left {
                *left = left.checked_sub(1).ok_or(DmaError::NoMemory)?;
            }
        }
        self.soft.dma().map(at, memory, rights)?;
        self.books.open().map(self.number, at.0, memory, false);
        Ok(())
    }

    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        self.books.open().unmap(self.number, at.0, len);
        self.soft.dma().unmap(at, len)
    }
}

impl DmaPool for Watched {
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        let memory = self.soft.pool().allocate(pages)?;
        self.books.open().map(self.number, memory.iova().0, memory.window(), true);
        Ok(memory)
    }

    fn recycle(&mut self, memory: DriverMemory) {
        self.books.open().unmap(self.number, memory.iova().0, memory.window().len() as u64);
        self.soft.pool().recycle(memory);
    }
}

impl Bus for Watched {
    fn vectors(&self) -> u16 {
        self.soft.vectors()
    }

    fn master(&mut self, on: bool) -> Result<(), DeviceError> {
        self.soft.master(on)
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        if self.knobs().reset_fails { Err(DeviceError::Failed) } else { Bus::reset(&mut self.soft) }
    }

    fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
        if self.knobs().cut_off_fails {
            return Err(DeviceError::Failed);
        }
        let proof = self.soft.cut_off()?;
        self.books.open().cut_off(self.number);
        Ok(proof)
    }
}

impl Device for Watched {
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
        let inner = self.soft.doorbells(queue, stride)?;
        let life = self.books.open().life(self.number, queue);
        Ok(Box::new(Doorbells { inner, books: self.books.clone(), number: self.number, queue, life }))
    }
}

struct Doorbells {
    inner: Box<dyn QueueDoorbells>,
    books: Books,
    number: usize,
    queue: u16,
    /// Which queue of that number it is: the one there is, or the next.
    life: Option<u64>,
}

impl QueueDoorbells for Doorbells {
    fn submission_tail(&mut self, tail: u16) {
        {
            let mut court = self.books.open();
            if self.life.is_none() {
                self.life = court.life(self.number, self.queue);
            }
            if self.life.is_some() {
                court.tail(self.number, self.queue, self.life, tail.into());
            }
        }
        self.inner.submission_tail(tail);
    }

    fn completion_head(&mut self, head: u16) {
        self.inner.completion_head(head);
    }

    fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        let next = self.inner.run(budget, now);
        if self.inner.runs_here() {
            self.books.open().scan_one(self.number, self.queue);
        }
        next
    }

    fn runs_here(&self) -> bool {
        self.inner.runs_here()
    }

    fn copies_here(&self) -> bool {
        self.inner.copies_here()
    }

    fn waits_for_storage(&self) -> bool {
        self.inner.waits_for_storage()
    }
}
