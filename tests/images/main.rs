//! Images on storage that fails, fills up, freezes and grows, served by the program: a loop device over a full file, a tmpfs
//! without room, a frozen file system. They need root and loop devices.
//!
//! * [`storage`]: such storage. [`failing`]: whose error it is. [`frozen`]: who waits. [`kept`]: and for what a dead server began. [`stuck`]: a worker that waits as well. [`devices`]: block devices. [`trail`]: the audit trail on such storage. [`tenants`]: factories.
//!   [`asked`]: whose size is somebody else's to say. [`shape`]: size, holes, and what is said at start.

#![forbid(unsafe_code)]

#[path = "../hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
#[path = "../program/manager.rs"]
#[expect(dead_code, reason = "the program's tests use more of it")]
mod manager;
#[path = "../machine/mounted.rs"]
mod mounted;
#[path = "../program/server.rs"]
#[expect(dead_code, reason = "the program's tests use more of it")]
mod server;

mod asked;
mod devices;
mod failing;
mod frozen;
mod kept;
mod shape;
mod storage;
mod stuck;
mod tenants;
mod trail;
