//! What tells one device from another: serial numbers, partition identifiers and labels.

use core::fmt;

use uuid::Uuid;

use crate::place::PciPlace;
use crate::shown::printable;

/// The length of a serial number in bytes, at most (NVM Express Base 2.0, Identify Controller, SN).
pub const SERIAL_MAX: usize = 20;
/// The length of a label in UTF-16 code units, at most (UEFI 2.10, 5.3.3, PartitionName).
pub const LABEL_UNITS_MAX: usize = 36;
/// The length of a label in bytes of UTF-8, at most: a UTF-16 code unit is never more than three.
pub const LABEL_BYTES_MAX: usize = 3 * LABEL_UNITS_MAX;

/// The white space that libblkid strips from the end of a label.
const PADDING: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

/// A serial number without its padding: 1 to 20 printable ASCII characters, no space at either end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(heapless::String<SERIAL_MAX, u8>);

impl Serial {
    /// From text that is already trimmed; `None` if it is not a serial number.
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let trimmed = !text.is_empty() && !text.starts_with(' ') && !text.ends_with(' ');
        (printable && trimmed).then(|| heapless::String::try_from(text).ok().map(Self)).flatten()
    }

    /// From a controller's field, padded with spaces or zero bytes at either end; `None` if nothing printable is left.
    pub fn from_field(field: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(field).ok()?;
        Self::new(text.trim_matches([' ', '\0']))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why text is not a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoLabel {
    /// It is longer than 36 UTF-16 code units.
    TooLong,
    /// It holds a control character.
    Control,
    /// It holds half of a surrogate pair.
    Surrogate,
    /// It ends in white space.
    Padding,
}

impl fmt::Display for NoLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a label has 36 UTF-16 code units at most",
            Self::Control => "a label holds no control characters",
            Self::Surrogate => "a label is well-formed UTF-16",
            Self::Padding => "a label does not end in white space (what a disk has there is left out)",
        })
    }
}

impl core::error::Error for NoLabel {}

/// A partition's name: up to 36 UTF-16 code units, as UTF-8, without control characters and without white space at its end,
/// which Linux does not show either (libblkid, and so udev, strip it). May be empty, and then it names nothing.
///
/// What is on a disk was written by a client. A label that cannot be shown as it is never becomes one of these, so
/// that it neither reaches a log nor matches a name that somebody typed.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Label(heapless::String<LABEL_BYTES_MAX, u8>);

impl Label {
    /// From text.
    pub fn new(text: &str) -> Result<Self, NoLabel> {
        if text.encode_utf16().take(LABEL_UNITS_MAX + 1).count() > LABEL_UNITS_MAX {
            return Err(NoLabel::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(NoLabel::Control);
        }
        if text.ends_with(PADDING) {
            return Err(NoLabel::Padding);
        }
        heapless::String::try_from(text).map(Self).map_err(|_full| NoLabel::TooLong)
    }

    /// From UTF-16 code units, up to the first zero, without the white space at their end.
    pub fn from_utf16(units: impl IntoIterator<Item = u16>) -> Result<Self, NoLabel> {
        let mut text = heapless::String::<LABEL_BYTES_MAX, u8>::new();
        let units = units.into_iter().take_while(|&unit| unit != 0);
        for c in char::decode_utf16(units) {
            let c = c.map_err(|_unpaired| NoLabel::Surrogate)?;
            text.push(c).map_err(|_full| NoLabel::TooLong)?;
        }
        Self::new(text.trim_end_matches(PADDING))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Everything that is not printable (directional overrides, say) is escaped.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(f, &self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What identifies a partition wherever its disk is. Prints as Linux shows it (`PARTUUID`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PartitionId {
    /// The unique GUID of a GPT entry.
    Gpt(Uuid),
    /// A partition of an MBR disk.
    Mbr {
        /// The disk's 32-bit identifier, which its MBR holds.
        disk: u32,
        /// The partition's number, 1 and up.
        number: u8,
    },
}

impl PartitionId {
    /// Of the hyphenated form of a GUID (8-4-4-4-12 digits), or of the 8-2 digits of a partition of an MBR disk, in any
    /// letter case. `None` for anything else, and for number 0, which no partition has.
    pub fn parse(text: &str) -> Option<Self> {
        // The crate reads other forms too (braces, no hyphens); they have other lengths.
        if text.len() == 36 {
            return Uuid::try_parse(text).ok().map(Self::Gpt);
        }
        let (disk, number) = mbr_digits(text)?;
        (number > 0).then_some(Self::Mbr { disk, number })
    }

    /// Whether text has the shape of one of these, be it valid or not.
    pub(crate) fn is_shape_of(text: &str) -> bool {
        mbr_digits(text).is_some() || Self::parse(text).is_some()
    }
}

/// The 8-2 digits of a partition of an MBR disk.
fn mbr_digits(text: &str) -> Option<(u32, u8)> {
    let (disk, number) = text.split_once('-')?;
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex(disk, 8) || !hex(number, 2) {
        return None;
    }
    Some((u32::from_str_radix(disk, 16).ok()?, u8::from_str_radix(number, 16).ok()?))
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt(uuid) => fmt::Display::fmt(&uuid.hyphenated(), f),
            Self::Mbr { disk, number } => write!(f, "{disk:08x}-{number:02x}"),
        }
    }
}

/// What a device is known by: a namespace, or a partition of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity<'a> {
    /// The controller's serial number, its padding trimmed at both ends.
    pub serial: &'a str,
    /// Where the controller is; `None` where it has no place on a PCI bus, or nobody knows it.
    pub place: Option<PciPlace>,
    /// The namespace identifier.
    pub nsid: u32,
    /// Which partition; `None` for the whole namespace.
    pub partition: Option<PartitionIdentity<'a>>,
}

/// What a partition is known by, beside its namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionIdentity<'a> {
    /// Its number in the partition table, 1 and up.
    pub number: u32,
    /// Its identifier.
    pub id: PartitionId,
    /// Its label; empty if it has none.
    pub label: &'a str,
}

/// `SN:nNSID`, or `SN:nNSID:PART`.
impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(f, self.serial)?;
        write!(f, ":n{}", self.nsid)?;
        match &self.partition {
            Some(partition) => write!(f, ":{}", partition.number),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_serial_number_loses_its_padding_and_nothing_else() {
        assert_eq!(Serial::from_field(b"  S4 X:7            ").unwrap().as_str(), "S4 X:7");
        assert_eq!(Serial::from_field(b"1234\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").unwrap().as_str(), "1234");
        assert_eq!(Serial::from_field(&[b' '; 20]), None);
        assert_eq!(Serial::from_field(b"a\nb"), None);
        assert_eq!(Serial::from_field(b"\xff\xff"), None);
        assert_eq!(Serial::new(&"x".repeat(21)), None);
    }

    #[test]
    fn partition_identifiers_are_read_in_any_letter_case_and_shown_as_linux_does() {
        let gpt = PartitionId::parse("88E59675-4DC8-469a-98E4-B7B021DC7FBE").unwrap();
        assert_eq!(gpt.to_string(), "88e59675-4dc8-469a-98e4-b7b021dc7fbe");
        let mbr = PartitionId::parse("0BADCafe-0A").unwrap();
        assert_eq!(mbr, PartitionId::Mbr { disk: 0x0bad_cafe, number: 10 });
        assert_eq!(mbr.to_string(), "0badcafe-0a");
    }

    #[test]
    fn other_spellings_of_identifiers_are_refused() {
        for text in [
            "",
            "88E596754DC8469a98E4B7B021DC7FBE",
            "{88E59675-4DC8-469a-98E4-B7B021DC7FBE}",
            "urn:uuid:88E59675-4DC8-469a-98E4-B7B021DC7FBE",
            "88E59675-4DC8-469a-98E4-B7B021DC7FBG",
            "0badcafe-00",
            "0badcafe-1",
            "0badcafe-001",
            "badcafe-01",
            "+badcafe-01",
            "0badcafe-+1",
        ] {
            assert_eq!(PartitionId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_label_is_counted_in_utf16_units() {
        let three_bytes_each = "€".repeat(36);
        assert_eq!(Label::new(&three_bytes_each).unwrap().as_str(), three_bytes_each);
        assert_eq!(Label::new(&"€".repeat(37)), Err(NoLabel::TooLong));
        assert!(Label::new(&"😀".repeat(18)).is_ok());
        assert_eq!(Label::new(&"😀".repeat(19)), Err(NoLabel::TooLong));
    }

    #[test]
    fn a_label_ends_at_its_first_zero() {
        let units: Vec<u16> = "root\0junk".encode_utf16().collect();
        assert_eq!(Label::from_utf16(units).unwrap().as_str(), "root");
        assert!(Label::from_utf16([0; 36]).unwrap().is_empty());
    }

    #[test]
    fn a_label_does_not_end_in_white_space() {
        let units: Vec<u16> = " a b \t\n\x0b\x0c\r \0x".encode_utf16().collect();
        assert_eq!(Label::from_utf16(units).unwrap().as_str(), " a b");
        assert_eq!(Label::new("a "), Err(NoLabel::Padding));
        assert_eq!(Label::new("a\n"), Err(NoLabel::Control));
    }

    #[test]
    fn a_label_that_cannot_be_shown_is_none() {
        assert_eq!(Label::from_utf16([0x61, 0xd800, 0x62]), Err(NoLabel::Surrogate));
        assert_eq!(Label::from_utf16([0xdc00]), Err(NoLabel::Surrogate));
        assert_eq!(Label::new("a\x1b[2J"), Err(NoLabel::Control));
        assert_eq!(Label::new("a\u{9b}2J"), Err(NoLabel::Control));
        assert_eq!(Label::new("a\u{202e}b").unwrap().to_string(), "a\\u{202e}b");
    }

    proptest! {
        #[test]
        fn labels_come_back_from_utf16(text in "\\PC{0,40}") {
            let units: Vec<u16> = text.encode_utf16().collect();
            match Label::from_utf16(units.iter().copied()) {
                Ok(label) => prop_assert_eq!(label.as_str(), text.trim_end_matches(PADDING)),
                Err(why) => prop_assert!(why == NoLabel::TooLong && units.len() > 36),
            }
        }

        #[test]
        fn any_units_make_a_printable_label_or_none(units in proptest::collection::vec(any::<u16>(), 0..40)) {
            if let Ok(label) = Label::from_utf16(units) {
                let shown: String = format!("{label}");
                prop_assert!(!shown.chars().any(char::is_control));
                prop_assert!(label.as_str().encode_utf16().count() <= 36);
            }
        }

        #[test]
        fn identifiers_come_back_from_what_is_shown(bytes in any::<[u8; 16]>(), disk in any::<u32>(), number in 1..=255u8) {
            let gpt = PartitionId::Gpt(Uuid::from_bytes(bytes));
            let mbr = PartitionId::Mbr { disk, number };
            prop_assert_eq!(PartitionId::parse(&gpt.to_string()), Some(gpt));
            prop_assert_eq!(PartitionId::parse(&mbr.to_string().to_uppercase()), Some(mbr));
        }
    }
}
