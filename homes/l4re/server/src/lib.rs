//! The L4Re home's server: what clients see of nvme-drv on L4Re.
//!
//! It is generic over the kernel ([`Kernel`]: real system calls in the program, a model in the tests), and plays both of the
//! core's roles, control and worker, on one thread. Everything that arrives is a message to an object of ours; its label says
//! which ([`label`](crate::interrupt_label)).
//!
//! * [`Server`]: the loop. It looks at messages between passes, polls as long as that pays, and sleeps in a receive.
//! * [`Hardware`]: what the program found on the vbus. [`Tuning`]: bounds. [`StartError`]: why it does not start.
//! * [`message`]: the protocols on the wire. `page`: the configuration page.
//! * [`Output`]: lines for the operator.
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
#![forbid(clippy::disallowed_methods)]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod hardware;
mod label;
pub mod message;
mod news;
mod output;
mod page;
mod server;
mod session;
mod start;

pub use hardware::{Controller, Hardware, Interrupt, interrupt_label};
pub use output::{Level, Output};
pub use server::Server;
pub use start::{StartError, Tuning};

use nvme_l4re::kernel::{Capabilities, Dataspaces, Ipc, Objects};

/// All that the server asks of the kernel and of L4Re's basic services.
pub trait Kernel: Ipc + Capabilities + Objects + Dataspaces {}

impl<K: Ipc + Capabilities + Objects + Dataspaces> Kernel for K {}
