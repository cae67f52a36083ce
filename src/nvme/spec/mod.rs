//! The controller's data structures as the specifications define them: NVM Express Base Specification 2.0 ("Base") and
//! NVM Command Set Specification 1.0 ("NVM").
//!
//! * [`registers`]: CAP, CC, CSTS and their neighbours.
//! * [`command`]: submission and completion queue entries, opcodes, status; `status`: what that is called.
//! * [`sgl`]: SGL descriptors.
//! * [`identify`]: Identify data.
//! * [`log`]: log pages.
//!
//! Every bit pattern is a valid value of these types; what a value means is checked where it is used.

pub mod command;
pub mod identify;
pub mod log;
pub mod registers;
pub mod sgl;
mod status;

/// The page that all queues and PRPs use, in bytes (CC.MPS = 0).
pub const PAGE: u32 = nvme_platform::PAGE as u32;
