//! The NVMe driver: one [`Controller`] for the control role, and [`QueuePair`]s for the workers.
//!
//! Nothing here blocks, reads a clock or starts a thread: the home calls, and is told by values what happened and when
//! to call again. No guest address ever comes here: memory is [`DmaRange`](nvme_session::memory::DmaRange)s, which the
//! session mediated, or [`DriverMemory`](nvme_platform::DriverMemory), which is the driver's own.
//!
//! **The control role's side**
//! * [`controller`]: what can be asked of a controller, and the machines that it is put together from; [`event`]: what it tells.
//! * [`quirks`]: controllers that need something special. [`options`], [`info`]: choices and findings. `left`: one that another driver left running.
//!
//! **The worker's side**
//! * [`pair`]: submit and ring; `complete`: what comes back. `encode`: a request as a command; `transfer`: how it says where the data is;
//!   `bounce`: data that must go through memory of ours; `caches`: devices that do not see them; `parts`: parts of blocks,
//!   and `guarded`: those that are being written.
//! * `issued`: a command in flight; `inflight`: all of them, by identifier; `ring`: the two queues; `recovery`: commands that do not end.
//! * `doorbell_buffers`: doorbells in memory, for virtual controllers.
//! * `clients`: who requests come from. `retry`: whether a command that failed is tried again; `repeat`: how. `troubles`: what went wrong.
//! * [`quiet`]: proof that the controller is done with memory.
//!
//! [`spec`] has the data structures of the specification.

mod bounce;
mod caches;
mod clients;
mod complete;
pub mod controller;
mod doorbell_buffers;
mod encode;
pub mod event;
mod guarded;
mod inflight;
pub mod info;
mod issued;
mod issuing;
mod left;
mod mishap;
pub mod options;
pub mod pair;
mod parts;
pub mod quiet;
pub mod quirks;
mod recovery;
mod repeat;
mod retry;
mod ring;
pub mod spec;
mod transfer;
mod troubles;

pub use clients::Clients;
pub use complete::{Came, Ending};
pub use controller::{Controller, SCAN_MAX};
pub use event::{AbortOutcome, ControllerEvent, Failure, PairError, ResetReason, ScanError, Smart};
pub use info::{ControllerInfo, NamespaceInfo, SglSupport};
pub use issuing::Issuing;
pub use left::Left;
pub use mishap::Mishap;
pub use options::{Options, PciId};
pub use pair::{Counters, Doorbells, Expired, HERE_MAX, HERE_SHARED, QueuePair, Submit};
pub use quiet::QueueQuiet;
pub use recovery::NotQuiet;
pub use transfer::{BOUNCE_CHUNK, TRANSFER_MAX};
pub use troubles::Troubled;
