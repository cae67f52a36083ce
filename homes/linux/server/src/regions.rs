//! A client's memory: descriptors become checked files, and files become windows where control wants them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme_core::server::control::{MemoryChange, NewRegion, RegionMemory, SessionError};
use nvme_core::server::message::{QueueKey, SessionKey};
use nvme_linux::dispose::dispose;
use nvme_linux::events::is_eventfd;
use nvme_linux::memory::{MemoryFile, Refusal, Trusted};
use nvme_linux::vhost::{Region, RegionFile};
use nvme_session::dataspace::{Claim, File, FileId};

use crate::hints::Told;
use crate::lent::Lent;
use crate::worker::Message;

/// Why a client's memory is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    File(#[from] Refusal),
    #[error("{}", Told(.0))]
    Session(#[from] SessionError),
}

/// A region whose file was checked.
struct Checked {
    claim: Claim,
    file: MemoryFile,
    facts: File,
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

fn change(
    lent: &mut Lent<'_>,
    key: SessionKey,
    change: &MemoryChange,
    checked: &[Checked],
) -> Result<(), Refused> {
    let plan = lent.control.plan_memory(key, change)?;
    let mut memory = Vec::with_capacity(plan.new_regions().len());
    for NewRegion { index, claim, .. } in plan.new_regions() {
        // The plan is of what was checked; if it were not, control would miss the region.
        let Some(Checked { file, .. }) = checked.get(*index) else { break };
        let (pages, skip) = file.map_pages(claim.offset, claim.len)?;
        // What is mapped is not longer than an address space.
        let len = usize::try_from(claim.len).unwrap_or(usize::MAX);
        memory.push(RegionMemory { pages, skip, len });
    }
    Ok(lent.control.change_memory(&plan, memory)?)
}

/// The whole table, as a difference from what is registered.
pub(crate) fn set_table(
    lent: &mut Lent<'_>,
    key: SessionKey,
    regions: Vec<RegionFile>,
) -> Result<(), Refused> {
    let mut regions = regions.into_iter();
    let mut checked = Vec::new();
    while let Some(region) = regions.next() {
        match check(region, lent.trusted) {
            Ok(region) => checked.push(region),
            Err(why) => {
                // Those behind it were not looked at yet, and may be anything.
                dispose(regions.map(|r| r.file));
                return Err(why.into());
            }
        }
    }
    let wanted = checked.iter().map(|c| (c.claim, c.facts)).collect();
    change(lent, key, &MemoryChange::Replace(wanted), &checked)
}

/// One region more.
pub(crate) fn add(lent: &mut Lent<'_>, key: SessionKey, region: RegionFile) -> Result<(), Refused> {
    let checked = [check(region, lent.trusted)?];
    let [Checked { claim, facts, .. }] = &checked;
    let wanted = MemoryChange::Add(*claim, *facts);
    change(lent, key, &wanted, &checked)
}

/// One region less.
pub(crate) fn remove(lent: &mut Lent<'_>, key: SessionKey, region: Region) -> Result<(), Refused> {
    change(lent, key, &MemoryChange::Remove(region.guest, region.user, region.size), &[])
}

/// A kick has to be an eventfd: anything else could keep a worker busy, or not be watched at all.
pub(crate) fn check_kick(fd: &OwnedFd) -> Result<(), &'static str> {
    use std::os::fd::AsFd;
    if is_eventfd(fd.as_fd()) { Ok(()) } else { Err("it is not an eventfd") }
}

/// Gives a worker another kick for a ring that runs.
pub(crate) fn send_kick(lent: &Lent<'_>, key: SessionKey, index: u16, kick: Arc<OwnedFd>) {
    let Some(worker) = lent.control.session(key).and_then(|s| lent.workers.get(s.worker())) else { return };
    // A worker that is gone ends the server at the next message of its own.
    let _ = worker.send(Message::Kick(QueueKey { session: key, index }, kick));
}
