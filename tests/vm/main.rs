//! Real clients: Debian kernels in QEMU (TCG), each with a disk of the server.
//!
//! | module | what |
//! | --- | --- |
//! | `need` | what must be installed, and what happens when it is not |
//! | `kernel` | vmlinux, modules and an initramfs, made once (by `shared`) |
//! | `disk` | the image: a golden partition, a scratch partition |
//! | `server` | starts the server, mints sessions |
//! | `mounted` | a file system that can be frozen |
//! | `machine` | one virtual machine: starts, runs commands in it, ends it |
//! | `scenarios`, `trouble`, `firmware`, `restarts` | the tests |

#[macro_use]
mod need;
mod disk;
mod firmware;
mod kernel;
mod machine;
#[path = "../machine/mounted.rs"]
#[expect(dead_code, reason = "the tests of images use more of it")]
mod mounted;
mod restarts;
mod scenarios;
mod server;
#[path = "../machine/mod.rs"]
mod shared;
mod trouble;
