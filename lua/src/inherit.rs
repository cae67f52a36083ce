//! What the loader itself was given by the socket-activation convention.

use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// The number of the first descriptor.
const FIRST: i32 = 3;

/// The most that are taken.
const MAX: usize = 256;

/// The inherited descriptors, with their names. None when they are meant for another process.
pub(crate) fn descriptors() -> Result<Vec<(String, OwnedFd)>, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let own = rustix::process::getpid();
    if variable("LISTEN_PID").and_then(|pid| pid.parse::<i32>().ok()) != Some(own.as_raw_pid()) {
        return Ok(Vec::new());
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    if count > MAX {
        return Err(format!("LISTEN_FDS: {count} descriptors are too many"));
    }
    // A copy from our own process, as a value that owns it; the original is closed to every program that is started.
    let failed = |errno: rustix::io::Errno| format!("the descriptors of LISTEN_FDS: {errno}");
    let myself = rustix::process::pidfd_open(own, PidfdFlags::empty()).map_err(failed)?;
    let mut names = names.split(':');
    (FIRST..)
        .take(count)
        .map(|number| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
            let fd =
                rustix::process::pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()).map_err(failed)?;
            Ok((name, fd))
        })
        .collect()
}
