//! What a factory may give at most.

use core::fmt::{self, Write};
use core::num::NonZeroU64;

use crate::grant::Access;
use crate::limits::{Dataspaces, DsMax, Rate, stricter, within};
use crate::shown::Shown;
use crate::words::{FactoryRequest, Named, Policy, Refusal, SessionRequest, Trusted, Why};

/// What a factory may give at most, places on disk aside (those are [`Grant`](crate::Grant)s, which only become narrower).
///
/// Having a [`Policy`] or another ceiling from [`admit`](Self::admit) or [`below`](Self::below) tells you that it is within this one:
/// whatever asks for more is refused, never given less in silence. What is not said is the smaller of the default and of
/// what is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling {
    access: Access,
    ds_max: DsMax,
    dataspaces: Dataspaces,
    rate: Rate,
    sessions: Option<u64>,
    factories: u64,
    memory: Option<NonZeroU64>,
    all: Rate,
}

impl Policy {
    /// What these words come to where nothing is held back, and no dataspace is trusted by name.
    pub fn from_words<'a, A>(words: impl IntoIterator<Item = &'a A>) -> Result<Self, Refusal>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
    {
        Ceiling::SERVER.admit(&SessionRequest::from_words(words, &Trusted::NONE)?)
    }
}

impl Ceiling {
    /// That of the server's own factory: nothing is held back.
    pub const SERVER: Self = Self {
        access: Access::ReadWrite,
        ds_max: DsMax::MOST,
        dataspaces: Dataspaces::ALL,
        rate: Rate::NONE,
        sessions: None,
        factories: u64::MAX,
        memory: None,
        all: Rate::NONE,
    };

    /// Whether what is minted may write.
    pub fn access(&self) -> Access {
        self.access
    }

    /// How many dataspaces each session may register.
    pub fn ds_max(&self) -> DsMax {
        self.ds_max
    }

    /// Which dataspaces may be registered.
    pub fn dataspaces(&self) -> Dataspaces {
        self.dataspaces
    }

    /// How much each session may do a second.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// How many sessions there may be below it at a time.
    pub fn sessions(&self) -> Option<u64> {
        self.sessions
    }

    /// How many factories there may be below it at a time.
    pub fn factories(&self) -> u64 {
        self.factories
    }

    /// How many bytes all sessions below it may register together.
    pub fn memory(&self) -> Option<NonZeroU64> {
        self.memory
    }

    /// How much all sessions below it may do a second together.
    pub fn all(&self) -> Rate {
        self.all
    }

    /// The policy of a session that is asked for here.
    pub fn admit(&self, asked: &SessionRequest) -> Result<Policy, Refusal> {
        let access = self.access_of(asked.read_only())?;
        Ok(Policy {
            device: asked.device().clone(),
            ds_max: self.ds_max_of(asked.ds_max())?,
            access,
            dataspaces: self.dataspaces_of(asked.dataspaces())?,
            rate: self.rate_of(asked.rate())?,
            tag: asked.tag().cloned(),
        })
    }

    /// The ceiling of a factory that is asked for here.
    pub fn below(&self, asked: &FactoryRequest) -> Result<Self, Refusal> {
        let access = self.access_of(asked.read_only())?;
        let sessions = number("sessions", asked.sessions(), self.sessions)?;
        let factories = asked.factories().unwrap_or(0);
        if factories > self.factories {
            return Err(beyond(format_args!("factories={factories}"), self.factories));
        }
        Ok(Self {
            access,
            ds_max: self.ds_max_of(asked.ds_max())?,
            dataspaces: self.dataspaces_of(asked.dataspaces())?,
            rate: self.rate_of(asked.rate())?,
            sessions,
            factories,
            memory: bound("mem-max", asked.memory(), self.memory)?,
            all: Rate {
                iops: bound("iops-all", asked.all().iops, self.all.iops)?,
                bytes: bound("bytes-all", asked.all().bytes, self.all.bytes)?,
            },
        })
    }

    /// The same, with each session bounded by this as well.
    #[must_use]
    pub fn with_each(&self, access: Access, ds_max: DsMax, dataspaces: Dataspaces, rate: Rate) -> Self {
        self.meet(&Self { access, ds_max, dataspaces, rate, ..Self::SERVER })
    }

    /// The same, with all that is below it bounded by this as well.
    #[must_use]
    pub fn with_all(
        &self,
        sessions: Option<u64>,
        factories: u64,
        memory: Option<NonZeroU64>,
        all: Rate,
    ) -> Self {
        self.meet(&Self { sessions, factories, memory, all, ..Self::SERVER })
    }

    /// What both allow.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let writes = self.access == Access::ReadWrite && other.access == Access::ReadWrite;
        let rate =
            |a: Rate, b: Rate| Rate { iops: stricter(a.iops, b.iops), bytes: stricter(a.bytes, b.bytes) };
        Self {
            access: if writes { Access::ReadWrite } else { Access::ReadOnly },
            ds_max: self.ds_max.min(other.ds_max),
            dataspaces: self.dataspaces.meet(other.dataspaces),
            rate: rate(self.rate, other.rate),
            sessions: stricter(self.sessions, other.sessions),
            factories: self.factories.min(other.factories),
            memory: stricter(self.memory, other.memory),
            all: rate(self.all, other.all),
        }
    }

    /// Whether a session with that policy has no more than this, its device aside.
    pub fn holds(&self, policy: &Policy) -> bool {
        (policy.access() == Access::ReadOnly || self.access == Access::ReadWrite)
            && policy.ds_max() <= self.ds_max
            && policy.dataspaces().is_within(self.dataspaces)
            && within(policy.rate().iops, self.rate.iops)
            && within(policy.rate().bytes, self.rate.bytes)
    }

    fn access_of(&self, read_only: bool) -> Result<Access, Refusal> {
        match (read_only, self.access) {
            (true, _) => Ok(Access::ReadOnly),
            (false, Access::ReadWrite) => Ok(Access::ReadWrite),
            (false, Access::ReadOnly) => Err(Refusal::missing(Why::FactoryReadOnly)),
        }
    }

    fn ds_max_of(&self, asked: Option<DsMax>) -> Result<DsMax, Refusal> {
        match asked {
            None => Ok(DsMax::default().min(self.ds_max)),
            Some(count) if count <= self.ds_max => Ok(count),
            Some(count) => Err(beyond(format_args!("ds-max={}", count.get()), self.ds_max.get().into())),
        }
    }

    fn dataspaces_of(&self, asked: &Named) -> Result<Dataspaces, Refusal> {
        // One answer for what there is not and for what is not held.
        let why = if self.dataspaces.is_bounded() { Why::NotHeld } else { Why::NoDataspace };
        if let Some(strange) = &asked.strange {
            return Err(Refusal::of(strange.clone(), why));
        }
        match asked.known {
            unsaid if !unsaid.is_bounded() => Ok(self.dataspaces),
            known if known.is_within(self.dataspaces) => Ok(known),
            // It was asked of another factory's list.
            _ => Err(Refusal { word: asked.last.clone(), why }),
        }
    }

    fn rate_of(&self, asked: Rate) -> Result<Rate, Refusal> {
        Ok(Rate {
            iops: bound("iops", asked.iops, self.rate.iops)?,
            bytes: bound("bytes", asked.bytes, self.rate.bytes)?,
        })
    }
}

/// What was asked for, or what is allowed; refused when it is more than that.
fn bound(
    word: &str,
    asked: Option<NonZeroU64>,
    most: Option<NonZeroU64>,
) -> Result<Option<NonZeroU64>, Refusal> {
    let number = number(word, asked.map(NonZeroU64::get), most.map(NonZeroU64::get))?;
    Ok(number.and_then(NonZeroU64::new))
}

fn number(word: &str, asked: Option<u64>, most: Option<u64>) -> Result<Option<u64>, Refusal> {
    match (asked, most) {
        (Some(asked), Some(most)) if asked > most => Err(beyond(format_args!("{word}={asked}"), most)),
        (Some(asked), _) => Ok(Some(asked)),
        (None, most) => Ok(most),
    }
}

fn beyond(word: fmt::Arguments<'_>, most: u64) -> Refusal {
    let mut text = heapless::String::<64>::new();
    // A word of ours with a number: it fits.
    let _fits = text.write_fmt(word);
    Refusal::of(Shown::new(text.as_bytes()), Why::MoreThan(most))
}

#[cfg(test)]
mod tests;
