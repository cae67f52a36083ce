//! The NVMe driver over the software controller and its faulty twin.
//!
//! * `rig`: one controller, one client's memory, and the little that control and worker do in between.
//! * `bringup`: from reset to ready, what Identify may say, namespaces, shutdown.
//! * `data`: reads, writes and the rest arrive where they should, whatever shape the memory has.
//! * `caches`: devices that do not see them.
//! * `parts`: parts of blocks.
//! * `hostile`: completions that are stale, forged or repeated; full queues.
//! * `left`: one driver after the other, without a reset in between.
//! * `recovery`: commands that never end: abort, delete, reset, issue again.
//! * `retries`: commands that fail for the moment.
//! * `reads`: the control role's own reads.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod bringup;
mod caches;
mod data;
mod hostile;
mod left;
mod parts;
mod reads;
mod recovery;
mod retries;
mod rig;
