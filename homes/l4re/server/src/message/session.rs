//! L4virtio, and the interrupts of a session.

use nvme_l4re::kernel::{L4Error, Message};

use super::{IRQ, Interface, META, Meta, VIRTIO};

/// A request to register memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Where the driver's descriptors find it.
    pub base: u64,
    /// Where in the dataspace it begins.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

/// What is asked of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionCall {
    /// What it is.
    Meta(Meta),
    /// The driver's status.
    SetStatus(u32),
    /// What the configuration page says of this queue counts now.
    ConfigQueue(u32),
    /// Memory; the dataspace comes with the message.
    RegisterDs(Register),
    /// The configuration page, please.
    DeviceConfig,
    /// The interrupt that tells us of this index, please.
    NotificationIrq(u32),
    /// The interrupt of this index, by which the driver is told; it comes with the message.
    Bind(u64),
    /// How many interrupts there are.
    Info,
    /// An interrupt was taken note of. Nobody waits for an answer.
    Unmask,
}

impl SessionCall {
    /// What a session's gate speaks, in the order in which it says so.
    pub const INTERFACES: &[Interface] = &[
        Interface { protocol: VIRTIO, name: "N8L4virtio6DeviceE" },
        Interface { protocol: IRQ, name: "N2L43IcuE" },
    ];

    /// Reads a message.
    pub fn parse(message: &Message) -> Result<Self, L4Error> {
        match message.protocol {
            META => Meta::parse(&message.words).map(Self::Meta),
            VIRTIO => Self::virtio(&message.words, message.cap.is_some()),
            IRQ => Self::irq(&message.words, message.cap.is_some()),
            _ => Err(L4Error::BADPROTO),
        }
    }

    /// An opcode of 32 bits; an argument of 32 bits shares its word.
    fn virtio(words: &[u64], cap: bool) -> Result<Self, L4Error> {
        let (first, rest) = words.split_first().ok_or(L4Error::MSGTOOSHORT)?;
        let argument = (*first >> 32) as u32;
        match *first as u32 {
            0 => Ok(Self::SetStatus(argument)),
            1 => Ok(Self::ConfigQueue(argument)),
            3 => match rest {
                [base, offset, size, ..] if cap => {
                    Ok(Self::RegisterDs(Register { base: *base, offset: *offset, size: *size }))
                }
                _ => Err(L4Error::MSGTOOSHORT),
            },
            4 => Ok(Self::DeviceConfig),
            5 => Ok(Self::NotificationIrq(argument)),
            _ => Err(L4Error::NOSYS),
        }
    }

    /// An opcode of a word.
    fn irq(words: &[u64], cap: bool) -> Result<Self, L4Error> {
        let (op, rest) = words.split_first().ok_or(L4Error::MSGTOOSHORT)?;
        match op {
            0 => match rest {
                [index, ..] if cap => Ok(Self::Bind(*index)),
                _ => Err(L4Error::MSGTOOSHORT),
            },
            2 => Ok(Self::Info),
            4 => Ok(Self::Unmask),
            // Unbind, MSI information, mask and mode are not for these interrupts.
            _ => Err(L4Error::NOSYS),
        }
    }
}

#[cfg(test)]
mod tests {
    use nvme_l4re::kernel::Cap;

    use super::*;

    fn said(protocol: i64, words: &[u64], cap: bool) -> Result<SessionCall, L4Error> {
        let words = words.iter().copied().collect();
        SessionCall::parse(&Message { protocol, words, cap: cap.then_some(Cap(1 << 12)) })
    }

    #[test]
    fn an_argument_shares_the_word_of_its_opcode() {
        assert_eq!(said(VIRTIO, &[7 << 32], false), Ok(SessionCall::SetStatus(7)));
        assert_eq!(said(VIRTIO, &[1 | 3 << 32], false), Ok(SessionCall::ConfigQueue(3)));
        assert_eq!(said(VIRTIO, &[5 | 1 << 32], false), Ok(SessionCall::NotificationIrq(1)));
        assert_eq!(said(VIRTIO, &[4], false), Ok(SessionCall::DeviceConfig));
        let register = Register { base: 1, offset: 2, size: 3 };
        assert_eq!(said(VIRTIO, &[3, 1, 2, 3], true), Ok(SessionCall::RegisterDs(register)));
        assert_eq!(said(IRQ, &[0, 5], true), Ok(SessionCall::Bind(5)));
        assert_eq!(said(IRQ, &[2], false), Ok(SessionCall::Info));
        assert_eq!(said(IRQ, &[4, 0], false), Ok(SessionCall::Unmask));
    }

    #[test]
    fn a_message_that_lacks_a_word_or_its_capability_is_too_short() {
        for (protocol, words, cap) in [
            (VIRTIO, &[][..], false),
            (VIRTIO, &[3, 1, 2], true),
            (VIRTIO, &[3, 1, 2, 3], false),
            (IRQ, &[], false),
            (IRQ, &[0], true),
            (IRQ, &[0, 0], false),
            (META, &[], false),
        ] {
            assert_eq!(said(protocol, words, cap), Err(L4Error::MSGTOOSHORT), "{protocol} {words:?}");
        }
    }

    #[test]
    fn what_is_not_spoken_is_refused() {
        for op in [2, 6, u64::from(u32::MAX)] {
            assert_eq!(said(VIRTIO, &[op, 0, 0, 0], true), Err(L4Error::NOSYS), "{op}");
        }
        for op in [1, 3, 5, 6, 7, u64::MAX, 1 << 32] {
            assert_eq!(said(IRQ, &[op, 0, 0], true), Err(L4Error::NOSYS), "{op}");
        }
        for protocol in [-15, 1, 21, i64::MIN] {
            assert_eq!(said(protocol, &[0; 5], true), Err(L4Error::BADPROTO), "{protocol}");
        }
    }
}
