//! What one server hands over to the next, or leaves to it when it dies.
//!
//! Two documents, each in a sealed memory file, with the descriptors that it names by number: [`Capabilities`], what the server was
//! started with, and [`State`], what came of it. A document begins with a line that says its kind and its [`VERSION`]; one of another
//! version is refused as a whole, and so is one with a field that is not known: what is not understood is not half taken over.
//!
//! What is kept in case it is killed ([`KeptServer`], [`KeptSession`], [`KeptFactory`]) is written likewise, part by part.
//!
//! Nothing here is believed for having been well formed. Whoever takes over builds everything anew by the rules that it would have been
//! built by the first time, and refuses all of it when a part does not pass.
//!
//! * `document`: bytes to document and back. `state`: what came of it. `kept`: what is left by a server that died. `file`: descriptors by number.
//! * `core`: what the core has, as documents say it, and the other way; `words`: its policies and places.
// Nothing that comes from outside ends a server: what may not be there is looked for, and not counted on.
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![forbid(unsafe_code)]

mod core;
mod document;
mod file;
mod kept;
mod state;
mod words;

pub use self::core::{NotTaken, adopt_factory, adopt_session, drained, drained_of, factory, session};
pub use document::{
    Capabilities, Capability, DOCUMENT_MAX, Document, FILES_MAX, Function, Manager, Unreadable, VERSION,
};
pub use file::File;
pub use kept::{Crash, Gate, KeptFactory, KeptServer, KeptSession, Shelf, Shelved, Store};
pub use state::{
    Caller, Ceiling, Connection, Counters, Device, Drained, Factory, Holding, Identity, Inflight, Journals,
    Left, Lost, Machine, Mapped, Memory, Partition, Peer, Policy, Rate, Ring, Session, State,
};
pub use words::{Wording, rate};
