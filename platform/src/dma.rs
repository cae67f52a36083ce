//! What a controller may reach of memory.

use core::fmt;

use nvme_mem::Window;

/// The page of the controller and of the IOMMU, in bytes (CC.MPS = 0).
pub const PAGE: usize = 4096;

/// An address as the controller uses it on the bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Iova(pub u64);

/// What the controller may do to mapped memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaRights {
    /// It may read (disk writes).
    Read,
    /// It may read and write.
    ReadWrite,
}

/// Why memory could not be mapped for DMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaError {
    /// No free range of bus addresses is long enough.
    NoAddresses,
    /// No memory, or too many mappings.
    NoMemory,
    /// The home may lock too little memory for DMA.
    LockLimit {
        /// How many bytes it would have locked in all.
        need: u64,
        /// How many it may.
        allowed: u64,
    },
    /// The range overlaps a mapped one, was not reserved, or is not a multiple of [`PAGE`].
    BadRange,
    /// The device is gone.
    Gone,
    /// Commands under way reach it. It is not mapped any more, and may be written all the same.
    InUse,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddresses => f.write_str("no free bus addresses"),
            Self::NoMemory => f.write_str("no memory for the mapping"),
            Self::LockLimit { need, allowed } => {
                write!(f, "too little memory may be locked: {need} bytes are needed, and {allowed} allowed")
            }
            Self::BadRange => f.write_str("not a range that can be mapped"),
            Self::Gone => f.write_str("the device is gone"),
            Self::InUse => f.write_str("commands under way reach it"),
        }
    }
}

impl core::error::Error for DmaError {}

/// The bus addresses of one controller. Client memory is mapped here once, when it is registered.
///
/// A long mapping is made in steps: [`reserve`](DmaSpace::reserve) the whole range, then
/// [`map`](DmaSpace::map) it part by part, so that no step holds up anybody.
pub trait DmaSpace: Send {
    /// Sets aside bus addresses for `memory`, whose length is a multiple of [`PAGE`] and which is going to be mapped there
    /// with these rights. Nothing can be reached there yet, except in a home that learns an address only by mapping:
    /// it maps all of `memory` here, and [`map`](DmaSpace::map) finds it done.
    fn reserve(&mut self, memory: &Window, rights: DmaRights) -> Result<Iova, DmaError>;
    /// Lets the controller reach `memory` at `at`, inside a reserved range. Both are multiples of [`PAGE`].
    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError>;
    /// Takes everything away that was mapped in the reserved range, and the reservation. When it returns `Ok`, the
    /// controller can no longer reach that memory: an access there is a fault.
    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError>;
}

/// Memory of the driver's own. Having this value tells you that the controller reaches all of the window at its address, reading and
/// writing, contiguously; that it was zeroes when it was handed out; and that it is no client's, so that no client sees or changes it. What the
/// controller wrote there is a claim of the controller's, and no more.
///
/// Only a [`DmaPool`] makes it.
#[derive(Debug)]
pub struct DriverMemory {
    window: Window,
    iova: Iova,
}

impl DriverMemory {
    /// For implementors of [`DmaPool`]: states that the controller reaches `window` at `iova`.
    pub fn from_pool(window: Window, iova: Iova) -> Self {
        Self { window, iova }
    }

    /// Our view of it.
    #[inline]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The controller's view of it.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.iova
    }
}

/// Where the driver gets its own memory.
pub trait DmaPool: Send {
    /// `pages` zeroed pages, contiguous on the bus.
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError>;
    /// The same for memory that another process may go on with, where the home hands controllers over. Asked for once, and not recycled.
    fn allocate_to_leave(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        self.allocate(pages)
    }
    /// Takes pages back. The caller has proof that the controller is done with them.
    fn recycle(&mut self, memory: DriverMemory);
}
