//! A client's memory: descriptors become checked files, and files become windows where control wants them.
//!
//! Both take what time the files' owner makes them take, so both are done in the session's lane ([`nvme_linux::lanes`]): `look`,
//! then control plans, then `map`, then control has the windows. What is found in vain is dropped where it was found.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use nvme_audit::Event;
use nvme_core::server::control::{Control, MemoryChange, MemoryPlan, NewRegion, RegionMemory, SessionError};
use nvme_core::server::message::SessionKey;
use nvme_linux::dispose::{self, dispose};
use nvme_linux::lanes::Lane;
use nvme_linux::memory::{MemoryFile, Refusal, Trusted};
use nvme_linux::vhost::{Region, RegionFile};
use nvme_platform::Window;
use nvme_policy::Dataspaces;
use nvme_session::dataspace::{Claim, File, FileId};
use nvme_session::queue::BlkQueue;
use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};

use crate::audit::Note;
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
    file: Arc<MemoryFile>,
    facts: File,
}

impl Checked {
    /// The region, and its file.
    pub(crate) fn region(&self) -> (Region, &Arc<MemoryFile>) {
        let Claim { guest, user, len: size, offset } = self.claim;
        (Region { guest, size, user, offset }, &self.file)
    }
}

/// What was found in a lane.
pub(crate) struct Found {
    pub(crate) seat: u32,
    /// Which of the seat's orders it answers.
    pub(crate) order: u64,
    /// Whether a file could not be closed.
    pub(crate) lost: bool,
    pub(crate) result: Result<Step, Denied>,
    lane: Arc<Lane>,
}

/// A file is not taken.
pub(crate) struct Denied {
    pub(crate) why: Refusal,
    /// Which one, where it was seen.
    pub(crate) which: Option<String>,
}

impl From<Refusal> for Denied {
    fn from(why: Refusal) -> Self {
        Self { why, which: None }
    }
}

/// How far that is.
pub(crate) enum Step {
    Checked(Vec<Checked>),
    Mapped(Vec<RegionMemory>),
    /// Where what is in flight is kept, and in which file, from where on.
    Inflight(Window, Arc<MemoryFile>, u64),
    /// What was in flight on rings that begin anew is nothing any more.
    Forgotten,
    /// A virtqueue's rings and its journal were touched.
    Touched(Box<BlkQueue>),
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
    pub(crate) fn put(self, work: impl FnOnce() -> Result<Step, Denied> + Send + 'static) {
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

fn check(region: RegionFile, trusted: &Trusted) -> Result<Checked, Denied> {
    let RegionFile { region: Region { guest, size, user, offset }, file } = region;
    // What is refused is gone afterwards.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let seen = statx(&file, "", flags, StatxFlags::INO).ok();
    let which = seen.map(|seen| format!("{}:{}:{}", seen.stx_dev_major, seen.stx_dev_minor, seen.stx_ino));
    let file = MemoryFile::open(file, trusted).map_err(|why| Denied { why, which })?;
    let id = file.id();
    let facts = File {
        id: FileId(id.device, id.inode),
        size: file.size()?,
        writable: file.writable(),
        // `MemoryFile` takes nothing else, unless it is trusted.
        memory: true,
        trusted: Dataspaces::of(file.trusted()),
    };
    Ok(Checked { claim: Claim { guest, user, len: size, offset }, file: Arc::new(file), facts })
}

/// How memory files are called in the audit trail: a trusted one by its name, another by device and inode.
fn identity(facts: &File, trusted: &Trusted) -> String {
    let FileId(device, inode) = facts.id;
    let named: Vec<&str> = facts.trusted.places().filter_map(|place| trusted.names().nth(place)).collect();
    if named.is_empty() { format!("{}:{}:{inode}", major(device), minor(device)) } else { named.join("=") }
}

/// The files of a request, each once, as far as they fit into a line.
pub(crate) fn identities(checked: &[Checked], trusted: &Trusted) -> Option<String> {
    /// How many are named.
    const NAMED: usize = 4;
    let mut ids: Vec<String> = Vec::new();
    for Checked { facts, .. } in checked {
        let id = identity(facts, trusted);
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let more = ids.len().saturating_sub(NAMED);
    ids.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(ids.join(", ") + &more).filter(|text| !text.is_empty())
}

/// What is new of a plan, by file.
pub(crate) fn registered(plan: &MemoryPlan, checked: &[Checked], trusted: &Trusted) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for NewRegion { index, claim, .. } in plan.new_regions() {
        let Some(Checked { facts, .. }) = checked.get(*index) else { continue };
        let dataspace = Some(identity(facts, trusted));
        match notes.iter_mut().find(|note| note.dataspace == dataspace) {
            Some(note) => note.size = note.size.map(|size| size.saturating_add(claim.len)),
            None => notes.push(Note { event: Event::Dataspace, dataspace, size: Some(claim.len), why: None }),
        }
    }
    notes
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

/// Has a virtqueue's rings, and the journal in its client's memory, touched for the first time.
pub(crate) fn touch(order: Order, mut queue: Box<BlkQueue>) {
    order.put(move || {
        queue.touch();
        Ok(Step::Touched(queue))
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
