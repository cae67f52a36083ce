//! The server program and its contract, from outside: options, capabilities, the factory, the life of a session.
//!
//! * [`server`]: starts the program. [`backend`]: as QEMU would start it. [`options`]: what it refuses before it serves. [`capabilities`]: named descriptors,
//!   sockets, the service manager, what is given up. [`sessions`]: how long a session lives, and who gets which device.
//!   [`independent`]: a client from elsewhere; [`wire`]: its messages beside ours. [`dependencies`]: what is linked. [`old_kernels`]: calls that are missing or denied. [`signals`]: what ends it, with which status.

#![forbid(unsafe_code)]

#[path = "../hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
mod server;

mod backend;
mod capabilities;
mod dependencies;
mod independent;
mod old_kernels;
mod options;
mod sessions;
mod signals;
mod wire;
