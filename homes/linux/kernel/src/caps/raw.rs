//! One capability as it came, and what is said of one that is of the wrong kind.

use std::os::fd::OwnedFd;

use super::{CapError, Spec};

/// One capability before it is checked.
pub(super) enum Raw {
    Open(Passed, String),
    Word(Spec, Option<Passed>, String),
}

/// A descriptor that came with the start.
pub(super) struct Passed {
    pub(super) fd: OwnedFd,
    pub(super) by: Giver,
}

/// Who gave a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Giver {
    /// Whoever started the program.
    Parent,
    /// A server that was started with the same words: it has claimed and locked what it gave.
    Server,
}

pub(super) fn wrong(name: &str, found: impl Into<String>, wanted: &'static str) -> CapError {
    CapError::WrongKind { name: name.to_owned(), found: found.into(), wanted }
}

/// How a SPEC's kind is called in a message.
pub(super) fn described(spec: &Spec) -> &'static str {
    match spec {
        Spec::Pci { .. } => "a PCI function (pci:)",
        Spec::Soft { .. } => "a disk (soft:)",
        Spec::Unix { .. } => "a socket (unix:)",
        Spec::Tcp(_) => "a TCP socket (tcp:)",
        Spec::File(_) => "a memory file (file:)",
        Spec::Trail { .. } => "the file of an audit trail (file:)",
        Spec::Peer(_) => "the socket of --blk-file's client",
    }
}
