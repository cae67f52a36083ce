//! Where a controller is on the PCI bus.

use core::fmt;

/// A function on the PCI bus: `DDDD:BB:DD.F`, as `lspci -D` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciPlace {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciPlace {
    /// Reads `DDDD:BB:DD.F`: hexadecimal digits in any letter case, so many of each. A device has five bits, a function three.
    pub fn parse(word: &str) -> Option<Self> {
        let (domain, rest) = word.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let place = Self {
            domain: digits(domain, 4)?,
            bus: digits(bus, 2)?.try_into().ok()?,
            device: digits(device, 2)?.try_into().ok()?,
            function: digits(function, 1)?.try_into().ok()?,
        };
        (place.device < 32 && place.function < 8).then_some(place)
    }
}

fn digits(word: &str, count: usize) -> Option<u16> {
    let good = word.len() == count && word.bytes().all(|b| b.is_ascii_hexdigit());
    if good { u16::from_str_radix(word, 16).ok() } else { None }
}

/// In lower case.
impl fmt::Display for PciPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_place_is_read_in_any_letter_case_and_shown_in_lower() {
        for (word, shown) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("FFFF:fE:1F.7", "ffff:fe:1f.7"),
            ("0001:00:0a.3", "0001:00:0a.3"),
        ] {
            assert_eq!(PciPlace::parse(word).unwrap().to_string(), shown);
        }
        assert!(PciPlace::parse("0000:01:00.0") < PciPlace::parse("0000:01:00.1"));
    }

    #[test]
    fn what_has_other_digits_is_no_place() {
        for word in [
            "",
            "0000:01:00",
            "01:00.0",
            "0000:01:00.",
            "0000:01:00.8",
            "0000:01:20.0",
            "000:01:00.0",
            "00000:01:00.0",
            "0000:1:00.0",
            "0000:01:0.0",
            "0000:01:00.00",
            "0000:01:00:0",
            "000g:01:00.0",
            "+000:01:00.0",
            " 0000:01:00.0",
            "0000:01:00.0 ",
            "0000:01:00.0:n1",
        ] {
            assert_eq!(PciPlace::parse(word), None, "{word:?}");
        }
    }
}
