//! Names of devices, as clients and operators write them.

use core::fmt;

use crate::number::{decimal, decimal_within};
use crate::partition::{Identity, Label, NoLabel, PartitionId, Serial};

/// The highest namespace identifier: the one above stands for all namespaces (NVM Express Base 2.0, 3.2.1).
const NSID_MAX: u64 = 0xffff_fffe;

/// Why a word does not name a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoName {
    /// It is empty, or nothing follows its prefix.
    Empty,
    /// What follows `partuuid:` is no UUID.
    Uuid,
    /// It has the 8-2 digits of a partition of an MBR disk, but its number is 0.
    MbrNumber,
    /// It ends like `SN:nNSID` or `SN:nNSID:PART`, but its serial number is none.
    Serial,
    /// Likewise, but its namespace identifier is none.
    Nsid,
    /// Likewise, but its partition number is none.
    Partition,
    /// It could only be a label, and is none.
    Label(NoLabel),
}

impl fmt::Display for NoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty; write SN:nNSID, SN:nNSID:PART, a partition's UUID or its label",
            Self::Uuid => {
                "no UUID; write its 8-4-4-4-12 digits, or the 8-2 digits of a partition of an MBR disk"
            }
            Self::MbrNumber => "partition 00; partitions of an MBR disk are counted from 01",
            Self::Serial => {
                "no serial number; it has 1 to 20 ASCII characters and no space at its ends \
                 (a label of this shape needs the prefix partlabel:)"
            }
            Self::Nsid => {
                "no namespace identifier; write it decimal, from 1, without leading zeros \
                 (a label of this shape needs the prefix partlabel:)"
            }
            Self::Partition => {
                "no partition number; write it decimal, from 1, without leading zeros \
                 (a label of this shape needs the prefix partlabel:)"
            }
            Self::Label(why) => return write!(f, "no device; {why}"),
        })
    }
}

impl core::error::Error for NoName {}

/// The name of a device. A name is one of four kinds, and the word alone decides which:
///
/// | word | kind |
/// | --- | --- |
/// | `partuuid:UUID`, `UUID` | a partition by its identifier, in any letter case |
/// | `partlabel:LABEL` | a partition by its label |
/// | `SN:nNSID` | a namespace |
/// | `SN:nNSID:PART` | a partition by its number |
/// | anything else | a partition by its label |
///
/// A serial number may hold spaces and colons, so the last two shapes are read from the end. A word that ends like one of
/// them (`:n` and digits, or `:n`, digits, `:` and digits, where digits may be missing) is that or refused, never a
/// label. Numbers have no leading zeros: a device has one name of each kind. Prefixes are lower-case, and come first: a
/// controller whose serial number starts with one is named by its partitions' identifiers only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceName(Kind);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Namespace { serial: Serial, nsid: u32 },
    Partition { serial: Serial, nsid: u32, number: u32 },
    Id(PartitionId),
    Label(Label),
}

impl DeviceName {
    /// Reads a name.
    pub fn parse(word: &str) -> Result<Self, NoName> {
        let kind = if let Some(id) = word.strip_prefix("partuuid:") {
            partition_id(id)?
        } else if let Some(label) = word.strip_prefix("partlabel:") {
            Kind::Label(label_of(label)?)
        } else if PartitionId::is_shape_of(word) {
            partition_id(word)?
        } else if let Some(shape) = Shape::of(word) {
            shape.checked()?
        } else {
            Kind::Label(label_of(word)?)
        };
        Ok(Self(kind))
    }

    /// Whether it names that device. It may name more than one; then it names none.
    pub fn matches(&self, device: &Identity<'_>) -> bool {
        match (&self.0, &device.partition) {
            (Kind::Namespace { serial, nsid }, None) => {
                serial.as_str() == device.serial && *nsid == device.nsid
            }
            (Kind::Partition { serial, nsid, number }, Some(partition)) => {
                serial.as_str() == device.serial && *nsid == device.nsid && *number == partition.number
            }
            (Kind::Id(id), Some(partition)) => *id == partition.id,
            (Kind::Label(label), Some(partition)) => label.as_str() == partition.label,
            (Kind::Namespace { .. }, Some(_)) => false,
            (Kind::Partition { .. } | Kind::Id(_) | Kind::Label(_), None) => false,
        }
    }
}

/// As it is best written again: identifiers as Linux shows them, labels with their prefix.
impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Namespace { serial, nsid } => write!(f, "{serial}:n{nsid}"),
            Kind::Partition { serial, nsid, number } => write!(f, "{serial}:n{nsid}:{number}"),
            Kind::Id(id) => write!(f, "{id}"),
            Kind::Label(label) => write!(f, "partlabel:{label}"),
        }
    }
}

fn partition_id(text: &str) -> Result<Kind, NoName> {
    if text.is_empty() {
        return Err(NoName::Empty);
    }
    let refused = if PartitionId::is_shape_of(text) { NoName::MbrNumber } else { NoName::Uuid };
    PartitionId::parse(text).map(Kind::Id).ok_or(refused)
}

fn label_of(text: &str) -> Result<Label, NoName> {
    if text.is_empty() {
        return Err(NoName::Empty);
    }
    Label::new(text).map_err(NoName::Label)
}

/// The pieces of a word that ends like `SN:nNSID` or `SN:nNSID:PART`, as yet unchecked.
struct Shape<'a> {
    serial: &'a str,
    nsid: &'a str,
    number: Option<&'a str>,
}

impl<'a> Shape<'a> {
    fn of(word: &'a str) -> Option<Self> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let nsid_of = |text: &'a str| text.strip_prefix('n').filter(|nsid| digits(nsid));
        let (head, last) = word.rsplit_once(':')?;
        if let Some(nsid) = nsid_of(last) {
            return Some(Self { serial: head, nsid, number: None });
        }
        let (serial, nsid) = head.rsplit_once(':')?;
        let nsid = nsid_of(nsid)?;
        digits(last).then_some(Self { serial, nsid, number: Some(last) })
    }

    fn checked(&self) -> Result<Kind, NoName> {
        let serial = Serial::new(self.serial).ok_or(NoName::Serial)?;
        let nsid =
            decimal_within(self.nsid, 1, NSID_MAX).and_then(|n| n.try_into().ok()).ok_or(NoName::Nsid)?;
        let Some(number) = self.number else {
            return Ok(Kind::Namespace { serial, nsid });
        };
        let number = decimal(number).filter(|&n| n > 0).and_then(|n| n.try_into().ok());
        Ok(Kind::Partition { serial, nsid, number: number.ok_or(NoName::Partition)? })
    }
}
