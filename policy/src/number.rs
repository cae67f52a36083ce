//! Numbers in words: decimal, and written in exactly one way.

/// A decimal number: digits only, no sign, no leading zero, nothing around it. `None` if it is none or does not fit.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    (digits && !leading_zero).then(|| text.parse().ok()).flatten()
}

/// A decimal number from `least` to `most`.
pub fn decimal_within(text: &str, least: u64, most: u64) -> Option<u64> {
    decimal(text).filter(|n| (least..=most).contains(n))
}

/// A size in bytes: a decimal number, alone or with one of the letters `K`, `M`, `G`, `T` behind it (powers of 1024, in
/// either letter case). `None` if it is none, zero, or does not fit.
pub fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        b'T' | b't' => (text.get(..text.len() - 1)?, 40),
        _ => (text, 0),
    };
    decimal(number)?.checked_mul(1 << shift).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn signs_spaces_leading_zeros_and_other_bases_are_refused() {
        for text in
            ["", "+1", "-1", " 1", "1 ", "01", "00", "0x10", "1e3", "1_0", "١", "18446744073709551616"]
        {
            assert_eq!(decimal(text), None, "{text:?}");
        }
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn sizes_have_one_letter_and_do_not_wrap() {
        assert_eq!(size("1"), Some(1));
        assert_eq!(size("64K"), Some(64 << 10));
        assert_eq!(size("3g"), Some(3 << 30));
        for text in ["", "0", "0G", "K", "1KB", "1KK", "1.5G", "16777216T", "-1M", "1é"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_has_one_spelling(n in any::<u64>(), text in "[0-9+ -]{0,22}") {
            prop_assert_eq!(decimal(&n.to_string()), Some(n));
            if let Some(m) = decimal(&text) {
                prop_assert_eq!(m.to_string(), text);
            }
        }
    }
}
