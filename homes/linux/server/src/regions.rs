//! A client's memory: descriptors become checked files, and files become windows where control wants them.
//!
//! Both take what time the files' owner makes them take, so both are done in the session's lane ([`nvme_linux::lanes`]): `look`,
//! then control plans, then `map`, then control has the windows. What is found in vain is dropped where it was found.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use nvme_core::server::control::{Control, MemoryChange, MemoryPlan, NewRegion, RegionMemory, SessionError};
use nvme_core::server::message::SessionKey;
use nvme_linux::dispose::{self, dispose};
use nvme_linux::lanes::Lane;
use nvme_linux::memory::{MemoryFile, Refusal, Trusted};
use nvme_linux::vhost::{Region, RegionFile};
use nvme_session::dataspace::{Claim, File, FileId};

use crate::hints::Told;

/// Why a client's memory is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    File(#[from] Refusal),
    #[error("{}", Told(.0))]
    Session(#[from] SessionError),
    #[error("its file is busy: it takes more than {0:?} to be sealed and mapped")]
    Slow(core::time::Duration),
}

/// What a client wants of its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// The whole table, as a difference from what is registered.
    Replace,
    /// One region more.
    Add,
}

/// A region whose file was checked.
pub(crate) struct Checked {
    claim: Claim,
    file: MemoryFile,
    facts: File,
}

/// What was found in a lane.
pub(crate) struct Found {
    pub(crate) seat: u32,
    /// Which of the seat's orders it answers.
    pub(crate) order: u64,
    /// Whether a file could not be closed.
    pub(crate) lost: bool,
    pub(crate) result: Result<Step, Refusal>,
    lane: Arc<Lane>,
}

/// How far that is.
pub(crate) enum Step {
    Checked(Vec<Checked>),
    Mapped(Vec<RegionMemory>),
}

impl Found {
    /// Nobody wants it any more.
    pub(crate) fn discard(self) {
        let lane = Arc::clone(&self.lane);
        lane.put(move || drop(self));
    }
}

/// Where a seat's orders go, and what answers them.
pub(crate) struct Order {
    pub(crate) lane: Arc<Lane>,
    pub(crate) seat: u32,
    pub(crate) number: u64,
    pub(crate) found: Sender<Found>,
}

impl Order {
    fn put(self, work: impl FnOnce() -> Result<Step, Refusal> + Send + 'static) {
        let Self { lane, seat, number: order, found } = self;
        let own = Arc::clone(&lane);
        lane.put(move || {
            let before = dispose::lost_here();
            let result = work();
            let lost = dispose::lost_here() > before;
            // Where there is no server any more, it is dropped here.
            let _ = found.send(Found { seat, order, lost, result, lane: own });
        });
    }
}

fn check(region: RegionFile, trusted: &Trusted) -> Result<Checked, Refusal> {
    let RegionFile { region: Region { guest, size, user, offset }, file } = region;
    let file = MemoryFile::open(file, trusted)?;
    let id = file.id();
    let facts = File {
        id: FileId(id.device, id.inode),
        size: file.size()?,
        writable: file.writable(),
        // `MemoryFile` takes nothing else, unless it is trusted.
        memory: true,
        trusted: file.trusted(),
    };
    Ok(Checked { claim: Claim { guest, user, len: size, offset }, file, facts })
}

/// Has a client's files looked at, and sealed.
pub(crate) fn look(order: Order, trusted: &Arc<Trusted>, regions: Vec<RegionFile>) {
    let trusted = Arc::clone(trusted);
    order.put(move || {
        let mut regions = regions.into_iter();
        let mut checked = Vec::new();
        while let Some(region) = regions.next() {
            match check(region, &trusted) {
                Ok(region) => checked.push(region),
                Err(why) => {
                    // Those behind it were not looked at yet, and may be anything.
                    dispose(regions.map(|r| r.file));
                    return Err(why);
                }
            }
        }
        Ok(Step::Checked(checked))
    });
}

/// What the change comes to.
pub(crate) fn plan(
    control: &Control,
    key: SessionKey,
    wanted: Wanted,
    checked: &[Checked],
) -> Result<MemoryPlan, Refused> {
    let change = match (wanted, checked) {
        (Wanted::Add, [Checked { claim, facts, .. }]) => MemoryChange::Add(*claim, *facts),
        _ => MemoryChange::Replace(checked.iter().map(|c| (c.claim, c.facts)).collect()),
    };
    Ok(control.plan_memory(key, &change)?)
}

/// Has the new regions of a plan mapped, in its order; then the files are closed.
pub(crate) fn map(order: Order, plan: &MemoryPlan, checked: Vec<Checked>) {
    let regions = plan.new_regions().to_vec();
    order.put(move || {
        let mut memory = Vec::with_capacity(regions.len());
        for NewRegion { index, claim, .. } in regions {
            // The plan is of what was checked; if it were not, control would miss the region.
            let Some(Checked { file, .. }) = checked.get(index) else { break };
            let (pages, skip) = file.map_pages(claim.offset, claim.len)?;
            // What is mapped is not longer than an address space.
            let len = usize::try_from(claim.len).unwrap_or(usize::MAX);
            memory.push(RegionMemory { pages, skip, len });
        }
        Ok(Step::Mapped(memory))
    });
}

/// One region less.
pub(crate) fn remove(control: &mut Control, key: SessionKey, region: Region) -> Result<(), Refused> {
    let change = MemoryChange::Remove(region.guest, region.user, region.size);
    let plan = control.plan_memory(key, &change)?;
    Ok(control.change_memory(&plan, Vec::new())?)
}
