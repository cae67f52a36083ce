//! How a device failed what was asked of it, by name: few enough that a number is kept for each, whatever a device says.

/// Why a command failed, as its device said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// It cannot be read.
    ReadError,
    /// It was not written, or not made durable.
    WriteFault,
    /// What is there is not what was written: a check failed.
    Integrity,
    /// There is no space.
    NoSpace,
    /// No such blocks.
    OutOfRange,
    /// It may not be had, or not be written.
    Protected,
    /// Memory could not be reached.
    Transfer,
    /// It was aborted.
    Aborted,
    /// It cannot be done at the moment, or not on this way, and could not when it was tried again.
    NotReady,
    /// The device does not know it.
    Unsupported,
    /// Something in it is not allowed.
    Invalid,
    /// The device is at fault.
    Internal,
    /// Anything else, as what only its vendor knows.
    Other,
}

/// How many there are.
pub const FAULTS: usize = Fault::ALL.len();

impl Fault {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::ReadError,
        Self::WriteFault,
        Self::Integrity,
        Self::NoSpace,
        Self::OutOfRange,
        Self::Protected,
        Self::Transfer,
        Self::Aborted,
        Self::NotReady,
        Self::Unsupported,
        Self::Invalid,
        Self::Internal,
        Self::Other,
    ];

    /// The word that stands for it wherever numbers are shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ReadError => "read_error",
            Self::WriteFault => "write_fault",
            Self::Integrity => "integrity",
            Self::NoSpace => "no_space",
            Self::OutOfRange => "out_of_range",
            Self::Protected => "protected",
            Self::Transfer => "transfer",
            Self::Aborted => "aborted",
            Self::NotReady => "not_ready",
            Self::Unsupported => "unsupported",
            Self::Invalid => "invalid",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_place_and_word() {
        for (at, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, at);
            assert_eq!(Fault::ALL.into_iter().filter(|other| other.word() == fault.word()).count(), 1);
        }
    }
}
