//! The Meta protocol. ned asks a capability for its interfaces before it calls a method on it; uvmm asks whether a session
//! speaks for interrupts.

use nvme_l4re::kernel::{L4Error, Reply};

use super::{META, number, refusal};

/// One interface of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its protocol number.
    pub protocol: i64,
    /// Its name, as a C++ compiler mangles it.
    pub name: &'static str,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meta {
    /// How many interfaces there are.
    Count,
    /// The one at this place.
    Interface(u64),
    /// Whether it speaks this protocol.
    Supports(i64),
}

impl Meta {
    /// Reads the words of a message.
    pub(super) fn parse(words: &[u64]) -> Result<Self, L4Error> {
        let (op, rest) = words.split_first().ok_or(L4Error::MSGTOOSHORT)?;
        let value = || rest.first().copied().ok_or(L4Error::MSGTOOSHORT);
        // The opcode has 32 bits; what else its word holds is undefined.
        match *op as u32 {
            0 => Ok(Self::Count),
            1 => value().map(Self::Interface),
            2 => value().map(|protocol| Self::Supports(protocol as i64)),
            _ => Err(L4Error::NOSYS),
        }
    }

    /// The answer of an object with these interfaces.
    pub fn answer(self, interfaces: &[Interface]) -> Reply {
        match self {
            Self::Count => number(interfaces.len() as i64),
            Self::Supports(protocol) => {
                let spoken = protocol == META || interfaces.iter().any(|i| i.protocol == protocol);
                number(spoken.into())
            }
            Self::Interface(index) => {
                let found = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
                found.map_or_else(|| refusal(L4Error::RANGE), |found| found.words())
            }
        }
    }
}

impl Interface {
    /// Protocol, length of the name with a zero behind it, and the name.
    fn words(&self) -> Reply {
        let mut reply = number(0);
        let name = self.name.as_bytes();
        let head = [self.protocol as u64, name.len() as u64 + 1];
        // The zero, and padding, are what the last word is filled up with.
        let packed = (0..name.len() / 8 + 1).map(|word| {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(name.get(word * 8..).unwrap_or_default()) {
                *to = *from;
            }
            u64::from_le_bytes(bytes)
        });
        reply.words.extend(head.into_iter().chain(packed).take(reply.words.capacity()));
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Interface] =
        &[Interface { protocol: 0, name: "N8L4virtio6DeviceE" }, Interface { protocol: -1, name: "seven77" }];

    fn asked(words: &[u64]) -> Reply {
        Meta::parse(words).map_or_else(refusal, |meta| meta.answer(TWO))
    }

    #[test]
    fn an_object_tells_its_interfaces() {
        assert_eq!(asked(&[0]), number(2));
        let first = asked(&[1, 0]);
        assert_eq!((first.label, first.words[0], first.words[1]), (0, 0, 19));
        let name: alloc::vec::Vec<u8> = first.words[2..].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!((&name[..18], name.len(), &name[18..]), (&b"N8L4virtio6DeviceE"[..], 24, &[0; 6][..]));
        let second = asked(&[1, 1]);
        assert_eq!((second.words[0] as i64, second.words[1], second.words.len()), (-1, 8, 3));
        assert_eq!(asked(&[1, 2]), refusal(L4Error::RANGE));
        assert_eq!(asked(&[1, u64::MAX]), refusal(L4Error::RANGE));
    }

    #[test]
    fn an_object_says_which_protocols_it_speaks() {
        for (protocol, spoken) in [(0, 1), (-1, 1), (-21, 1), (-15, 0), (7, 0)] {
            assert_eq!(asked(&[2, protocol as u64]), number(spoken), "{protocol}");
        }
    }

    #[test]
    fn a_question_that_is_none_is_refused() {
        assert_eq!(asked(&[3]), refusal(L4Error::NOSYS));
        for short in [&[][..], &[1], &[2]] {
            assert_eq!(asked(short), refusal(L4Error::MSGTOOSHORT));
        }
    }
}
