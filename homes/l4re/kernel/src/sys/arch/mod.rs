//! All that depends on the architecture: the system call, where the UTCB is and how it is laid out, a counter for the time, writing to memory
//! without changing it, and what asks for an interrupt by message.
//!
//! One file for each, with the same names in it: an architecture is added by writing another. `amd64` is the one that was run. `arm64` is compiled as
//! far as a compiler without L4Re can (`cargo check` for `aarch64-unknown-none`), read against L4Re's headers, and was never linked or run.
//!
//! | name | |
//! | --- | --- |
//! | `l4_ipc` | the one system call |
//! | `utcb` | where this thread's UTCB is |
//! | `clock` | the time in a counter that user mode may read |
//! | `touch` | has a page there that can be read, or written |
//! | `caches`, `DRIVER_MEMORY` | what devices do not see of the caches, and how the driver's own memory keeps out of them |
//! | `MSI` | what an interrupt's number has set when it is a message |

#[cfg(target_arch = "x86_64")]
mod amd64;
#[cfg(target_arch = "aarch64")]
mod arm64;

#[cfg(target_arch = "x86_64")]
pub(super) use amd64::*;
#[cfg(target_arch = "aarch64")]
pub(super) use arm64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("there is no file for this architecture in homes/l4re/kernel/src/sys/arch");
