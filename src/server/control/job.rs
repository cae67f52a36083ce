//! A change of a session's memory under way, step by step.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaRights, DmaSpace, Iova, Window};

use super::error::SessionError;
use super::{LARGE_PAGE, MAP_STEP};

/// A region as the home mapped it for us: whole pages, since a controller reaches no less, and where in them the region
/// lies. A client's regions may begin and end anywhere in a page; what else is in those pages is the same file's.
pub struct RegionMemory {
    /// Whole pages of 4096 bytes.
    pub pages: Window,
    /// The region's first byte in them.
    pub skip: usize,
    /// The region's length in bytes.
    pub len: usize,
}

/// A region on its way to the controller.
pub(super) struct Mapping {
    pub(super) slot: u16,
    pub(super) memory: RegionMemory,
    pub(super) rights: DmaRights,
    /// Where it goes, once that is reserved, and how much of it is mapped.
    pub(super) at: Option<Iova>,
    pub(super) done: usize,
}

impl Mapping {
    /// How many bytes are mapped next. A step ends where a large page of an IOMMU may end, so that none is torn.
    fn step(&self) -> usize {
        let pages = &self.memory.pages;
        let torn = pages.address().wrapping_add(self.done) % LARGE_PAGE;
        (MAP_STEP - torn).min(pages.len() - self.done)
    }
}

pub(super) enum Stage {
    Mapping,
    /// Workers were given a table of this generation, and so many have not answered.
    Draining(u64, usize),
}

/// A change under way.
pub(super) struct MemoryJob {
    pub(super) stage: Stage,
    pub(super) map: VecDeque<Mapping>,
    /// What was mapped so far.
    pub(super) added: Vec<u16>,
    pub(super) removed: Vec<u16>,
    pub(super) result: Result<(), SessionError>,
    /// Whether a client waits for it.
    pub(super) asked: bool,
}

impl MemoryJob {
    pub(super) fn has_steps(&self) -> bool {
        matches!(self.stage, Stage::Mapping)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Bytes that were not asked to be mapped yet, with those of `failed`, but not those of its step that failed.
    pub(super) fn unmapped(&self, failed: &Mapping) -> u64 {
        let asked = |m: &Mapping| m.done + if m.at.is_some() { m.step() } else { 0 };
        let all = core::iter::once(failed).chain(&self.map);
        all.map(|m| (m.memory.pages.len() - asked(m)) as u64).fold(0, u64::saturating_add)
    }
}

/// Maps the next part of a region. True: it is mapped as a whole.
pub(super) fn map_step(mapping: &mut Mapping, dma: &mut dyn DmaSpace) -> Result<bool, DmaError> {
    let pages = &mapping.memory.pages;
    let len = pages.len();
    let at = match mapping.at {
        Some(at) => at,
        None => *mapping.at.insert(dma.reserve(pages, mapping.rights)?),
    };
    let step = mapping.step();
    let part = pages.sub(mapping.done, step).map_err(|_| DmaError::BadRange)?;
    dma.map(Iova(at.0 + mapping.done as u64), &part, mapping.rights)?;
    mapping.done += step;
    Ok(mapping.done == len)
}
