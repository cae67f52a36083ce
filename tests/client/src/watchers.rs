//! Those who wait for an eventfd, many of them: what it takes to write into it is up to them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Duplicates that each of [`watch_until`]'s epoll sets waits for, and sets that are added before it measures again.
const COPIES: usize = 200;
const SETS: usize = 8;

/// Has so many epoll sets wait for as many duplicates of an eventfd as there are, for as long as what comes back is held.
pub fn watch(copies: &[OwnedFd], sets: usize, flags: EventFlags) -> io::Result<Vec<OwnedFd>> {
    let one = |_| {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        copies.iter().try_for_each(|copy| epoll::add(&set, copy, EventData::new_u64(0), flags))?;
        Ok(set)
    };
    (0..sets).map(one).collect()
}

/// Duplicates of a descriptor.
pub fn copies(fd: BorrowedFd<'_>, count: usize) -> io::Result<Vec<OwnedFd>> {
    (0..count).map(|_| fd.try_clone_to_owned()).collect()
}

/// Has so many wait for an eventfd that a write into it takes so long of a processor at least.
pub fn watch_until(fd: BorrowedFd<'_>, cost: Duration) -> io::Result<Vec<OwnedFd>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let copies = copies(fd, COPIES)?;
    let mut held = Vec::new();
    while write_takes(fd)? < cost {
        held.extend(watch(&copies, SETS, EventFlags::IN)?);
    }
    held.extend(copies);
    Ok(held)
}

/// What a write into it takes of a processor: the least of five.
pub fn write_takes(fd: BorrowedFd<'_>) -> io::Result<Duration> {
    let once = |_| {
        let start = processor_time();
        rustix::io::write(fd.as_fd(), &0u64.to_ne_bytes())?;
        Ok(processor_time() - start)
    };
    let all: Vec<Duration> = (0..5).map(once).collect::<io::Result<_>>()?;
    Ok(all.into_iter().min().unwrap_or_default())
}

/// What this thread had of a processor.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
