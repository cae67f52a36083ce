//! Labels: which of our objects a message came to. A label is four times a key; the kernel puts the sender's rights into the two
//! bits below. A key fits into 30 bits, so that labels are the same where a word has 32.

use nvme_l4re::kernel::Label;

/// Places for sessions, static clients' included.
pub(crate) const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 9;
const SERIALS: u32 = 1 << 18;
const KIND_BITS: u32 = 3;

/// A session or a factory of the home: its place, and a serial number, so that what was sent to the last one in that place is not taken
/// for this one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Number {
    slot: u32,
    serial: u32,
}

impl Number {
    /// `slot` is below [`SLOTS`].
    pub(crate) fn new(slot: usize, serial: u32) -> Self {
        Self { slot: slot as u32 % SLOTS as u32, serial: serial % SERIALS }
    }

    pub(crate) fn slot(self) -> usize {
        self.slot as usize
    }
}

/// One of our objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// The gate of the server's own factory, `svr`.
    Factory,
    /// The interrupt that says that a gate lost its last user.
    Deletion,
    /// An interrupt of a controller, by its place in [`Hardware::interrupts`](crate::Hardware::interrupts).
    Interrupt(usize),
    /// A session's gate.
    Gate(Number),
    /// A session's interrupt for its driver to raise.
    Kick(Number),
    /// An attenuated factory's gate.
    Post(Number),
}

impl Source {
    pub(crate) fn label(self) -> Label {
        let session = |n: Number| (n.serial << SLOT_BITS | n.slot) as usize;
        let (kind, value) = match self {
            Self::Factory => (0, 0),
            Self::Deletion => (1, 0),
            Self::Interrupt(index) => (2, index),
            Self::Gate(number) => (3, session(number)),
            Self::Kick(number) => (4, session(number)),
            Self::Post(number) => (5, session(number)),
        };
        Label(((value << KIND_BITS | kind) << 2) as u64)
    }

    pub(crate) fn of(label: Label) -> Option<Self> {
        let key = label.0 >> 2;
        let value = key >> KIND_BITS;
        let number = Number {
            slot: (value % SLOTS as u64) as u32,
            serial: u32::try_from(value >> SLOT_BITS).ok().filter(|serial| *serial < SERIALS)?,
        };
        match key % (1 << KIND_BITS) {
            0 if value == 0 => Some(Self::Factory),
            1 if value == 0 => Some(Self::Deletion),
            2 => usize::try_from(value).ok().map(Self::Interrupt),
            3 => Some(Self::Gate(number)),
            4 => Some(Self::Kick(number)),
            5 => Some(Self::Post(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_names_one_object_and_fits_into_32_bits() {
        let numbers =
            [(0, 0), (SLOTS - 1, SERIALS - 1), (7, 5)].map(|(slot, serial)| Number::new(slot, serial));
        let mut all = alloc::vec![Source::Factory, Source::Deletion];
        all.extend((0..4).map(Source::Interrupt));
        all.extend(numbers.iter().flat_map(|n| [Source::Gate(*n), Source::Kick(*n), Source::Post(*n)]));
        for (i, source) in all.iter().enumerate() {
            let label = source.label();
            assert!(label.0 % 4 == 0 && label.0 <= u64::from(u32::MAX), "{source:?}");
            assert_eq!(Source::of(label), Some(*source));
            assert_eq!(all.iter().position(|s| s.label() == label), Some(i));
        }
        for label in [6, 7, 1 << 3, 1 << 30 | 4, u64::MAX].map(|key| Label(key << 2)) {
            assert_eq!(Source::of(label), None, "{label:?}");
        }
    }
}
