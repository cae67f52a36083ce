//! What all tests with virtual machines share.
//!
//! | module | what |
//! | --- | --- |
//! | `archive` | a kernel and an initramfs from what Debian installed |
//! | `console` | one machine: starts, runs commands in it, ends it |

pub(crate) mod archive;
pub(crate) mod console;
