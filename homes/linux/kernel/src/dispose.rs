//! Closing what a client sent.
//!
//! The last thing that a file system in user space or across a network is asked is to flush, when a descriptor is closed; one
//! that a client runs may take for ever to answer. So a descriptor of such a file is never closed by a thread that has other
//! things to do.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use rustix::fs::{AtFlags, FileType, StatxFlags, fcntl_get_seals, statx};

/// Descriptors that may wait to be closed.
const WAITING: usize = 64;

static CLOSER: OnceLock<SyncSender<OwnedFd>> = OnceLock::new();

static LOST: AtomicUsize = AtomicUsize::new(0);

/// How many descriptors stay open for ever because too many others wait to be closed. Whoever sees it rise while it works
/// for a client knows that the client is hostile, and should end it.
pub fn lost() -> usize {
    LOST.load(Ordering::Relaxed)
}

/// Starts the thread that closes clients' odd descriptors. A server calls this before it gives up the right to start
/// threads; without it they are closed where they are dropped.
pub fn start() -> std::io::Result<()> {
    let (closer, waiting) = sync_channel::<OwnedFd>(WAITING);
    std::thread::Builder::new()
        .name("close".into())
        .stack_size(64 << 10)
        .spawn(move || waiting.iter().for_each(drop))?;
    // A second thread, started meanwhile, ends at once.
    let _ = CLOSER.set(closer);
    Ok(())
}

/// Closes what is not wanted, without waiting. For everything that a client sent and that may be any file.
pub fn dispose(files: impl IntoIterator<Item = OwnedFd>) {
    for file in files {
        let Some(closer) = CLOSER.get().filter(|_| may_wait(file.as_fd())) else { continue };
        hand_over(closer, file);
    }
}

fn hand_over(closer: &SyncSender<OwnedFd>, file: OwnedFd) {
    if let Err(TrySendError::Full(file) | TrySendError::Disconnected(file)) = closer.try_send(file) {
        // The closer is stuck in somebody's file. To lose a descriptor is better than to get stuck as well.
        mem::forget(file);
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether closing it asks a file system that may be anybody's. Asks only the kernel.
fn may_wait(file: BorrowedFd<'_>) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    // The kernel's own memory files have seals; sockets, pipes and eventfds are no regular files.
    let regular = |mode| FileType::from_raw_mode(u32::from(mode)) == FileType::RegularFile;
    fcntl_get_seals(file).is_err()
        && statx(file, "", flags, StatxFlags::TYPE).is_ok_and(|s| regular(s.stx_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_foreign_file_systems_are_odd() {
        let odd = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(may_wait(odd.as_fd()));
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let memfd = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        for ours in [event, memfd, pipe] {
            assert!(!may_wait(ours.as_fd()));
        }
    }

    #[test]
    fn what_a_stuck_closer_does_not_take_is_counted() {
        // Nobody takes anything from it.
        let (stuck, waiting) = sync_channel(1);
        let file = || OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
        let before = lost();
        hand_over(&stuck, file());
        assert_eq!(lost(), before);
        hand_over(&stuck, file());
        hand_over(&stuck, file());
        assert_eq!(lost(), before + 2);
        drop(waiting);
    }

    #[test]
    fn what_is_disposed_of_is_closed() {
        start().unwrap();
        // A lock shows whether the open file description still is.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let again = file.reopen().unwrap();
        again.lock().unwrap();
        dispose([OwnedFd::from(again)]);
        let free = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            file.as_file().try_lock().is_ok()
        });
        assert!(free);
    }
}
