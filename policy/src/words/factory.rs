//! What an attenuated factory is asked for with.

use core::num::NonZeroU64;

use super::draft::{Draft, Named, Of, Trusted};
use super::refusal::Refusal;
use super::session::DsMax;
use crate::device::DeviceName;
use crate::limits::{Rate, Tag};

/// Most devices of one factory.
pub const DEVICES_MAX: usize = 16;
/// Most sessions that a factory can be asked to allow.
pub(super) const SESSIONS_MOST: u64 = 65_535;
/// Most factories: there are no more in all.
pub(super) const FACTORIES_MOST: u64 = 64;

/// What a factory is asked for, word by word. What it gets, the [`Ceiling`](crate::Ceiling) of the factory that is asked says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FactoryRequest {
    pub(super) devices: heapless::Vec<DeviceName, DEVICES_MAX>,
    pub(super) ds_max: Option<DsMax>,
    pub(super) read_only: bool,
    pub(super) dataspaces: Named,
    pub(super) rate: Rate,
    pub(super) tag: Option<Tag>,
    pub(super) sessions: Option<u64>,
    pub(super) factories: Option<u64>,
    pub(super) memory: Option<NonZeroU64>,
    pub(super) all: Rate,
}

impl FactoryRequest {
    /// From the words that follow the type word of `create()`, in any order: `device=DEV` (repeatable, at least one), and as the caller
    /// likes `read-only`, `ds-max=N`, `ds=CAP` (repeatable), `sessions=N`, `factories=N`, `mem-max=SIZE`, `iops=N`, `bytes=SIZE`,
    /// `iops-all=N`, `bytes-all=SIZE` and `name=TEXT`. Whatever is unknown, repeated, empty or out of range is refused.
    /// `trusted`: which dataspaces can be named.
    pub fn from_words<'a, A, T>(
        words: impl IntoIterator<Item = &'a A>,
        trusted: &Trusted<'_, T>,
    ) -> Result<Self, Refusal>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
        T: AsRef<str>,
    {
        Draft::gather(Of::Factory, words, trusted)?.factory().map_err(Refusal::missing)
    }

    /// The names of its devices, in the order in which they were said; at least one.
    pub fn devices(&self) -> &[DeviceName] {
        &self.devices
    }

    /// What listings are to call it.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
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

    pub(crate) fn sessions(&self) -> Option<u64> {
        self.sessions
    }

    pub(crate) fn factories(&self) -> Option<u64> {
        self.factories
    }

    pub(crate) fn memory(&self) -> Option<NonZeroU64> {
        self.memory
    }

    pub(crate) fn all(&self) -> Rate {
        self.all
    }
}
