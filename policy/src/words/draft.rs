//! A request in the making.

use core::num::NonZeroU64;

use super::refusal::{Refusal, Why};
use crate::device::{DeviceName, NoName};
use crate::limits::{
    DEVICES_MAX, Dataspaces, DsMax, FACTORIES_MOST, Rate, SESSIONS_MOST, Tag, byte_count, count,
};
use crate::number::decimal_within;
use crate::shown::Shown;

/// Of what the words are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Of {
    Session,
    Factory,
}

/// The trusted dataspaces that words can name.
#[derive(Clone, Copy, Debug)]
pub struct Trusted<'a, T> {
    /// The names of all, in the server's order.
    pub names: &'a [T],
    /// Which of them can be had. Another name is as good as none.
    pub held: Dataspaces,
}

impl Trusted<'_, &'static str> {
    /// None.
    pub const NONE: Self = Self { names: &[], held: Dataspaces::ALL };
}

/// Which trusted dataspaces were named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Named {
    /// Those that there are; not bounded where none was named.
    pub(crate) known: Dataspaces,
    /// The last one.
    pub(crate) last: Option<Shown>,
    /// The first one that cannot be had.
    pub(crate) strange: Option<Shown>,
}

/// What was said so far. The words of a dynamic client and the options of a static one meet here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
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

impl Draft {
    /// Gathers words; each is known, and said once.
    ///
    /// Reads no further than the first word that is refused.
    pub(super) fn gather<'a, A, T>(
        of: Of,
        words: impl IntoIterator<Item = &'a A>,
        trusted: &Trusted<'_, T>,
    ) -> Result<Self, Refusal>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
        T: AsRef<str>,
    {
        let mut draft = Self::default();
        for word in words {
            let word = word.as_ref();
            let refused = |why| Refusal::of(Shown::new(word), why);
            let text = core::str::from_utf8(word).map_err(|_| refused(Why::NotText))?;
            draft.word(of, text, trusted).map_err(refused)?;
        }
        Ok(draft)
    }

    fn word<T: AsRef<str>>(&mut self, of: Of, word: &str, trusted: &Trusted<'_, T>) -> Result<(), Why> {
        let pair = word.split_once('=');
        match (pair, of) {
            (Some(("device", device)), Of::Session) => self.device(device),
            (Some(("device", device)), Of::Factory) => self.further_device(device),
            (Some(("ds-max", count)), _) => self.ds_max(count),
            (Some(("ds", name)), _) => self.dataspace(name, trusted),
            (Some(("iops", number)), _) => self.iops(number),
            (Some(("bytes", size)), _) => self.bytes(size),
            (Some(("name", text)), _) => once(&mut self.tag, Tag::new(text).ok_or(Why::Tag)?),
            (Some(("sessions", number)), Of::Factory) => self.sessions(number),
            (Some(("factories", number)), Of::Factory) => self.factories(number),
            (Some(("mem-max", size)), Of::Factory) => {
                once(&mut self.memory, byte_count(size).ok_or(Why::Size)?)
            }
            (Some(("iops-all", number)), Of::Factory) => self.iops_all(number),
            (Some(("bytes-all", size)), Of::Factory) => self.bytes_all(size),
            (None, _) if word == "read-only" => self.read_only(),
            (Some((name, _)), Of::Session) if of_factory(name) => Err(Why::OfFactory),
            _ => Err(unknown(word)),
        }
    }

    /// The one device of a session.
    pub(crate) fn device(&mut self, name: &str) -> Result<(), Why> {
        let device = device(name)?;
        if !self.devices.is_empty() {
            return Err(Why::Repeated);
        }
        self.devices.push(device).map_err(|_full| Why::TooManyDevices(DEVICES_MAX))
    }

    /// One of a factory's devices.
    pub(crate) fn further_device(&mut self, name: &str) -> Result<(), Why> {
        let device = device(name)?;
        if self.devices.contains(&device) {
            return Err(Why::Repeated);
        }
        self.devices.push(device).map_err(|_full| Why::TooManyDevices(DEVICES_MAX))
    }

    pub(crate) fn ds_max(&mut self, count: &str) -> Result<(), Why> {
        once(&mut self.ds_max, DsMax::parse(count).ok_or(Why::DsMax)?)
    }

    pub(crate) fn read_only(&mut self) -> Result<(), Why> {
        if core::mem::replace(&mut self.read_only, true) { Err(Why::Repeated) } else { Ok(()) }
    }

    /// One of the trusted dataspaces.
    pub(crate) fn dataspace<T: AsRef<str>>(
        &mut self,
        name: &str,
        trusted: &Trusted<'_, T>,
    ) -> Result<(), Why> {
        if name.is_empty() {
            return Err(Why::Empty);
        }
        let shown = || Some(Shown::new(name.as_bytes()));
        let place = trusted.names.iter().position(|known| known.as_ref() == name);
        let Some(known) = place
            .filter(|place| trusted.held.admits(Some(*place)))
            .and_then(|place| self.dataspaces.known.and(place))
        else {
            if self.dataspaces.strange.is_none() {
                self.dataspaces.strange = shown();
            }
            return Ok(());
        };
        if known == self.dataspaces.known {
            return Err(Why::Repeated);
        }
        self.dataspaces.known = known;
        self.dataspaces.last = shown();
        Ok(())
    }

    pub(crate) fn iops(&mut self, number: &str) -> Result<(), Why> {
        once(&mut self.rate.iops, number_from_1(number)?)
    }

    pub(crate) fn bytes(&mut self, size: &str) -> Result<(), Why> {
        once(&mut self.rate.bytes, byte_count(size).ok_or(Why::Size)?)
    }

    pub(crate) fn sessions(&mut self, number: &str) -> Result<(), Why> {
        once(&mut self.sessions, within(number, 1, SESSIONS_MOST)?)
    }

    pub(crate) fn factories(&mut self, number: &str) -> Result<(), Why> {
        once(&mut self.factories, within(number, 0, FACTORIES_MOST)?)
    }

    pub(crate) fn iops_all(&mut self, number: &str) -> Result<(), Why> {
        once(&mut self.all.iops, number_from_1(number)?)
    }

    pub(crate) fn bytes_all(&mut self, size: &str) -> Result<(), Why> {
        once(&mut self.all.bytes, byte_count(size).ok_or(Why::Size)?)
    }

    /// With a name for listings, where the text is one.
    pub(crate) fn tagged(self, text: &str) -> Self {
        Self { tag: Tag::new(text), ..self }
    }
}

fn device(name: &str) -> Result<DeviceName, Why> {
    if name.is_empty() {
        return Err(Why::Device(NoName::Empty));
    }
    DeviceName::parse(name).map_err(Why::Device)
}

fn number_from_1(text: &str) -> Result<NonZeroU64, Why> {
    count(text).ok_or(Why::Number { least: 1, most: u64::MAX })
}

fn within(text: &str, least: u64, most: u64) -> Result<u64, Why> {
    decimal_within(text, least, most).ok_or(Why::Number { least, most })
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Why> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Why::Repeated),
    }
}

fn of_factory(name: &str) -> bool {
    ["sessions", "factories", "mem-max", "iops-all", "bytes-all"].contains(&name)
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
        (["dsmax", "maxds"].as_slice(), "ds-max=N"),
        (["ds", "dataspace", "registerds"].as_slice(), "ds=CAP"),
        (["device", "dev", "disk", "devices"].as_slice(), "device=DEV"),
        (["iops", "iopsmax"].as_slice(), "iops=N"),
        (["bytes", "bps"].as_slice(), "bytes=SIZE"),
        (["name", "tag"].as_slice(), "name=TEXT"),
    ] {
        if spellings.iter().any(looks_like) {
            return Why::Meant(known);
        }
    }
    Why::Unknown
}
