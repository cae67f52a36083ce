//! The server program and its contract, from outside: options, capabilities, the factory, the life of a session.
//!
//! * [`server`]: starts the program. [`audit`], [`audited`]: what it writes down. [`backend`]: as QEMU would start it. [`operator`]: what is asked at `admin`. [`options`]: what it refuses before it serves. [`capabilities`]: named descriptors,
//!   sockets, the service manager, what is given up. [`sessions`]: how long a session lives, and who gets which device. [`tenants`]: factories and dataspaces of the command line. [`workers`]: several of them.
//!   [`killed`], [`killed_factories`]: one takes up what another left with a [`manager`]; [`upgrade`]: one takes over from another, watched by [`checker`]; [`builds`]: so do two builds.
//!   [`independent`]: a client from elsewhere; [`wire`]: its messages beside ours. [`dependencies`]: what is linked. [`old_kernels`]: calls that are missing or denied. [`signals`]: what ends it, with which status.

#![forbid(unsafe_code)]

#[path = "../hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
mod server;

mod audit;
mod audited;
mod backend;
mod builds;
mod capabilities;
mod checker;
mod dependencies;
mod independent;
mod inflight;
mod killed;
mod killed_factories;
mod manager;
mod old_kernels;
mod operator;
mod options;
mod sessions;
mod signals;
mod tenants;
mod upgrade;
mod wire;
mod workers;
