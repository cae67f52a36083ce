//! Names of devices, as clients and operators write them.

use core::fmt;

use crate::number::{decimal, decimal_within};
use crate::partition::{Identity, Label, NoLabel, PartitionId, Serial};
use crate::place::PciPlace;

/// The highest namespace identifier: the one above stands for all namespaces (NVM Express Base 2.0, 3.2.1).
const NSID_MAX: u64 = 0xffff_fffe;

/// Why a word does not name a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoName {
    /// It is empty, or nothing follows its prefix.
    Empty,
    /// What follows `partuuid:` is no UUID.
    Uuid,
    /// What follows `pci:` is no controller's place with a namespace of it.
    Place,
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
            Self::Empty => {
                "empty; write SN:nNSID, SN:nNSID:PART, pci:DDDD:BB:DD.F:nNSID, a partition's UUID or its label"
            }
            Self::Place => {
                "no place of a namespace; write pci:DDDD:BB:DD.F:nNSID or pci:DDDD:BB:DD.F:nNSID:PART, \
                 the address as lspci -D prints it"
            }
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

/// The name of a device. A name is of one kind, and the word alone decides which:
///
/// | word | kind |
/// | --- | --- |
/// | `partuuid:UUID`, `UUID` | a partition by its identifier, in any letter case |
/// | `partlabel:LABEL` | a partition by its label |
/// | `pci:DDDD:BB:DD.F:nNSID` | a namespace by its controller's place |
/// | `pci:DDDD:BB:DD.F:nNSID:PART` | a partition of that, by its number |
/// | `SN:nNSID` | a namespace by its controller's serial number |
/// | `SN:nNSID:PART` | a partition of that, by its number |
/// | anything else | a partition by its label |
///
/// A serial number may hold spaces and colons, so the last two shapes are read from the end. A word that ends like one of
/// them (`:n` and digits, or `:n`, digits, `:` and digits, where digits may be missing) is that or refused, never a
/// label. Numbers have no leading zeros: a device has one name of each kind. Prefixes are lower-case, and come first: a
/// controller whose serial number starts with one is named by its place, or by its partitions' identifiers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceName(Kind);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// A namespace of a controller, or a partition of that by its number.
    Numbered {
        controller: ByController,
        nsid: u32,
        partition: Option<u32>,
    },
    Id(PartitionId),
    Label(Label),
}

/// Which controller.
#[derive(Clone, PartialEq, Eq, Debug)]
enum ByController {
    Serial(Serial),
    Place(PciPlace),
}

impl ByController {
    fn is_of(&self, device: &Identity<'_>) -> bool {
        match self {
            Self::Serial(serial) => serial.as_str() == device.serial,
            Self::Place(place) => Some(*place) == device.place,
        }
    }
}

impl fmt::Display for ByController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => serial.fmt(f),
            Self::Place(place) => write!(f, "pci:{place}"),
        }
    }
}

impl DeviceName {
    /// Reads a name.
    pub fn parse(word: &str) -> Result<Self, NoName> {
        let kind = if let Some(id) = word.strip_prefix("partuuid:") {
            partition_id(id)?
        } else if let Some(label) = word.strip_prefix("partlabel:") {
            Kind::Label(label_of(label)?)
        } else if let Some(rest) = word.strip_prefix("pci:") {
            let shape = Shape::of(rest).ok_or(NoName::Place)?;
            shape.checked(ByController::Place(PciPlace::parse(shape.head).ok_or(NoName::Place)?))?
        } else if PartitionId::is_shape_of(word) {
            partition_id(word)?
        } else if let Some(shape) = Shape::of(word) {
            shape.checked(ByController::Serial(Serial::new(shape.head).ok_or(NoName::Serial)?))?
        } else {
            Kind::Label(label_of(word)?)
        };
        Ok(Self(kind))
    }

    /// Whether it names that device. It may name more than one; then it names none.
    pub fn matches(&self, device: &Identity<'_>) -> bool {
        match (&self.0, &device.partition) {
            (Kind::Numbered { controller, nsid, partition }, found) => {
                controller.is_of(device) && *nsid == device.nsid && *partition == found.map(|p| p.number)
            }
            (Kind::Id(id), Some(partition)) => *id == partition.id,
            (Kind::Label(label), Some(partition)) => label.as_str() == partition.label,
            (Kind::Id(_) | Kind::Label(_), None) => false,
        }
    }
}

/// As it is best written again: identifiers as Linux shows them, labels with their prefix.
impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Numbered { controller, nsid, partition: None } => write!(f, "{controller}:n{nsid}"),
            Kind::Numbered { controller, nsid, partition: Some(number) } => {
                write!(f, "{controller}:n{nsid}:{number}")
            }
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
    /// What says which controller.
    head: &'a str,
    nsid: &'a str,
    number: Option<&'a str>,
}

impl<'a> Shape<'a> {
    fn of(word: &'a str) -> Option<Self> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let nsid_of = |text: &'a str| text.strip_prefix('n').filter(|nsid| digits(nsid));
        let (head, last) = word.rsplit_once(':')?;
        if let Some(nsid) = nsid_of(last) {
            return Some(Self { head, nsid, number: None });
        }
        let (head, nsid) = head.rsplit_once(':')?;
        let nsid = nsid_of(nsid)?;
        digits(last).then_some(Self { head, nsid, number: Some(last) })
    }

    fn checked(&self, controller: ByController) -> Result<Kind, NoName> {
        let nsid =
            decimal_within(self.nsid, 1, NSID_MAX).and_then(|n| n.try_into().ok()).ok_or(NoName::Nsid)?;
        let Some(number) = self.number else {
            return Ok(Kind::Numbered { controller, nsid, partition: None });
        };
        let number = decimal(number).filter(|&n| n > 0).and_then(|n| n.try_into().ok());
        Ok(Kind::Numbered { controller, nsid, partition: Some(number.ok_or(NoName::Partition)?) })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::partition::PartitionIdentity;

    const UUID: &str = "88e59675-4dc8-469a-98e4-b7b021dc7fbe";

    fn name(word: &str) -> DeviceName {
        DeviceName::parse(word).unwrap_or_else(|why| panic!("{word:?}: {why}"))
    }

    fn refused(word: &str) -> NoName {
        DeviceName::parse(word).unwrap_err()
    }

    fn namespace(serial: &str, nsid: u32) -> Identity<'_> {
        Identity { serial, place: None, nsid, partition: None }
    }

    fn partition<'a>(serial: &'a str, number: u32, id: &str, label: &'a str) -> Identity<'a> {
        let id = PartitionId::parse(id).unwrap();
        Identity { serial, place: None, nsid: 1, partition: Some(PartitionIdentity { number, id, label }) }
    }

    #[test]
    fn a_serial_number_may_hold_spaces_and_colons() {
        assert!(name("S4 X:7:n3").matches(&namespace("S4 X:7", 3)));
        assert!(name("a:n1:n2").matches(&namespace("a:n1", 2)));
        assert!(name("a:n1:2:n1:5").matches(&partition("a:n1:2", 5, UUID, "")));
        assert!(!name("a:n1:n2").matches(&namespace("a", 1)));
    }

    #[test]
    fn a_namespace_is_not_its_partition_nor_the_other_way_round() {
        assert!(!name("a:n1").matches(&partition("a", 1, UUID, "a:n1")));
        assert!(!name("a:n1:1").matches(&namespace("a", 1)));
        assert!(name("a:n1:1").matches(&partition("a", 1, UUID, "")));
        assert!(!name("a:n1:1").matches(&partition("a", 2, UUID, "")));
        assert!(!name("a:n1:1").matches(&partition("b", 1, UUID, "")));
        assert!(!name("a:n2:1").matches(&partition("a", 1, UUID, "")));
        assert!(!name("a:n2").matches(&namespace("a", 1)) && !name("b:n1").matches(&namespace("a", 1)));
    }

    #[test]
    fn identifiers_match_in_any_letter_case() {
        for word in [UUID.to_uppercase(), UUID.to_string(), std::format!("partuuid:{}", UUID.to_uppercase())]
        {
            assert!(name(&word).matches(&partition("a", 1, UUID, "")), "{word}");
        }
        assert!(name("0BADCAFE-0a").matches(&partition("a", 10, "0badcafe-0A", "")));
        assert!(!name("0badcafe-0a").matches(&partition("a", 11, "0badcafe-0b", "")));
    }

    #[test]
    fn a_label_cannot_impersonate_another_kind_of_name() {
        const OTHER: &str = "00000000-0000-0000-0000-000000000001";
        for word in [UUID, "0badcafe-01", "a:n1", "a:n1:2"] {
            assert!(!name(word).matches(&partition("evil", 7, OTHER, word)), "{word}");
            assert!(
                name(&std::format!("partlabel:{word}")).matches(&partition("evil", 7, OTHER, word)),
                "{word}"
            );
        }
    }

    #[test]
    fn a_prefix_restricts_the_kind() {
        assert!(name("partlabel:root").matches(&partition("a", 1, UUID, "root")));
        assert!(name("root").matches(&partition("a", 1, UUID, "root")));
        assert!(!name("partlabel:root").matches(&partition("a", 1, UUID, "ROOT")));
        let label = std::format!("partlabel:{UUID}");
        assert!(!name(&label).matches(&partition("a", 1, UUID, "root")));
        assert_eq!(refused("partuuid:root"), NoName::Uuid);
        assert_eq!(refused("partuuid:a:n1"), NoName::Uuid);
        assert!(name("partlabel:partuuid:x").matches(&partition("a", 1, UUID, "partuuid:x")));
    }

    #[test]
    fn a_partition_without_a_label_has_no_such_name() {
        for word in ["", "partlabel:", "partuuid:"] {
            assert_eq!(refused(word), NoName::Empty, "{word}");
        }
    }

    #[test]
    fn a_word_that_ends_like_a_namespace_is_one_or_refused() {
        for word in ["a:n", "a:n0", "a:n01", "a:n4294967295", "a:n99999999999999999999", "a:n:1", "a:n0:1"] {
            assert_eq!(refused(word), NoName::Nsid, "{word}");
        }
        for word in ["a:n1:", "a:n1:0", "a:n1:01", "a:n1:4294967296"] {
            assert_eq!(refused(word), NoName::Partition, "{word}");
        }
        for word in [":n1", " a:n1", "a :n1", "é:n1", "a\t:n1", "123456789012345678901:n1", ":n1:1"] {
            assert_eq!(refused(word), NoName::Serial, "{word}");
        }
        assert_eq!(refused("0badcafe-00"), NoName::MbrNumber);
        assert_eq!(refused("partuuid:0badcafe-00"), NoName::MbrNumber);
        assert!(name("a:n4294967294").matches(&namespace("a", 0xffff_fffe)));
    }

    #[test]
    fn a_place_names_one_of_two_drives_with_one_serial_number() {
        let at = |place: &str, nsid| Identity { place: PciPlace::parse(place), ..namespace("SAME", nsid) };
        let (first, second) = (at("0000:01:00.0", 1), at("0000:02:00.0", 1));
        assert!(name("SAME:n1").matches(&first) && name("SAME:n1").matches(&second));
        let by_place = name("pci:0000:02:00.0:n1");
        assert!(by_place.matches(&second) && !by_place.matches(&first));
        assert!(!by_place.matches(&at("0000:02:00.0", 2)) && !by_place.matches(&namespace("SAME", 1)));
        assert_eq!(name("pci:00AB:0C:1d.7:n1").to_string(), "pci:00ab:0c:1d.7:n1");
        let part = Identity { place: PciPlace::parse("0000:02:00.0"), ..partition("SAME", 3, UUID, "") };
        assert!(name("pci:0000:02:00.0:n1:3").matches(&part) && !by_place.matches(&part));
        assert!(
            !name("pci:0000:02:00.0:n1:4").matches(&part) && !name("pci:0000:01:00.0:n1:3").matches(&part)
        );
        // A controller cannot pass itself off as another's place.
        assert!(!by_place.matches(&namespace("pci:0000:02:00.0", 1)));
    }

    #[test]
    fn a_word_that_begins_like_a_place_is_one_or_refused() {
        for word in [
            "pci:",
            "pci:x",
            "pci:0000:01:00.0",
            "pci:01:00.0:n1",
            "pci:0000:01:00.8:n1",
            "pci:label:n1:2",
            "pci::n1",
        ] {
            assert_eq!(refused(word), NoName::Place, "{word}");
        }
        for word in ["pci:0000:01:00.0:n0", "pci:0000:01:00.0:n", "pci:0000:01:00.0:n01:1"] {
            assert_eq!(refused(word), NoName::Nsid, "{word}");
        }
        for word in ["pci:0000:01:00.0:n1:", "pci:0000:01:00.0:n1:0"] {
            assert_eq!(refused(word), NoName::Partition, "{word}");
        }
        // The prefix is lower-case; a label of this shape has its own.
        assert_eq!(refused("PCI:0000:01:00.0:n0"), NoName::Nsid);
        assert!(name("partlabel:pci:x").matches(&partition("a", 1, UUID, "pci:x")));
    }

    #[test]
    fn other_words_with_colons_are_labels() {
        for word in ["a:1", "a:m1", "n1", "a:n1:p1", "a:n-1", "a:N1", ":", "EFI system partition"] {
            assert!(name(word).matches(&partition("a", 1, UUID, word)), "{word}");
        }
        assert_eq!(refused("a\nb"), NoName::Label(NoLabel::Control));
        assert_eq!(refused(&"x".repeat(37)), NoName::Label(NoLabel::TooLong));
    }

    proptest! {
        #[test]
        fn names_come_back_from_what_is_shown(
            serial in "[!-~]([ -~]{0,18}[!-~])?", nsid in 1..=0xffff_fffe_u32, number in 1..=u32::MAX,
            uuid in any::<u128>(), label in "[a-z :]{0,29}[a-z:]"
        ) {
            prop_assume!(!serial.starts_with("part") && !serial.starts_with("pci:"));
            let id = PartitionId::Gpt(Uuid::from_u128(uuid));
            let own = Identity {
                serial: &serial, place: PciPlace::parse("0001:02:03.4"), nsid,
                partition: Some(PartitionIdentity { number, id, label: &label }),
            };
            let whole = Identity { partition: None, ..own };
            prop_assert!(name(&whole.to_string()).matches(&whole));
            let by_place = name(&std::format!("pci:0001:02:03.4:n{nsid}"));
            prop_assert!(by_place.matches(&whole) && !by_place.matches(&own));
            let words = [
                std::format!("{serial}:n{nsid}:{number}"), std::format!("pci:0001:02:03.4:n{nsid}:{number}"),
                id.to_string(), std::format!("partlabel:{label}"),
            ];
            for word in &words {
                let parsed = name(word);
                prop_assert!(parsed.matches(&own) && !parsed.matches(&whole));
                prop_assert_eq!(&name(&parsed.to_string()), &parsed);
            }
        }

        /// Whatever is typed names one kind of thing: never a namespace and a partition, never an identifier and a label.
        #[test]
        fn a_word_has_one_meaning(word in "[a0:n-]{0,40}", nsid in 0..3u32) {
            if let Ok(parsed) = DeviceName::parse(&word) {
                let id = PartitionId::parse("00000000-0000-0000-0000-00000000000a").unwrap();
                let labelled = Identity {
                    serial: "zz", place: None, nsid, partition: Some(PartitionIdentity { number: 1, id, label: &word }),
                };
                if parsed.matches(&labelled) {
                    prop_assert!(PartitionId::parse(&word).is_none());
                    prop_assert!(Shape::of(&word).is_none());
                }
            }
        }
    }
}
