//! The load generator: [`Load`] says what to do to a [`Client`](crate::Client), [`Measured`] what came of it, and
//! [`Usage`] what a server process spent meanwhile.
//!
//! One thread drives all queues as a virtual machine's driver would: it takes what is done, submits as much again, shows
//! the device all of it at once, and when there is nothing to take it looks for a while and then sleeps on the eventfds.

mod copy;
mod histogram;
mod load;
mod pattern;
mod usage;

pub use copy::copy_cost;
pub use histogram::Histogram;
pub use load::{Buffers, Load, Measured, Order};
pub use pattern::{check_pattern, fill_pattern, write_pattern};
pub use usage::Usage;
