//! The bus addresses of one controller, and what is mapped there: clients' memory, and the driver's own.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvme_mem::Window;
use nvme_platform::{DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, PAGE};
use rustix::fs::{fcntl_get_seals, fstat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vfio_bindings::bindings::vfio;

use super::VfioError;
use super::handle::{self, Handle, with};
use super::info::{IOMMU_INFO, IommuInfo};
use super::ioctl;
use super::ranges::{FreeRanges, USUAL};
use crate::memory::{SEALS, anonymous, made_of_zeroes};

const PAGE_BYTES: u64 = PAGE as u64;
/// Large pages of an IOMMU. What is as long as one lies in it as its memory does in a page of that size, so that the IOMMU can
/// use large pages where the memory has them.
const LARGE: [u64; 2] = [1 << 30, 2 << 20];

/// What a controller is expected to need of its own: the admin queue and the scan's pair, and the pair of one session (1.3 MiB
/// with 256 entries).
const OWN: u64 = 2 << 20;

/// Controllers that were opened.
static OPENED: AtomicU64 = AtomicU64::new(0);
/// Bytes that all controllers of this process have mapped: what RLIMIT_MEMLOCK is compared with.
static LOCKED: AtomicU64 = AtomicU64::new(0);

struct Reserved {
    len: u64,
    mapped: u64,
}

/// Which addresses are whose.
#[derive(Default)]
struct Ranges {
    /// What the IOMMU has.
    all: FreeRanges,
    free: FreeRanges,
    reserved: BTreeMap<u64, Reserved>,
    /// Those of the server before, which are not free until what it has mapped there is gone.
    others: Vec<(u64, u64)>,
}

/// The container of a function, and its addresses: what the space of a device shares with whoever hands that over.
#[derive(Clone)]
pub(super) struct Container {
    handle: Handle,
    ranges: Arc<Mutex<Ranges>>,
    /// Memory that the next server goes on with, and its address.
    left: Arc<Mutex<Option<(u64, OwnedFd)>>>,
}

impl Container {
    fn new(container: OwnedFd) -> Result<Self, VfioError> {
        let ranges = Ranges { all: addresses(&container)?, ..Ranges::default() };
        let (ranges, left) = (Arc::new(Mutex::new(ranges)), Arc::default());
        Ok(Self { handle: handle::new(container), ranges, left })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses that are in use here: first address, and bytes.
    pub(super) fn used(&self) -> Vec<(u64, u64)> {
        self.ranges().reserved.iter().map(|(at, reserved)| (*at, reserved.len)).collect()
    }

    /// Begins with all addresses but those that the server before has in use.
    pub(super) fn begin_beside(&self, others: &[(u64, u64)]) -> Result<(), VfioError> {
        let mut ranges = self.ranges();
        let mut free = ranges.all.clone();
        if others.iter().any(|(at, len)| !free.remove(*at, *len)) {
            return Err(VfioError::Handed("its addresses"));
        }
        ranges.free = free;
        ranges.others = others.to_vec();
        Ok(())
    }

    /// The memory that the next server may go on with, where it is at that address.
    pub(super) fn left(&self, at: u64) -> Option<OwnedFd> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, file) = left.as_ref().filter(|(known, _)| *known == at)?;
        rustix::io::fcntl_dupfd_cloexec(file, 0).ok()
    }

    fn leave(&self, at: u64, file: OwnedFd) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, file));
    }

    /// Memory that the server before has mapped at `at` is this server's as well from here on, and stays mapped.
    pub(super) fn take(&self, at: u64, file: OwnedFd) -> Result<DriverMemory, VfioError> {
        let unfit = VfioError::Handed("memory that goes on");
        let sealed = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
        let len = fstat(&file).ok().and_then(|seen| u64::try_from(seen.st_size).ok()).filter(|_| sealed);
        let mut ranges = self.ranges();
        let mut others = ranges.others.iter();
        let found = len.and_then(|len| Some((others.position(|other| *other == (at, len))?, len)));
        let Some((which, len)) = found else { return Err(unfit) };
        let window = crate::memory::whole(file.as_fd(), usize::try_from(len).map_err(|_| unfit)?);
        let window = window.map_err(|why| VfioError::System("mapping memory that goes on", why))?;
        ranges.others.remove(which);
        ranges.reserved.insert(at, Reserved { len, mapped: len });
        LOCKED.fetch_add(len, Ordering::Relaxed);
        drop(ranges);
        self.leave(at, file);
        Ok(of_space(window, Iova(at)))
    }

    /// Takes away all that somebody else has mapped, or had before it ended. How many bytes there were.
    pub(super) fn reclaim(&self) -> Result<u64, Errno> {
        let mut ranges = self.ranges();
        let Ranges { free, others, .. } = &mut *ranges;
        for (at, len) in others.drain(..) {
            free.give(at, len);
        }
        with(&self.handle, |fd| free.each().map(|(at, len)| ioctl::unmap_dma(fd, at, len)).sum())
    }
}

/// The addresses that the IOMMU of a container has.
fn addresses(container: impl AsFd) -> Result<FreeRanges, VfioError> {
    let info = ioctl::ask(container, ioctl::IOMMU_GET_INFO, IOMMU_INFO, &[])
        .map_err(|e| VfioError::System("asking for the IOMMU's addresses", e))?;
    let info = IommuInfo::parse(&info);
    if info.page_sizes != 0 && info.page_sizes & (PAGE_BYTES | (PAGE_BYTES - 1)) == 0 {
        return Err(VfioError::Lacks("IOMMU pages of 4 KiB"));
    }
    let free = FreeRanges::new(info.ranges.as_deref().unwrap_or(&USUAL));
    if free.is_empty() {
        return Err(VfioError::Lacks("bus addresses"));
    }
    Ok(free)
}

/// See the [module](self).
pub(super) struct Space {
    /// Closed when the device is cut off.
    container: Container,
    /// Bytes that may be locked; `None`: any number.
    lock_limit: Option<u64>,
    /// Recycled memory, by its length in pages.
    spare: BTreeMap<usize, Vec<DriverMemory>>,
}

impl Space {
    /// The space of a container whose IOMMU was set.
    pub(super) fn new(container: OwnedFd) -> Result<Self, VfioError> {
        let space = Self::beside(container)?;
        space.container.begin_beside(&[])?;
        Ok(space)
    }

    /// The space of a container that another server still has. It has no addresses before [`Container::begin_beside`].
    pub(super) fn beside(container: OwnedFd) -> Result<Self, VfioError> {
        let container = Container::new(container)?;
        let lock_limit = raise_lock_limit();
        let need = OWN * (1 + OPENED.fetch_add(1, Ordering::Relaxed));
        if let Some(limit) = lock_limit.filter(|limit| *limit < need) {
            return Err(VfioError::LockLimit { need, limit });
        }
        Ok(Self { container, lock_limit, spare: BTreeMap::new() })
    }

    /// What is shared with whoever hands it over.
    pub(super) fn container(&self) -> &Container {
        &self.container
    }

    fn is_there(&self) -> Result<(), DmaError> {
        with(&self.container.handle, |_| Ok(())).map_err(|_| DmaError::Gone)
    }

    /// Takes all mappings away. When it returns, the device reaches nothing.
    pub(super) fn cut_off(&mut self) -> Result<(), Errno> {
        if self.is_there().is_err() {
            return Ok(());
        }
        let mut ranges = self.container.ranges();
        for (at, reserved) in &mut ranges.reserved {
            with(&self.container.handle, |fd| ioctl::unmap_dma(fd, *at, reserved.len))?;
            LOCKED.fetch_sub(core::mem::take(&mut reserved.mapped), Ordering::Relaxed);
        }
        ranges.reserved.clear();
        handle::close(&self.container.handle);
        Ok(())
    }

    fn refused(&self, why: Errno, len: u64) -> DmaError {
        match why {
            // The kernel says the same for "too much is locked" and "no memory".
            Errno::NOMEM => {
                let need = LOCKED.load(Ordering::Relaxed) + len;
                match self.lock_limit {
                    Some(allowed) if need > allowed => DmaError::LockLimit { need, allowed },
                    _ => DmaError::NoMemory,
                }
            }
            Errno::NOSPC | Errno::FAULT => DmaError::NoMemory,
            Errno::NODEV => DmaError::Gone,
            _ => DmaError::BadRange,
        }
    }
}

/// Raises RLIMIT_MEMLOCK as far as may be, and says what it is then.
fn raise_lock_limit() -> Option<u64> {
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Memlock).current
}

impl DmaSpace for Space {
    fn reserve(&mut self, memory: &Window, _: DmaRights) -> Result<Iova, DmaError> {
        self.is_there()?;
        let len = memory.len() as u64;
        if len == 0 || !len.is_multiple_of(PAGE_BYTES) {
            return Err(DmaError::BadRange);
        }
        let align = LARGE.into_iter().filter(|large| len >= *large).chain([PAGE_BYTES]);
        let mut ranges = self.container.ranges();
        let at = align.into_iter().find_map(|align| ranges.free.take(len, align, memory.address() as u64));
        let at = at.ok_or(DmaError::NoAddresses)?;
        ranges.reserved.insert(at, Reserved { len, mapped: 0 });
        Ok(Iova(at))
    }

    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        let (len, address) = (memory.len() as u64, memory.address());
        let whole = len > 0
            && len.is_multiple_of(PAGE_BYTES)
            && at.0.is_multiple_of(PAGE_BYTES)
            && address.is_multiple_of(PAGE);
        let end = at.0.checked_add(len).filter(|_| whole).ok_or(DmaError::BadRange)?;
        let mut ranges = self.container.ranges();
        let inside =
            ranges.reserved.range_mut(..=at.0).next_back().filter(|(start, r)| end <= **start + r.len);
        let (_, reserved) = inside.ok_or(DmaError::BadRange)?;
        let writable = rights == DmaRights::ReadWrite;
        with(&self.container.handle, |fd| ioctl::map_dma(fd, address, at.0, len, writable))
            .map_err(|e| self.refused(e, len))?;
        LOCKED.fetch_add(len, Ordering::Relaxed);
        reserved.mapped += len;
        Ok(())
    }

    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        self.is_there()?;
        let mut ranges = self.container.ranges();
        let reserved = ranges.reserved.get(&at.0).filter(|r| r.len == len).ok_or(DmaError::BadRange)?;
        if reserved.mapped > 0 {
            let gone = with(&self.container.handle, |fd| ioctl::unmap_dma(fd, at.0, len))
                .map_err(|_| DmaError::BadRange)?;
            if gone < reserved.mapped {
                return Err(DmaError::BadRange);
            }
            LOCKED.fetch_sub(reserved.mapped, Ordering::Relaxed);
        }
        ranges.reserved.remove(&at.0);
        ranges.free.give(at.0, len);
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the pool of this home, whose callers have it mapped there")]
fn of_space(window: Window, at: Iova) -> DriverMemory {
    DriverMemory::from_pool(window, at)
}

impl Space {
    /// Has the device reach memory of the driver's own.
    fn own(&mut self, window: Window) -> Result<DriverMemory, DmaError> {
        let at = self.reserve(&window, DmaRights::ReadWrite)?;
        if let Err(why) = self.map(at, &window, DmaRights::ReadWrite) {
            let _ = self.unmap(at, window.len() as u64);
            return Err(why);
        }
        Ok(of_space(window, at))
    }
}

impl DmaPool for Space {
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        self.is_there()?;
        let len = pages.checked_mul(PAGE).filter(|len| *len > 0).ok_or(DmaError::BadRange)?;
        if let Some(memory) = self.spare.get_mut(&pages).and_then(Vec::pop) {
            memory.window().fill(0, len, 0).map_err(|_| DmaError::BadRange)?;
            return Ok(memory);
        }
        let window = anonymous(len).map_err(|_| DmaError::NoMemory)?;
        self.own(window)
    }

    fn allocate_to_leave(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        self.is_there()?;
        let len = pages.checked_mul(PAGE).filter(|len| *len > 0).ok_or(DmaError::BadRange)?;
        let made = made_of_zeroes("nvme-admin-queue", len as u64)
            .and_then(|file| Ok((crate::memory::whole(file.as_fd(), len)?, file)));
        match made {
            Ok((window, file)) => {
                let memory = self.own(window)?;
                self.container.leave(memory.iova().0, file);
                Ok(memory)
            }
            // The next server resets the controller, then.
            Err(_) => self.allocate(pages),
        }
    }

    fn recycle(&mut self, memory: DriverMemory) {
        self.spare.entry(memory.window().len() / PAGE).or_default().push(memory);
    }
}

/// What the IOMMU of a container is to be.
pub(super) const TYPE1: u32 = vfio::VFIO_TYPE1v2_IOMMU;
