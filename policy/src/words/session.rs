//! What a session is asked for with, and what it has.

use super::draft::{Draft, Named, Of, Trusted};
use super::refusal::{Refusal, Why};
use crate::device::DeviceName;
use crate::grant::Access;
use crate::limits::{Dataspaces, DsMax, Rate, Tag};

/// What a client asked for, word by word. What it gets, a [`Ceiling`](crate::Ceiling) says.
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

impl Draft {
    /// What was said, as the request for a session.
    pub(crate) fn session(self) -> Result<SessionRequest, Why> {
        let device = self.devices.into_iter().next().ok_or(Why::NoDevice)?;
        Ok(SessionRequest {
            device,
            ds_max: self.ds_max,
            read_only: self.read_only,
            dataspaces: self.dataspaces,
            rate: self.rate,
            tag: self.tag,
        })
    }
}

/// What a session may have if nobody is in the way. Of what is asked for only a [`Ceiling`](crate::Ceiling) makes one, and none above itself;
/// what was minted already is held against one ([`holds`](crate::Ceiling::holds)).
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
    /// From values that are checked already, where nothing is held back.
    pub fn new(device: DeviceName, ds_max: DsMax, access: Access) -> Self {
        Self { device, ds_max, access, dataspaces: Dataspaces::ALL, rate: Rate::NONE, tag: None }
    }

    /// The same, with these bounds, and a name for listings.
    #[must_use]
    pub fn bounded(self, dataspaces: Dataspaces, rate: Rate, tag: Option<Tag>) -> Self {
        Self { dataspaces, rate, tag, ..self }
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
