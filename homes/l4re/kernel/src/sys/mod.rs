//! L4Re itself: the thin layer over its kernel and its C functions. The names are those of L4Re's C interface, as in l4-rust.
//!
//! * `types`: types and constants.
//! * `arch`: all that depends on the architecture, a file for each.
//! * `utcb`, `ipc`: messages; `callers`: who waits for an answer.
//! * `c`: functions that are symbols of L4Re's libraries.
//! * `objects`: what L4Re's headers have as inline functions: gates, interrupts, capability slots.
//! * `env`: initial capabilities, the clock.
//! * `allocate`: new memory. `memory`: dataspaces as windows, device registers; `vanish`: windows whose memory is gone.
//! * `vbus`, `icu`: [`Hardware`], the bus.
//! * `kernel`: [`Kernel`], the traits of [`kernel`](crate::kernel).
//! * `log`: the log; `program`: heap, arguments, the program's end.
#![expect(non_camel_case_types, reason = "as L4Re and l4-rust name them")]

mod allocate;
mod arch;
mod c;
mod callers;
mod env;
mod icu;
mod ipc;
mod kernel;
mod log;
mod memory;
mod objects;
mod program;
mod types;
mod utcb;
mod vanish;
mod vbus;

pub use kernel::Kernel;
pub use log::{Log, line};
pub use program::{Heap, arguments, exit};
pub use types::l4_cap_idx_t;
pub use vbus::Hardware;
