//! The lower half of the L4Re home over a bus that is a model, with the software controller behind its registers: the driver
//! comes up over it as it is.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod bring_up;
mod data;
mod interrupts;
mod reach;
mod rig;
mod soft;
