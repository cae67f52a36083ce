//! One capability as it came, and what is said of one that is of the wrong kind.

use std::os::fd::OwnedFd;

use super::{CapError, Spec};

/// One capability before it is checked.
pub(super) enum Raw {
    Open(OwnedFd, String),
    Word(Spec, Option<OwnedFd>, String),
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
