//! The arguments of `create`: each is one word that says its type and length, and then its bytes, in whole words.

use heapless::Vec;
use nvme_l4re::kernel::{L4Error, WORDS_MAX};

/// The type of a string; there are numbers, capabilities and nothing as well.
const STRING: u64 = 2;
/// Bytes of all words together.
const BYTES_MAX: usize = WORDS_MAX * 8;

/// The words of a `create`, without the zeroes behind them. What they say is up to [`SessionRequest`](nvme_policy::SessionRequest) and
/// [`FactoryRequest`](nvme_policy::FactoryRequest).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Words {
    bytes: Vec<u8, BYTES_MAX>,
    ends: Vec<u16, WORDS_MAX>,
}

impl Words {
    /// Reads the words of a message: the kind of object that is wanted, and the arguments. An argument that is no string, or a string
    /// that does not end where it says, is no argument of ours.
    pub(super) fn parse(words: &[u64]) -> Result<(i64, Self), L4Error> {
        let (object, mut rest) = words.split_first().ok_or(L4Error::MSGTOOSHORT)?;
        let mut parsed = Self::default();
        while let Some((head, behind)) = rest.split_first() {
            // A type of 16 bits, a length of the rest of the word.
            let len = usize::try_from(*head >> 16).map_err(|_| L4Error::MSGTOOSHORT)?;
            let (data, behind) = behind.split_at_checked(len.div_ceil(8)).ok_or(L4Error::MSGTOOSHORT)?;
            if *head & 0xffff != STRING {
                return Err(L4Error::INVAL);
            }
            rest = behind;
            parsed.push(data, len)?;
        }
        Ok((*object as i64, parsed))
    }

    /// Adds a string of `len` bytes with the zero.
    fn push(&mut self, data: &[u64], len: usize) -> Result<(), L4Error> {
        let text = len.checked_sub(1).ok_or(L4Error::INVAL)?;
        for (at, byte) in data.iter().flat_map(|word| word.to_le_bytes()).take(len).enumerate() {
            // The zero is the last byte, and the only one.
            if (byte == 0) != (at == text) {
                return Err(L4Error::INVAL);
            }
            if byte != 0 {
                self.bytes.push(byte).map_err(|_| L4Error::INVAL)?;
            }
        }
        let end = u16::try_from(self.bytes.len()).map_err(|_| L4Error::INVAL)?;
        self.ends.push(end).map_err(|_| L4Error::INVAL)
    }

    /// The words, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = core::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.bytes.get(usize::from(*start)..usize::from(*end)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ned says it.
    fn said(words: &[&[u8]]) -> alloc::vec::Vec<u64> {
        let mut message = alloc::vec![-15i64 as u64];
        for word in words {
            let mut bytes = word.to_vec();
            bytes.push(0);
            message.push(STRING | (bytes.len() as u64) << 16);
            bytes.resize(bytes.len().next_multiple_of(8), 0xa5);
            message.extend(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())));
        }
        message
    }

    #[test]
    fn words_come_as_they_were_said() {
        for words in [
            &[&b"device=1234:n1"[..], b"ds-max=5", b"read-only"][..],
            &[b"device=S4 X:7:n3"],
            &[b"", b"1234567", b"12345678"],
            &[],
        ] {
            let (object, parsed) = Words::parse(&said(words)).unwrap();
            assert_eq!(object, -15);
            assert!(parsed.iter().eq(words.iter().copied()), "{parsed:?}");
        }
        let long = [b'x'; 8 * 61 - 1];
        assert!(Words::parse(&said(&[&long])).unwrap().1.iter().eq([&long[..]]));
    }

    #[test]
    fn a_string_ends_where_it_says_and_nowhere_else() {
        for bytes in [*b"device=\x01", *b"devi\0e=\0", *b"\0\0\0\0\0\0\0\0"] {
            let message = [0, STRING | 8 << 16, u64::from_le_bytes(bytes)];
            assert_eq!(Words::parse(&message), Err(L4Error::INVAL), "{bytes:?}");
        }
        assert_eq!(Words::parse(&[0, STRING]), Err(L4Error::INVAL));
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        for len in [8, 9, 16, 1 << 20, u64::MAX >> 16] {
            assert_eq!(Words::parse(&[0, STRING | len << 16]), Err(L4Error::MSGTOOSHORT), "{len}");
        }
        assert_eq!(Words::parse(&[]), Err(L4Error::MSGTOOSHORT));
    }

    #[test]
    fn numbers_capabilities_and_nothing_are_refused() {
        for kind in [0, 1, 3, 0x81, 0xffff] {
            assert_eq!(Words::parse(&[0, kind | 8 << 16, 5]), Err(L4Error::INVAL), "{kind:#x}");
        }
    }
}
