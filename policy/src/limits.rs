//! Bounds that are not about a place on disk: rates, trusted dataspaces, and the name that a listing shows.

use core::fmt;
use core::num::NonZeroU64;

use crate::number::{decimal, decimal_within, size};

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

    /// Another bound, by an operator's words: `iops=N`, `bytes=SIZE`, `none` in place of a number, or `none` alone for both; each
    /// once. What is not named stays. The word that is wrong, if one is.
    pub fn changed<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let (mut iops, mut bytes) = (None, None);
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = |parse: fn(&str) -> Option<NonZeroU64>| match value {
                "none" => Ok(None),
                _ => parse(value).map(Some).ok_or(word),
            };
            let (iops_too, bytes_too) = match name {
                "iops" => (Some(number(count)?), None),
                "bytes" => (None, Some(number(byte_count)?)),
                "none" if word == "none" => (Some(None), Some(None)),
                _ => return Err(word),
            };
            for (new, known) in [(iops_too, &mut iops), (bytes_too, &mut bytes)] {
                match (new, &known) {
                    (Some(_), Some(_)) => return Err(word),
                    (Some(_), None) => *known = new,
                    (None, _) => {}
                }
            }
        }
        Ok(Self { iops: iops.unwrap_or(self.iops), bytes: bytes.unwrap_or(self.bytes) })
    }
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

    /// The trusted dataspaces of these places.
    pub fn of(places: &[usize]) -> Self {
        places.iter().fold(Self::NONE, |all, place| all.and(*place).unwrap_or(all))
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

    /// The same of a dataspace that is, by all of its names, these of the trusted ones.
    pub fn admits_any(self, names: Self) -> bool {
        !self.is_bounded() || self.meet(names) != Self::NONE
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

    /// The same dataspaces by their places in another list: `place` says where each is there. What is nowhere there is left out.
    #[must_use]
    pub fn moved(self, place: impl Fn(usize) -> Option<usize>) -> Self {
        if !self.is_bounded() {
            return self;
        }
        self.places().filter_map(place).fold(Self::NONE, |moved, at| moved.and(at).unwrap_or(moved))
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

/// Most devices of one factory.
pub const DEVICES_MAX: usize = 16;
/// Most sessions that a factory can be asked to allow.
pub(crate) const SESSIONS_MOST: u64 = 65_535;
/// Most factories: there are no more in all.
pub(crate) const FACTORIES_MOST: u64 = 64;

/// How many dataspaces a client may register: 1 to 256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DsMax(u16);

impl DsMax {
    /// The least.
    pub const LEAST: Self = Self(1);
    /// The most.
    pub const MOST: Self = Self(256);

    /// `None` if it is out of range.
    pub const fn new(count: u16) -> Option<Self> {
        if count >= Self::LEAST.0 && count <= Self::MOST.0 { Some(Self(count)) } else { None }
    }

    /// As a number.
    pub const fn get(self) -> u16 {
        self.0
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let count = decimal_within(text, Self::LEAST.0.into(), Self::MOST.0.into())?;
        Self::new(count.try_into().ok()?)
    }
}

/// 2, when nothing is said.
impl Default for DsMax {
    fn default() -> Self {
        Self(2)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_operator_s_words_change_what_they_name_and_nothing_else() {
        let rate = |iops, bytes| Rate { iops: NonZeroU64::new(iops), bytes: NonZeroU64::new(bytes) };
        let old = rate(5, 7);
        for (words, new) in [
            (&["iops=100"][..], rate(100, 7)),
            (&["bytes=10M"], rate(5, 10 << 20)),
            (&["bytes=none", "iops=1"], rate(1, 0)),
            (&["none"], Rate::NONE),
            (&[], old),
        ] {
            assert_eq!(old.changed(words.iter().copied()), Ok(new), "{words:?}");
        }
        for (words, wrong) in [
            (&["iops=0"][..], "iops=0"),
            (&["iops=1", "iops=2"], "iops=2"),
            (&["iops=none", "none"], "none"),
            (&["none="], "none="),
            (&["iops"], "iops"),
            (&["bytes=-1"], "bytes=-1"),
            (&["speed=1"], "speed=1"),
        ] {
            assert_eq!(old.changed(words.iter().copied()), Err(wrong), "{words:?}");
        }
    }

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
