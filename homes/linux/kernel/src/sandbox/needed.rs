//! Calls that serving cannot do without, tried before anything is opened.
//!
//! A kernel that is older, or a filter of a unit or a container that knows less, would make each client fail one by one, with
//! errors that name nothing. What there is another way for is not here: `epoll_pwait2` (5.11; `epoll_pwait`), `close_range` (5.9; one by
//! one), Landlock (5.13; without), `io_submit` (writes that are watched over), `pwritev2` (asks for room first).

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{AtFlags, MemfdFlags, StatxFlags, memfd_create, statx};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::SandboxError;

/// An error that names the first call that is missing.
pub fn check_calls() -> Result<(), SandboxError> {
    let lacks = |call| move |error| SandboxError::Lacks { call, error: std::io::Error::from(error) };
    let memory = memfd_create("nvme-check", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(lacks("memfd_create"))?;
    statx(&memory, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)
        .map_err(lacks("statx"))?;
    eventfd(0, EventfdFlags::CLOEXEC).map_err(lacks("eventfd2"))?;
    epoll::create(epoll::CreateFlags::CLOEXEC).map_err(lacks("epoll_create1"))?;
    // The standard library's tables want it on each thread, and end the process when it fails behind the sandbox.
    getrandom(&mut [0u8; 16][..], GetRandomFlags::NONBLOCK)
        .map(|_| ())
        .or_else(|e| if e == Errno::AGAIN { Ok(()) } else { Err(e) })
        .map_err(lacks("getrandom"))
}
