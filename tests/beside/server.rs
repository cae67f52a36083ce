//! The program, as the program's own tests start it; and how a machine gets at a session of it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

#[path = "../program/server.rs"]
#[expect(dead_code, reason = "the program's tests use more of it")]
mod program;

pub(crate) use program::{Bench, Server, wait_until};

/// How a machine reaches its session.
#[expect(dead_code, reason = "this machine has a descriptor")]
pub(crate) enum Attach {
    Fd(OwnedFd),
    Path(PathBuf, Option<OwnedFd>),
}
