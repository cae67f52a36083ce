//! One server hands over to the next: how they talk, and what the documents say in this server's terms.
//!
//! ```text
//! next                              running
//!  take over VERSION        ───►    looks who asks
//!            ◄───  capabilities     what it was started with; it goes on serving
//!  (opens, starts threads, closes its sandbox)
//!  freeze                   ───►    stops its rings, and takes nothing new
//!            ◄───  state            all that it has
//!  (builds it anew)
//!  ready                    ───►
//!            ◄───  go               the last step: it has ended
//!            ◄───  main             the service manager was told of the next one's process
//! ```
//!
//! Either side may say `refused` with a reason in place of the next step, or hang up: the running server goes on then as if nothing had been.
//!
//! * `link`: messages and documents on the socket. `asks`: the next server's side until it has its capabilities.

mod asks;
mod link;

pub(crate) use asks::{Managed, Predecessor};
pub(crate) use link::{Broken, Files, Given, Link, greeting, read_sealed, sealed};
