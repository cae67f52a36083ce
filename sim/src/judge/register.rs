//! What a session may register, by what its client said and its operator chose, in plain numbers.

/// Most regions of a session.
const REGIONS: usize = 512;

/// A region that a client wants to be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) guest: u64,
    pub(crate) user: u64,
    pub(crate) len: u64,
    pub(crate) offset: u64,
    /// In which file, how long that is, and which trusted dataspaces it is (bits).
    pub(crate) file: u64,
    pub(crate) size: u64,
    pub(crate) trusted: u64,
    /// Whether that is memory.
    pub(crate) memory: bool,
}

/// What bounds a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// So many files.
    pub(crate) files: u64,
    /// So many bytes.
    pub(crate) bytes: u64,
    /// A file has to be one of these (bits); none: it may be any.
    pub(crate) one_of: Option<u64>,
}

/// Why a session may not have all of these. `new`: what is new among them.
pub(crate) fn wrong(all: &[Claim], new: &[Claim], bounds: Bounds) -> Option<&'static str> {
    for claim in new {
        let Claim { guest, user, len, offset, size, trusted, memory, .. } = *claim;
        if len == 0 {
            return Some("it is empty");
        }
        if [guest, user, offset].iter().any(|start| start.checked_add(len).is_none()) {
            return Some("it wraps");
        }
        if offset + len > size {
            return Some("it reaches over the end of its file");
        }
        if bounds.one_of.is_some_and(|bits| bits & trusted == 0) {
            return Some("it is not trusted");
        }
        if !memory && trusted == 0 {
            return Some("it is no memory");
        }
    }
    let meet = |a: u64, b: u64, len: (u64, u64)| a < b + len.1 && b < a + len.0;
    for (i, one) in all.iter().enumerate() {
        for other in &all[i + 1..] {
            let len = (one.len, other.len);
            if meet(one.guest, other.guest, len) || meet(one.user, other.user, len) {
                return Some("it overlaps another");
            }
        }
    }
    let mut files: Vec<u64> = all.iter().map(|claim| claim.file).collect();
    files.sort_unstable();
    files.dedup();
    if files.len() as u64 > bounds.files {
        return Some("it is one file too many");
    }
    if all.len() > REGIONS {
        return Some("it is one region too many");
    }
    let bytes: u64 = all.iter().map(|claim| claim.len).sum();
    (bytes > bounds.bytes).then_some("it is more memory than there may be")
}
