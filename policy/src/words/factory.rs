//! What an attenuated factory is asked for with.

use core::num::NonZeroU64;

use super::draft::{Draft, Named, Of, Trusted};
use super::refusal::{Refusal, Why};
use crate::device::DeviceName;
use crate::limits::{DEVICES_MAX, DsMax, Rate, Tag};

/// What a factory is asked for, word by word. What it gets, the [`Ceiling`](crate::Ceiling) of the factory that is asked says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FactoryRequest {
    pub(super) devices: heapless::Vec<DeviceName, DEVICES_MAX>,
    pub(super) terms: Terms,
}

/// All of it but the devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    pub(super) ds_max: Option<DsMax>,
    pub(super) read_only: bool,
    pub(crate) dataspaces: Named,
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

    /// What the command line kept apart. There are no more devices than one factory can have.
    pub(crate) fn of(devices: &[DeviceName], terms: Terms) -> Self {
        Self { devices: devices.iter().take(DEVICES_MAX).cloned().collect(), terms }
    }

    pub(crate) fn into_parts(self) -> (heapless::Vec<DeviceName, DEVICES_MAX>, Terms) {
        (self.devices, self.terms)
    }

    /// The names of its devices, in the order in which they were said; at least one.
    pub fn devices(&self) -> &[DeviceName] {
        &self.devices
    }

    /// What listings are to call it.
    pub fn tag(&self) -> Option<&Tag> {
        self.terms.tag.as_ref()
    }

    pub(crate) fn ds_max(&self) -> Option<DsMax> {
        self.terms.ds_max
    }

    pub(crate) fn read_only(&self) -> bool {
        self.terms.read_only
    }

    pub(crate) fn dataspaces(&self) -> &Named {
        &self.terms.dataspaces
    }

    pub(crate) fn rate(&self) -> Rate {
        self.terms.rate
    }

    pub(crate) fn sessions(&self) -> Option<u64> {
        self.terms.sessions
    }

    pub(crate) fn factories(&self) -> Option<u64> {
        self.terms.factories
    }

    pub(crate) fn memory(&self) -> Option<NonZeroU64> {
        self.terms.memory
    }

    pub(crate) fn all(&self) -> Rate {
        self.terms.all
    }
}

impl Draft {
    /// What was said, as the request for a factory.
    pub(crate) fn factory(self) -> Result<FactoryRequest, Why> {
        if self.devices.is_empty() {
            return Err(Why::NoDevice);
        }
        let terms = Terms {
            ds_max: self.ds_max,
            read_only: self.read_only,
            dataspaces: self.dataspaces,
            rate: self.rate,
            tag: self.tag,
            sessions: self.sessions,
            factories: self.factories,
            memory: self.memory,
            all: self.all,
        };
        Ok(FactoryRequest { devices: self.devices, terms })
    }
}
