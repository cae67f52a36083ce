//! What a session is asked for with, and what it has.

use super::draft::{Draft, Named, Of, Trusted};
use super::refusal::Refusal;
use crate::ceiling::Ceiling;
use crate::device::DeviceName;
use crate::grant::Access;
use crate::limits::{Dataspaces, Rate, Tag};
use crate::number::decimal_within;

/// What a client asked for, word by word. What it gets, a [`Ceiling`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRequest {
    pub(super) device: DeviceName,
    pub(super) ds_max: Option<DsMax>,
    pub(super) read_only: bool,
    pub(super) dataspaces: Named,
    pub(super) rate: Rate,
    pub(super) tag: Option<Tag>,
}

impl SessionRequest {
    /// From the words that follow the type word of `create()`, in any order: `device=DEV`, and as the client likes `ds-max=N`,
    /// `read-only`, `ds=CAP` (repeatable), `iops=N`, `bytes=SIZE` and `name=TEXT`. Whatever is unknown, repeated, empty or out of
    /// range is refused. `trusted`: which dataspaces can be named.
    pub fn from_words<'a, A, T>(
        words: impl IntoIterator<Item = &'a A>,
        trusted: &Trusted<'_, T>,
    ) -> Result<Self, Refusal>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
        T: AsRef<str>,
    {
        Draft::gather(Of::Session, words, trusted)?.session().map_err(Refusal::missing)
    }

    /// The name of the device.
    pub fn device(&self) -> &DeviceName {
        &self.device
    }

    pub(crate) fn ds_max(&self) -> Option<DsMax> {
        self.ds_max
    }

    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn dataspaces(&self) -> &Named {
        &self.dataspaces
    }

    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    pub(crate) fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }
}

/// What a session may have if nobody is in the way. Only a [`Ceiling`] makes one, and none above itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    pub(crate) device: DeviceName,
    pub(crate) ds_max: DsMax,
    pub(crate) access: Access,
    pub(crate) dataspaces: Dataspaces,
    pub(crate) rate: Rate,
    pub(crate) tag: Option<Tag>,
}

impl Policy {
    /// What these words come to where nothing is held back, and no dataspace is trusted by name.
    pub fn from_words<'a, A>(words: impl IntoIterator<Item = &'a A>) -> Result<Self, Refusal>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
    {
        Ceiling::SERVER.admit(&SessionRequest::from_words(words, &Trusted::NONE)?)
    }

    /// From values that are checked already, where nothing is held back.
    pub fn new(device: DeviceName, ds_max: DsMax, access: Access) -> Self {
        Self { device, ds_max, access, dataspaces: Dataspaces::ALL, rate: Rate::NONE, tag: None }
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

    /// Which dataspaces it may register.
    pub fn dataspaces(&self) -> Dataspaces {
        self.dataspaces
    }

    /// How much it may do a second.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What listings call it.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
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

    pub(super) fn parse(text: &str) -> Option<Self> {
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
