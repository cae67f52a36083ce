//! The NVMe driver: one [`Controller`] for the control role, and [`QueuePair`]s for the workers.
//!
//! Nothing here blocks, reads a clock or starts a thread: the home calls, and is told by values what happened and when
//! to call again. No guest address ever comes here: memory is [`DmaRange`](nvme_session::memory::DmaRange)s, which the
//! session mediated, or [`DriverMemory`](nvme_platform::DriverMemory), which is the driver's own.
//!
//! **The control role's side**
//! * [`controller`]: the state machine and what can be asked of it; [`event`]: what it tells.
//! * `bringup`: registers, from reset to ready, and back; `setup`: what is asked of a controller that is ready.
//! * `admin`: the admin queue. `answers`: what is done with its completions. `identify`: what Identify data may say.
//! * `pairs`: creating, deleting and creating again; `scan`: the control role's own reads; `notices`: asynchronous events.
//! * [`quirks`]: controllers that need something special. [`options`], [`info`]: choices and findings.
//!
//! **The worker's side**
//! * [`pair`]: submit and ring; `complete`: what comes back. `encode`: an operation as a command; `transfer`: how it says where the data is;
//!   `bounce`: data that must go through memory of ours.
//! * `inflight`: the commands in flight by identifier; `ring`: the two queues; `recovery`: commands that do not end.
//! * [`quiet`]: proof that the controller is done with memory.
//!
//! [`spec`] has the data structures of the specification.

mod admin;
mod answers;
mod bounce;
mod bringup;
mod complete;
pub mod controller;
mod encode;
pub mod event;
mod identify;
mod inflight;
pub mod info;
mod notices;
pub mod options;
pub mod pair;
mod pairs;
pub mod quiet;
pub mod quirks;
mod recovery;
mod ring;
mod scan;
mod setup;
pub mod spec;
mod transfer;

pub use controller::Controller;
pub use event::{AbortOutcome, Event, Failure, PairError, ResetReason, ScanError, Smart};
pub use info::{ControllerInfo, NamespaceInfo, SglSupport};
pub use options::{Options, PciId};
pub use pair::{Counters, Done, Doorbells, Expired, QueuePair, Submit};
pub use quiet::QueueQuiet;
pub use recovery::NotQuiet;
pub use scan::SCAN_MAX;
pub use transfer::{BOUNCE_CHUNK, TRANSFER_MAX};
