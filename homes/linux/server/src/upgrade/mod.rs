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
//! * `link`: messages and documents on the socket. `words`: policies and places as documents have them. `asks`: the next server's side
//!   until it has its capabilities.

mod asks;
mod link;
mod words;

pub(crate) use asks::{Managed, Predecessor};
pub(crate) use link::{Broken, Files, Given, Link, greeting, read_sealed, sealed};
pub(crate) use words::{
    Wording, ceiling, ceiling_of, holding, holding_of, placed, placed_of, policy, policy_of, rate, rate_of,
    tag_of,
};
