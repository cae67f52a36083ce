//! Bounds that are not about a place on disk: rates, trusted dataspaces, and the name that a listing shows.

use core::fmt;
use core::num::NonZeroU64;

use crate::number::{decimal, size};

/// Most requests and most bytes a second. What is `None` is not bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Requests a second.
    pub iops: Option<NonZeroU64>,
    /// Bytes a second.
    pub bytes: Option<NonZeroU64>,
}

impl Rate {
    /// No bound at all.
    pub const NONE: Self = Self { iops: None, bytes: None };
}

/// The stricter of two bounds, where `None` is none.
pub(crate) fn stricter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// Whether a bound of `inner` is at least as strict as `outer`.
pub(crate) fn within<T: Ord>(inner: Option<T>, outer: Option<T>) -> bool {
    match (inner, outer) {
        (_, None) => true,
        (Some(inner), Some(outer)) => inner <= outer,
        (None, Some(_)) => false,
    }
}

/// A number from 1 on, as `iops=` takes it.
pub(crate) fn count(text: &str) -> Option<NonZeroU64> {
    NonZeroU64::new(decimal(text)?)
}

/// A size from 1 byte on, as `bytes=` and `mem-max=` take it.
pub(crate) fn byte_count(text: &str) -> Option<NonZeroU64> {
    NonZeroU64::new(size(text)?)
}

/// Most trusted dataspaces: as many as a command line names.
pub const DATASPACES_MAX: usize = 64;

/// Which dataspaces a session may register: all that the server admits, or of the trusted ones these.
///
/// A dataspace is known by its place in the server's list of trusted ones, which does not change while the server runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dataspaces(Option<u64>);

impl Dataspaces {
    /// Whatever the server admits.
    pub const ALL: Self = Self(None);
    /// None.
    pub const NONE: Self = Self(Some(0));

    /// The same, and the trusted dataspace of that place in the list. `None` where there can be none of that place.
    #[must_use]
    pub fn and(self, place: usize) -> Option<Self> {
        let bit = 1_u64.checked_shl(u32::try_from(place).ok()?)?;
        Some(Self(Some(self.0.unwrap_or(0) | bit)))
    }

    /// Whether it is bounded to some of the trusted ones.
    pub fn is_bounded(self) -> bool {
        self.0.is_some()
    }

    /// Whether a dataspace may be registered, as far as this goes: by its place among the trusted ones, `None` if it is none of them.
    pub fn admits(self, place: Option<usize>) -> bool {
        let Some(bits) = self.0 else { return true };
        let bit = place.and_then(|p| u32::try_from(p).ok()).and_then(|p| 1_u64.checked_shl(p));
        bit.is_some_and(|bit| bits & bit != 0)
    }

    /// What both admit.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Some(a), Some(b)) => Some(a & b),
            (one, other) => one.or(other),
        })
    }

    /// Whether the other admits all that this one does.
    pub fn is_within(self, other: Self) -> bool {
        self.meet(other) == self
    }

    /// The places of those that it is bounded to; none where it is not bounded.
    pub fn places(self) -> impl Iterator<Item = usize> {
        let bits = self.0.unwrap_or(0);
        (0..DATASPACES_MAX).filter(move |place| bits >> place & 1 != 0)
    }
}

/// The length of a [`Tag`], at most.
const TAG_MAX: usize = 36;

/// What listings, metrics and the audit trail call a session or a factory: 1 to 36 printable ASCII characters. A label, not a name: it
/// need not be unique, and grants nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag(heapless::String<TAG_MAX, u8>);

impl Tag {
    /// `None` if it is empty, too long, or holds something that is not printable ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let printable = !text.is_empty() && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
        printable.then(|| heapless::String::try_from(text).ok().map(Self)).flatten()
    }

    /// As it was said.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tag_is_short_and_printable() {
        for text in ["a", "VM 7: web", &"x".repeat(36)] {
            assert_eq!(Tag::new(text).unwrap().as_str(), text);
        }
        for text in ["", "a\n", "ü", "\u{7f}", &"x".repeat(37)] {
            assert_eq!(Tag::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_admitted_by_a_place_that_is_none() {
        let first = Dataspaces::NONE.and(0).unwrap();
        assert!(first.admits(Some(0)));
        for near_miss in [None, Some(1), Some(63), Some(64), Some(usize::MAX)] {
            assert!(!first.admits(near_miss), "{near_miss:?}");
        }
        assert!(
            Dataspaces::ALL.admits(None)
                && !Dataspaces::NONE.admits(None)
                && !Dataspaces::NONE.admits(Some(0))
        );
        assert_eq!(Dataspaces::NONE.and(DATASPACES_MAX), None);
    }

    fn dataspaces() -> impl Strategy<Value = Dataspaces> {
        any::<Option<u64>>().prop_map(Dataspaces)
    }

    proptest! {
        #[test]
        fn a_meet_admits_what_both_admit(a in dataspaces(), b in dataspaces(), place in proptest::option::of(0..64_usize)) {
            prop_assert_eq!(a.meet(b).admits(place), a.admits(place) && b.admits(place));
            prop_assert!(a.meet(b).is_within(a) && a.meet(b).is_within(b));
        }

        #[test]
        fn the_stricter_bound_is_within_both(a in any::<Option<u8>>(), b in any::<Option<u8>>()) {
            let both = stricter(a, b);
            prop_assert!(within(both, a) && within(both, b));
            prop_assert!(both == a || both == b);
        }
    }
}
