//! Named capabilities: the authority that the server starts with.
//!
//! A capability is an open file descriptor with a name. It comes from the parent process ([`Inherited`], the systemd
//! socket-activation convention) or is opened by the server itself, by a word `--cap NAME=SPEC` ([`CapWord`],
//! [`Spec`]). [`Capabilities::gather`] brings both together and checks that
//!
//! * every descriptor has a name that this server knows, and is of the kind that the name asks for;
//! * what may exist once exists once, and what must exist exists.
//!
//! [`backend`] makes the words of a program with one disk and one client.
//!
//! Files are opened here. Sockets (`unix:`), PCI functions (`pci:`) and memory disks (`soft:mem:`) come out as what
//! was asked for, to be made by whoever knows how.

mod backend;
mod error;
mod gather;
mod inherit;
mod kind;
mod listener;
mod raw;
mod spec;
mod trail;

pub use backend::{backend, serial};
pub use error::{CapError, SpecError};
pub use gather::{Capabilities, ControllerKind, ControllerSpec, Image, NamedFile, Wanted};
pub use inherit::{Inherited, NamedFd};
pub use listener::{Listener, ListenerKind};
pub use spec::{CapWord, Place, Size, SoftOptions, SoftSource, Spec, UnixOptions};
pub use trail::TrailFile;
