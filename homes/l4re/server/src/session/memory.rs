//! What a client registered: dataspaces, and the regions that they are to the core.

use alloc::sync::Weak;
use alloc::vec::Vec;
use core::fmt;

use nvme_core::server::control::{MemoryChange, SessionError};
use nvme_l4re::chunk::chunk_size;
use nvme_l4re::kernel::{Cap, DataspaceInfo, L4Error};
use nvme_platform::{Owner, PAGE, Window};
use nvme_policy::Dataspaces;
use nvme_session::dataspace::{Claim, File, FileId, RegistryError};

use crate::message::{Register, code};

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
    /// Which of the trusted ones it is, by all of their names.
    pub(crate) trusted: Dataspaces,
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
    /// Control refused it: the rules that every home has.
    Control(SessionError),
    /// A dataspace or the kernel refused, or a bound of this home's, for this reason.
    Here(L4Error, &'static str),
    /// It could not be attached.
    Kernel(L4Error),
    /// The device is away.
    Away,
}

impl Refused {
    /// What a client is told.
    pub(crate) fn code(self) -> L4Error {
        match self {
            Self::Here(code, _) | Self::Kernel(code) => code,
            Self::Away => L4Error::NODEV,
            Self::Control(why) => code(why.errno()),
        }
    }
}

impl From<SessionError> for Refused {
    fn from(why: SessionError) -> Self {
        Self::Control(why)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(SessionError::Memory(RegistryError::NotTrusted)) => {
                f.write_str("it is none of the trusted ones (--register-ds)")
            }
            Self::Control(SessionError::Memory(RegistryError::NotMemory)) => {
                f.write_str("it is not L4Re's own memory, and not trusted (--register-ds)")
            }
            Self::Control(why) => why.fmt(f),
            Self::Here(_, why) => f.write_str(why),
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

/// Whether a newcomer is an heir: it lies where only what is older than this epoch was registered, so the client that did that is gone,
/// which nobody may have told us, and all that is older goes. What the newcomer's own client registered is never in its way like that: the
/// rules refuse the overlap.
pub(crate) fn is_heir(there: &[Dataspace], place: &Place, epoch: u32) -> bool {
    let mut in_the_way = there.iter().filter(|ds| ds.place.overlaps(place)).peekable();
    in_the_way.peek().is_some() && in_the_way.all(|ds| ds.epoch != epoch)
}

/// What makes these dataspaces the registered ones, and how many of its regions are `kept` ones. `exact`: control has what is kept and
/// nothing else.
pub(crate) fn change<'a>(
    kept: impl Iterator<Item = &'a Dataspace>,
    new: &[Dataspace],
    exact: bool,
) -> (usize, MemoryChange) {
    let mut coming = new.iter().flat_map(Dataspace::claims);
    match (exact, coming.next(), coming.next()) {
        // The usual case, and much less work where there are many regions.
        (true, Some((claim, file)), None) => (0, MemoryChange::Add(claim, file)),
        (_, first, second) => {
            let mut wanted: Vec<(Claim, File)> = kept.flat_map(Dataspace::claims).collect();
            let first_new = wanted.len();
            wanted.extend(first.into_iter().chain(second).chain(coming));
            (first_new, MemoryChange::Replace(wanted))
        }
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
        Dataspace {
            cap: Cap(0),
            source: Cap(0),
            id,
            trusted: Dataspaces::NONE,
            place,
            epoch,
            owners: Vec::new(),
        }
    }

    #[test]
    fn an_heir_takes_the_place_of_what_was_there_before_it() {
        let old = [there(0x1000, 1, 1), there(0x5000, 2, 1), there(0x7000, 3, 2)];
        let at = |base, size| place(base, 0, size, 0x10000).unwrap();
        assert!(is_heir(&old, &at(0x1000, 0x1000), 2));
        assert!(!is_heir(&old, &at(0x1000, 0x1000), 1), "no reset between: the same client");
        assert!(!is_heir(&old, &at(0x2000, 0x1000), 2), "a reset alone takes nothing away");
        assert!(!is_heir(&old, &at(0x5000, 0x3000), 2), "some of it is its own");
    }

    #[test]
    fn a_change_is_one_region_more_where_that_says_it_and_a_whole_table_otherwise() {
        let (kept, new) = ([there(0x1000, 1, 1)], [there(0x5000, 2, 1), there(0x6000, 3, 1)]);
        let is_add = |(first, change): (usize, MemoryChange)| match change {
            MemoryChange::Add(claim, _) => (claim.guest, first) == (0x5000, 0),
            MemoryChange::Replace(_) | MemoryChange::Remove(..) => false,
        };
        assert!(is_add(change(kept.iter(), &new[..1], true)));
        for (new, exact) in [(&new[..1], false), (&new[..], true), (&[], true)] {
            let (first, MemoryChange::Replace(wanted)) = change(kept.iter(), new, exact) else { panic!() };
            assert_eq!((first, wanted.len()), (1, 1 + new.len()));
            assert_eq!(wanted[0].0.guest, 0x1000);
        }
    }
}
