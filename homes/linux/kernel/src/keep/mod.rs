//! What outlives a server that was killed: descriptors that the service manager keeps (sd_pid_notify_with_fds(3), `FDSTORE`).
//!
//! A manager keeps few descriptors, by name, and each file once. So what belongs together lies on a [`Shelf`]: a pair of sockets, with all
//! descriptors in messages that nobody has taken. The manager keeps both ends, and what changes is written to the shelf alone.
//!
//! * [`crash`]: what a thread leaves behind when it ends the process. `manager`: what is said to the service manager. `shelf`: a document and its descriptors, as they were last whole.

pub mod crash;
mod manager;
mod shelf;

pub use manager::{Manager, NotKept};
pub use shelf::{Shelf, Stale, Unreadable};
