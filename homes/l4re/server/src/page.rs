//! The configuration page: what a session's driver reads and writes instead of registers (L4virtio's `l4virtio_config_hdr_t`).
//!
//! The driver can write all of it at any time. So it says to us only what [`Page::queue`], [`Page::driver_features`] and
//! [`Page::write_back`] copy out, once; what is ours in it (status, generation) we remember ourselves.

use core::mem::{offset_of, size_of};

use nvme_platform::Window;
use nvme_session::blk::ConfigSpace;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Its size.
pub(crate) const PAGE_SIZE: usize = 4096;
/// Most entries of the queue. L4Re's own client sizes its memory by it.
pub(crate) const QUEUE_MAX: u16 = 256;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const BLOCK_DEVICE: u32 = 2;
const VENDOR: u32 = 0x44;

/// `irq_status`: the used ring has news.
pub(crate) const VRING: u32 = 1;
/// `irq_status`: the configuration, or the status, is another.
pub(crate) const CONFIG: u32 = 2;

/// The header. What has an underscore in front is of virtio's register layout, and not used by L4virtio.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    magic: U32,
    version: U32,
    device: U32,
    vendor: U32,
    _features: [U32; 6],
    num_queues: U32,
    queues_offset: U32,
    _queue: [U32; 12],
    irq_status: U32,
    _irq_ack: [U32; 3],
    status: U32,
    cfg_driver_notify_index: U32,
    cfg_device_notify_index: U32,
    cmd: U32,
    _rings: [U32; 16],
    dev_features_map: [U32; 6],
    _between: [U32; 2],
    driver_features_map: [U32; 6],
    _behind: U32,
    generation: U32,
}

/// `l4virtio_config_queue_t`.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Queue {
    num_max: U16,
    num: U16,
    ready: U16,
    driver_notify_index: U16,
    desc_addr: U64,
    avail_addr: U64,
    used_addr: U64,
    device_notify_index: U16,
    padding: [u8; 6],
}

/// Where the device's own configuration begins, and the queue behind it.
const SPACE: usize = 0x100;
const QUEUE: usize = 0x140;

const _: () = assert!(size_of::<Header>() == SPACE && size_of::<Queue>() == 40);
const _: () = assert!(SPACE + ConfigSpace::SIZE <= QUEUE && QUEUE + size_of::<Queue>() <= PAGE_SIZE);
const _: () = assert!(offset_of!(Header, num_queues) == 0x28 && offset_of!(Header, irq_status) == 0x60);
const _: () = assert!(offset_of!(Header, status) == 0x70 && offset_of!(Header, cmd) == 0x7c);
const _: () = assert!(offset_of!(Header, dev_features_map) == 0xc0);
const _: () = assert!(offset_of!(Header, driver_features_map) == 0xe0);
const _: () = assert!(offset_of!(Header, generation) == 0xfc);

/// What the driver says of the queue. Nothing of it is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueClaim {
    pub(crate) ready: bool,
    pub(crate) num: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// The configuration page of one session.
pub(crate) struct Page {
    window: Window,
    generation: u32,
}

impl Page {
    /// `window` is a page that was zeroed when it was given to us. It is to be [reset](Self::reset) before anybody sees it.
    pub(crate) fn new(window: Window) -> Self {
        Self { window, generation: 0 }
    }

    // An offset behind the end of the page is impossible; a page that is too small is not used.

    fn store(&self, offset: usize, value: u32) {
        let _ = self.window.store32(offset, value);
    }

    /// As after a reset of the device: these features, this configuration space, no status, no queue. The driver's
    /// own features are left alone, but for those that nobody offers.
    pub(crate) fn reset(&mut self, features: u64, space: &[u8; ConfigSpace::SIZE]) {
        self.identify();
        self.store(offset_of!(Header, irq_status), 0);
        let map = [features as u32, (features >> 32) as u32, 0, 0, 0, 0];
        for (at, word) in map.into_iter().enumerate() {
            self.store(offset_of!(Header, dev_features_map) + 4 * at, word);
            if at >= 2 {
                self.store(offset_of!(Header, driver_features_map) + 4 * at, 0);
            }
        }
        let queue = QUEUE + offset_of!(Queue, num_max);
        let _ = self.window.write_value(queue, &[U16::new(QUEUE_MAX), U16::ZERO, U16::ZERO]);
        let _ = self.window.write_value(QUEUE + offset_of!(Queue, device_notify_index), &U16::ZERO);
        self.set_space(space);
        self.set_status(0);
    }

    /// Writes what never changes, over whatever somebody may have made of it.
    pub(crate) fn identify(&self) {
        let fixed = [
            (offset_of!(Header, magic), MAGIC),
            (offset_of!(Header, version), VERSION),
            (offset_of!(Header, device), BLOCK_DEVICE),
            (offset_of!(Header, vendor), VENDOR),
            (offset_of!(Header, num_queues), 1),
            (offset_of!(Header, queues_offset), QUEUE as u32),
            (offset_of!(Header, cfg_device_notify_index), 0),
        ];
        for (offset, value) in fixed {
            self.store(offset, value);
        }
    }

    /// The device's configuration is this; the generation rises, so that a driver in the midst of reading it reads again.
    pub(crate) fn set_space(&mut self, space: &[u8; ConfigSpace::SIZE]) {
        let _ = self.window.write(SPACE, space);
        self.generation = self.generation.wrapping_add(1);
        self.store(offset_of!(Header, generation), self.generation);
    }

    /// Shows the status.
    pub(crate) fn set_status(&self, status: u8) {
        self.store(offset_of!(Header, status), status.into());
    }

    /// Says what the driver's interrupt is going to be about: before it is raised, and without taking away what the driver has
    /// not seen yet.
    #[inline]
    pub(crate) fn add_irq_status(&self, bits: u32) {
        let _ = self.window.or32(offset_of!(Header, irq_status), bits);
    }

    /// What the driver acknowledged; `None` when it is more than can be offered at all.
    pub(crate) fn driver_features(&self) -> Option<u64> {
        let map: [U32; 6] = self.window.read_value(offset_of!(Header, driver_features_map)).ok()?;
        let [low, high, rest @ ..] = map.map(U32::get);
        (rest == [0; 4]).then_some(u64::from(low) | u64::from(high) << 32)
    }

    /// What the driver says of the queue with that index.
    pub(crate) fn queue(&self, index: u32) -> Option<QueueClaim> {
        let queue: Queue = self.window.read_value(QUEUE).ok().filter(|_| index == 0)?;
        Some(QueueClaim {
            ready: queue.ready != 0,
            num: queue.num.get(),
            desc: queue.desc_addr.get(),
            avail: queue.avail_addr.get(),
            used: queue.used_addr.get(),
        })
    }

    /// The cache mode, where the driver may choose it.
    #[inline]
    pub(crate) fn write_back(&self) -> u8 {
        self.window.read_value(SPACE + ConfigSpace::WRITEBACK as usize).unwrap_or_default()
    }
}
