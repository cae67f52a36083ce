//! The words of `create()`, and what they grant.

use core::fmt;

use crate::device::{DeviceName, NoName};
use crate::grant::Access;
use crate::number::decimal_within;
use crate::shown::Shown;

/// What a client asked for, and may have if nobody is in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    device: DeviceName,
    ds_max: DsMax,
    access: Access,
}

impl Policy {
    /// From the words that follow the type word of `create()`, in any order: `device=DEV`, and as the client likes
    /// `ds-max=N` and `read-only`. Whatever is unknown, repeated, empty or out of range is refused.
    ///
    /// Reads no further than the first word that is refused, and that is the fourth at the latest.
    pub fn from_words<'a, A>(words: impl IntoIterator<Item = &'a A>) -> Result<Self, Refusal>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
    {
        let mut draft = Draft::default();
        for word in words {
            let word = word.as_ref();
            let refused = |why| Refusal { word: Some(Shown::new(word)), why };
            let text = core::str::from_utf8(word).map_err(|_| refused(Why::NotText))?;
            draft.word(text).map_err(refused)?;
        }
        draft.finish().map_err(|why| Refusal { word: None, why })
    }

    /// From values that are checked already.
    pub fn new(device: DeviceName, ds_max: DsMax, access: Access) -> Self {
        Self { device, ds_max, access }
    }

    /// The name of the device.
    pub fn device(&self) -> &DeviceName {
        &self.device
    }

    /// How many dataspaces it may register.
    pub fn ds_max(&self) -> DsMax {
        self.ds_max
    }

    /// Whether it may write.
    pub fn access(&self) -> Access {
        self.access
    }
}

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

    fn parse(text: &str) -> Option<Self> {
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

/// Why words do not make a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The word is not known.
    Unknown,
    /// The word is not known, but looks like this one.
    Meant(&'static str),
    /// The word, or the value behind its `=`, is empty.
    Empty,
    /// The word is not UTF-8.
    NotText,
    /// The same was said before.
    Repeated,
    /// The device is not named, or by no name.
    Device(NoName),
    /// The number of dataspaces is none, or out of range.
    DsMax,
    /// No device was named.
    NoDevice,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown; the words are device=DEV, ds-max=N and read-only"),
            Self::Meant(word) => write!(f, "unknown; did you mean {word}?"),
            Self::Empty => f.write_str("empty; leave it out or give it a value"),
            Self::NotText => f.write_str("not UTF-8"),
            Self::Repeated => f.write_str("said twice; say it once"),
            Self::Device(why) => write!(f, "{why}"),
            Self::DsMax => f.write_str("not a decimal number from 1 to 256"),
            Self::NoDevice => f.write_str("no device is named; add device=DEV"),
        }
    }
}

impl core::error::Error for Why {}

/// The refusal of words. Prints as a message for the client: the word, escaped and cut, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which word it was; `None` if one is missing.
    pub word: Option<Shown>,
    /// What is wrong.
    pub why: Why,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Some(word) => write!(f, "{word}: {}", self.why),
            None => write!(f, "{}", self.why),
        }
    }
}

impl core::error::Error for Refusal {}

/// A policy in the making. The words of a dynamic client and the options of a static one meet here.
#[derive(Default)]
pub(crate) struct Draft {
    device: Option<DeviceName>,
    ds_max: Option<DsMax>,
    read_only: bool,
}

impl Draft {
    fn word(&mut self, word: &str) -> Result<(), Why> {
        match word.split_once('=') {
            Some(("device", device)) => self.device(device),
            Some(("ds-max", count)) => self.ds_max(count),
            None if word == "read-only" => self.read_only(),
            _ => Err(unknown(word)),
        }
    }

    pub(crate) fn device(&mut self, name: &str) -> Result<(), Why> {
        if name.is_empty() {
            return Err(Why::Device(NoName::Empty));
        }
        once(&mut self.device, DeviceName::parse(name).map_err(Why::Device)?)
    }

    pub(crate) fn ds_max(&mut self, count: &str) -> Result<(), Why> {
        once(&mut self.ds_max, DsMax::parse(count).ok_or(Why::DsMax)?)
    }

    pub(crate) fn read_only(&mut self) -> Result<(), Why> {
        if core::mem::replace(&mut self.read_only, true) { Err(Why::Repeated) } else { Ok(()) }
    }

    pub(crate) fn finish(self) -> Result<Policy, Why> {
        let device = self.device.ok_or(Why::NoDevice)?;
        let access = if self.read_only { Access::ReadOnly } else { Access::ReadWrite };
        Ok(Policy { device, ds_max: self.ds_max.unwrap_or_default(), access })
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Why> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Why::Repeated),
    }
}

/// What to say of a word that is not known: a typo must be found by whoever made it, above all one that would have cost a
/// disk its protection.
fn unknown(word: &str) -> Why {
    if word.is_empty() {
        return Why::Empty;
    }
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let letters = || name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase());
    let looks_like = |spelling: &&str| letters().eq(spelling.chars());
    for (spellings, known) in [
        (["readonly", "ro", "rdonly"].as_slice(), "read-only"),
        (["dsmax", "maxds", "ds"].as_slice(), "ds-max=N"),
        (["device", "dev", "disk", "devices"].as_slice(), "device=DEV"),
    ] {
        if spellings.iter().any(looks_like) {
            return Why::Meant(known);
        }
    }
    Why::Unknown
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn policy(words: &[&str]) -> Result<Policy, Refusal> {
        Policy::from_words(words.iter().copied())
    }

    fn why(words: &[&str]) -> Why {
        policy(words).unwrap_err().why
    }

    #[test]
    fn the_manual_s_words_make_a_policy_in_any_order() {
        let p = policy(&["ds-max=5", "device=88E59675-4DC8-469A-98E4-B7B021DC7FBE"]).unwrap();
        assert_eq!((p.ds_max().get(), p.access()), (5, Access::ReadWrite));
        assert_eq!(p.device().to_string(), "88e59675-4dc8-469a-98e4-b7b021dc7fbe");
        let p = policy(&["read-only", "device=1234:n1"]).unwrap();
        assert_eq!((p.ds_max().get(), p.access()), (2, Access::ReadOnly));
    }

    #[test]
    fn a_typo_never_means_read_write() {
        for word in [
            "readonly",
            "read_only",
            "READ-ONLY",
            "Read-Only",
            "ro",
            "read-only=1",
            "read-only=",
            "read only",
        ] {
            let refusal = policy(&["device=1234:n1", word]).unwrap_err();
            assert_eq!(refusal.why, Why::Meant("read-only"), "{word:?}");
            assert!(refusal.to_string().contains(word), "{refusal}");
        }
        assert_eq!(why(&["dev=1234:n1"]), Why::Meant("device=DEV"));
        assert_eq!(why(&["device"]), Why::Meant("device=DEV"));
        assert_eq!(why(&["Device=x"]), Why::Meant("device=DEV"));
        assert_eq!(why(&["dsmax=3"]), Why::Meant("ds-max=N"));
        assert_eq!(why(&["ds-max"]), Why::Meant("ds-max=N"));
    }

    #[test]
    fn unknown_repeated_empty_and_missing_words_are_refused() {
        assert_eq!(why(&["device=1234:n1", "fast"]), Why::Unknown);
        assert_eq!(why(&["device=1234:n1", " read-only"]), Why::Meant("read-only"));
        assert_eq!(why(&["device=1234:n1", ""]), Why::Empty);
        assert_eq!(why(&["device="]), Why::Device(NoName::Empty));
        assert_eq!(why(&["device=a:n1", "device=a:n1"]), Why::Repeated);
        assert_eq!(why(&["ds-max=3", "device=a:n1", "ds-max=3"]), Why::Repeated);
        assert_eq!(why(&["read-only", "device=a:n1", "read-only"]), Why::Repeated);
        assert_eq!(why(&["read-only"]), Why::NoDevice);
        assert_eq!(why(&[]), Why::NoDevice);
    }

    #[test]
    fn the_number_of_dataspaces_is_1_to_256() {
        for (text, count) in [("ds-max=1", 1), ("ds-max=256", 256)] {
            assert_eq!(policy(&["device=a:n1", text]).unwrap().ds_max().get(), count);
        }
        for text in
            ["0", "257", "-1", "+2", "2 ", "", "0x2", "02", "4294967298", "18446744073709551618", "two"]
        {
            let word = std::format!("ds-max={text}");
            assert_eq!(why(&["device=a:n1", &word]), Why::DsMax, "{word}");
        }
    }

    #[test]
    fn a_hostile_word_is_named_but_not_echoed() {
        let words: [&[u8]; 2] = [b"device=a:n1", b"x\x1b[31m\n\xff"];
        let refusal = Policy::from_words(words).unwrap_err();
        assert_eq!(refusal.why, Why::NotText);
        assert_eq!(refusal.to_string(), "\"x\\u{1b}[31m\\n\\xff\": not UTF-8");
        let long = "z".repeat(100_000);
        assert!(policy(&[&long]).unwrap_err().to_string().len() < 200);
    }

    proptest! {
        /// What is granted is what was said, to the letter.
        #[test]
        fn words_are_known_or_refused(words in proptest::collection::vec(
            prop_oneof!["(device=|ds-max=|read-only|readonly|=)?[a-f0-9:n-]{0,6}", Just(String::from("read-only")),
                Just(String::from("device=a:n1")), "ds-max=[0-9]{1,3}"], 0..5)) {
            let said: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Ok(policy) = policy(&said) {
                let count = |prefix| said.iter().filter(|w| w.starts_with(prefix)).count();
                prop_assert_eq!(count("device="), 1);
                prop_assert_eq!(count("device=") + count("ds-max=") + count("read-only"), said.len());
                prop_assert_eq!(policy.access() == Access::ReadOnly, said.contains(&"read-only"));
                let max = said.iter().find_map(|w| w.strip_prefix("ds-max=")).map_or(2, |n| n.parse().unwrap());
                prop_assert_eq!(policy.ds_max().get(), max);
            }
        }

        #[test]
        fn no_bytes_panic_or_reach_a_message_raw(words in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..5)) {
            if let Err(refusal) = Policy::from_words(words.iter()) {
                prop_assert!(!refusal.to_string().chars().any(char::is_control));
            }
        }
    }
}
