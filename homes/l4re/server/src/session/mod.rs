//! One session, as its client sees it: an L4virtio device.
//!
//! `status`: the status register. `memory`: what is registered.

pub(crate) mod memory;
pub(crate) mod status;

use alloc::string::String;
use alloc::vec::Vec;

use nvme_core::server::control::QueueSpec;
use nvme_core::server::message::SessionKey;
use nvme_l4re::kernel::Cap;
use nvme_platform::Time;
use nvme_policy::Policy;
use nvme_session::factory::FactoryId;
use nvme_session::memory::MemoryTable;
use nvme_session::virtqueue::{AddressSpace, RingAddresses};

use self::memory::{Change, Dataspace};
use crate::label::Number;
use crate::page::{Page, QUEUE_MAX, QueueClaim};

/// The queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Run {
    /// It is not served.
    Idle,
    /// It is.
    Running,
    /// What is in flight ends, since then.
    Stopping(Time),
}

/// A session, or a static client that has none now.
pub(crate) struct Session {
    pub(crate) number: Number,
    /// For the log: `session 3` or `client cl1`.
    pub(crate) name: String,
    pub(crate) policy: Policy,
    /// Through which factory it was minted.
    pub(crate) factory: FactoryId,
    /// Whether it is a static client's: it outlives its device.
    pub(crate) fixed: bool,
    /// Whether its gate is served; a static client's is not before its device was there.
    pub(crate) served: bool,
    /// Control's name for it; none while its device is away.
    pub(crate) key: Option<SessionKey>,
    /// Its device is lost.
    pub(crate) lost: bool,
    /// Its client is gone, and what it left goes.
    pub(crate) ending: bool,
    pub(crate) gate: Cap,
    /// Ours, for the driver to raise.
    pub(crate) kick: Cap,
    /// The driver's, for us to raise.
    pub(crate) irq: Option<Cap>,
    pub(crate) page_cap: Cap,
    pub(crate) page: Page,
    pub(crate) status: u8,
    /// Requests that had been answered when its counters were last said.
    pub(crate) told: u64,
    /// The queue as it was set up.
    pub(crate) queue: Option<QueueSpec>,
    pub(crate) run: Run,
    /// The worker's name for it.
    pub(crate) token: Option<usize>,
    /// The cache mode, where the driver may choose it.
    pub(crate) write_back: Option<u8>,
    pub(crate) memory: Vec<Dataspace>,
    pub(crate) change: Option<Change>,
    /// Control still has what is not in `memory` any more.
    pub(crate) stale: bool,
    /// How often it was reset or connected to.
    pub(crate) epoch: u32,
}

/// Checks what the driver says of its queue against what is registered.
pub(crate) fn queue_spec(claim: &QueueClaim, table: &MemoryTable) -> Option<QueueSpec> {
    let QueueClaim { num, desc, avail, used, .. } = *claim;
    if !num.is_power_of_two() || num > QUEUE_MAX {
        return None;
    }
    let entries = usize::from(num);
    let part = |addr: u64, len: usize, align: u64| {
        addr.is_multiple_of(align).then(|| table.guest_window(addr, len)).flatten()
    };
    part(desc, 16 * entries, 16)?;
    part(avail, 6 + 2 * entries, 2)?;
    part(used, 6 + 8 * entries, 4).filter(|(_, writable)| *writable)?;
    let rings = RingAddresses { desc, avail, used, space: AddressSpace::Guest };
    Some(QueueSpec { size: num, rings, next_avail: 0, journal: None })
}
