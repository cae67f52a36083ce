//! What a client registered: dataspaces, and the regions that they are to the core.

use alloc::sync::Weak;
use alloc::vec::Vec;
use core::fmt;

use nvme_core::server::control::SessionError;
use nvme_l4re::chunk::chunk_size;
use nvme_l4re::kernel::{Cap, DataspaceInfo, L4Error};
use nvme_platform::{DmaError, Owner, PAGE, Window};
use nvme_session::dataspace::{Claim, File, FileId};

use crate::message::Register;

/// Whole pages of a dataspace at a place in the driver's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) base: u64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Of the dataspace, in whole pages.
    pub(crate) size: u64,
    pub(crate) writable: bool,
}

impl Place {
    /// Where the client wants its dataspace; `info` is none where the dataspace does not say what it is. Begins are rounded
    /// down, the length up, as L4virtio always did.
    pub(crate) fn new(register: Register, info: Option<DataspaceInfo>) -> Result<Self, L4Error> {
        let page = PAGE as u64;
        let down = |at: u64| at & !(page - 1);
        let up = |len: u64| len.checked_next_multiple_of(page).ok_or(L4Error::INVAL);
        let (base, offset, len) = (down(register.base), down(register.offset), up(register.size)?);
        let size = info.map_or(Ok(down(u64::MAX)), |info| up(info.size))?;
        if size == 0 {
            return Err(L4Error::INVAL);
        }
        if offset >= size {
            return Err(L4Error::RANGE);
        }
        if len == 0 || len > size - offset || base.checked_add(len).is_none() || usize::try_from(len).is_err()
        {
            return Err(L4Error::INVAL);
        }
        Ok(Self { base, offset, len, size, writable: info.is_none_or(|info| info.writable) })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.base < other.base + other.len && other.base < self.base + self.len
    }

    /// One region for each chunk of the dataspace that it touches.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Claim> + use<> {
        let Self { base, offset, len, size, .. } = *self;
        let chunk = chunk_size(size);
        let end = offset + len;
        let starts = core::iter::successors(Some(offset), move |at| {
            let next = (at / chunk + 1).checked_mul(chunk)?;
            (next < end).then_some(next)
        });
        starts.map(move |at| {
            let behind = (at / chunk + 1).saturating_mul(chunk).min(end);
            let guest = base + (at - offset);
            Claim { guest, user: guest, len: behind - at, offset: at }
        })
    }
}

/// A dataspace that was registered, or is about to be.
pub(crate) struct Dataspace {
    /// The client's capability to it, which goes when the client does. To be kept as long as anything of it is attached; others of the
    /// session may have the same.
    pub(crate) cap: Cap,
    /// What is attached: that, or where it is a trusted one, the capability that the server was started with. It is the
    /// same memory then whatever becomes of the client.
    pub(crate) source: Cap,
    /// Which one it is, among the session's.
    pub(crate) id: u64,
    pub(crate) trusted: bool,
    pub(crate) place: Place,
    /// How often the session had been reset or connected to when it came.
    pub(crate) epoch: u32,
    /// Who keeps what is attached of it.
    pub(crate) owners: Vec<Weak<Owner>>,
}

impl Dataspace {
    pub(crate) fn file(&self) -> File {
        File {
            id: FileId(0, self.id),
            size: self.place.size,
            writable: self.place.writable,
            // Nothing else comes as far as this, unless it is trusted.
            memory: true,
            trusted: self.trusted,
        }
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = (Claim, File)> + use<> {
        let file = self.file();
        self.place.regions().map(move |claim| (claim, file))
    }
}

/// How far a change of a session's memory is.
pub(crate) enum Stage {
    /// Regions are being attached, one in each step.
    Attaching,
    /// Control works on it.
    Mapping,
    /// It is over.
    Over(Result<(), Refused>),
}

/// Why memory is not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Control refused it.
    Control(SessionError),
    /// It could not be attached.
    Kernel(L4Error),
    /// The device is away.
    Away,
}

impl Refused {
    /// What a client is told.
    pub(crate) fn code(self) -> L4Error {
        match self {
            Self::Kernel(why) => why,
            Self::Away => L4Error::NODEV,
            Self::Control(why) => match why {
                SessionError::Memory(why) => L4Error((-why.errno()).into()),
                SessionError::Dma(DmaError::NoMemory | DmaError::NoAddresses | DmaError::LockLimit(_))
                | SessionError::NoQueuePair => L4Error::NOMEM,
                SessionError::Dma(DmaError::Gone) | SessionError::DeviceLost | SessionError::Ended => {
                    L4Error::NODEV
                }
                SessionError::Busy => L4Error::BUSY,
                SessionError::Dma(DmaError::BadRange)
                | SessionError::Queue
                | SessionError::Ring(_)
                | SessionError::Config => L4Error::INVAL,
            },
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(why) => why.fmt(f),
            Self::Kernel(why) => write!(f, "it cannot be attached: {why}"),
            Self::Away => f.write_str("the session's device is away"),
        }
    }
}

/// A change of a session's memory under way.
pub(crate) struct Change {
    /// What comes; what is registered stays.
    pub(crate) new: Vec<Dataspace>,
    /// The regions of those, and which of them each belongs to.
    pub(crate) regions: Vec<(Claim, usize)>,
    /// The first of them, as far as they are attached.
    pub(crate) windows: Vec<Window>,
    pub(crate) stage: Stage,
}

impl Change {
    pub(crate) fn new(new: Vec<Dataspace>) -> Self {
        let regions = new.iter().enumerate();
        let regions = regions.flat_map(|(at, ds)| ds.place.regions().map(move |claim| (claim, at))).collect();
        Self { new, regions, windows: Vec::new(), stage: Stage::Attaching }
    }
}

/// What goes before a newcomer is registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Nothing: it fits beside what is there.
    Fits,
    /// Everything that is older than this epoch: it was a client's that is gone.
    Heir(u32),
    /// It overlaps what this very client registered.
    Overlaps,
    /// It would be one dataspace too many.
    TooMany,
}

/// Judges a newcomer: a client that takes a session over begins with the addresses of the last one, whose death nobody may
/// have told us.
pub(crate) fn judge(there: &[Dataspace], place: &Place, id: u64, epoch: u32, ds_max: u16) -> Verdict {
    let in_the_way = |ds: &&Dataspace| ds.place.overlaps(place);
    if there.iter().filter(in_the_way).any(|ds| ds.epoch == epoch) {
        return Verdict::Overlaps;
    }
    let heir = there.iter().any(|ds| in_the_way(&ds));
    let stays = there.iter().filter(|ds| !heir || ds.epoch == epoch);
    let mut ids: Vec<u64> = stays.map(|ds| ds.id).chain([id]).collect();
    ids.sort_unstable();
    ids.dedup();
    match (ids.len() > usize::from(ds_max), heir) {
        (true, _) => Verdict::TooMany,
        (false, true) => Verdict::Heir(epoch),
        (false, false) => Verdict::Fits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(base: u64, offset: u64, size: u64, of: u64) -> Result<Place, L4Error> {
        Place::new(Register { base, offset, size }, Some(DataspaceInfo { size: of, writable: true }))
    }

    #[test]
    fn places_are_whole_pages_inside_their_dataspace() {
        let found = place(0x20_0123, 0x1fff, 1, 0x3001).unwrap();
        assert_eq!((found.base, found.offset, found.len, found.size), (0x20_0000, 0x1000, 0x1000, 0x4000));
        assert_eq!(place(0, 0x4000, 1, 0x4000), Err(L4Error::RANGE));
        assert_eq!(place(0, 0, 4096, 0), Err(L4Error::INVAL));
        for (base, offset, size) in [
            (0, 0, 0),
            (0, 0, 0x4001),
            (0, 0x1000, 0x4000),
            (0, 0, u64::MAX),
            (u64::MAX - 0xfff, 0, 0x1000),
            (u64::MAX, 0, 0x1000),
        ] {
            assert_eq!(
                place(base, offset, size, 0x4000),
                Err(L4Error::INVAL),
                "{base:#x} {offset:#x} {size:#x}"
            );
        }
        let unknown = Place::new(Register { base: 0, offset: 1 << 40, size: 4096 }, None).unwrap();
        assert!(unknown.writable);
    }

    #[test]
    fn regions_are_the_chunks_that_a_place_touches() {
        let chunk = chunk_size(1 << 30);
        for (offset, size) in
            [(0, 1 << 30), (chunk - 4096, 8192), (chunk, 4096), (5 * chunk + 4096, 3 * chunk)]
        {
            let place = place(7 << 30, offset, size, 1 << 30).unwrap();
            let mut next = (place.base, offset);
            for claim in place.regions() {
                assert_eq!((claim.guest, claim.offset), next);
                assert_eq!(claim.offset / chunk, (claim.offset + claim.len - 1) / chunk, "one chunk");
                next = (next.0 + claim.len, next.1 + claim.len);
            }
            assert_eq!(next, (place.base + size, offset + size));
        }
    }

    fn there(base: u64, id: u64, epoch: u32) -> Dataspace {
        let place = place(base, 0, 0x1000, 0x1000).unwrap();
        Dataspace { cap: Cap(0), source: Cap(0), id, trusted: false, place, epoch, owners: Vec::new() }
    }

    #[test]
    fn an_heir_takes_the_place_of_what_was_there_before_it() {
        let old = [there(0x1000, 1, 1), there(0x5000, 2, 1)];
        let new = place(0x1000, 0, 0x1000, 0x1000).unwrap();
        assert_eq!(judge(&old, &new, 3, 2, 2), Verdict::Heir(2), "and ds-max counts what stays");
        assert_eq!(judge(&old, &new, 3, 1, 9), Verdict::Overlaps, "no reset between: the same client");
        let beside = place(0x2000, 0, 0x1000, 0x1000).unwrap();
        assert_eq!(judge(&old, &beside, 3, 2, 3), Verdict::Fits, "a reset alone takes nothing away");
        assert_eq!(judge(&old, &beside, 3, 2, 2), Verdict::TooMany);
        assert_eq!(judge(&old, &beside, 2, 2, 2), Verdict::Fits, "the same dataspace once more");
    }
}
