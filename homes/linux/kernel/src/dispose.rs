//! Closing what a client sent.
//!
//! The last thing that a file system in user space or across a network is asked is to flush, when a descriptor is closed; one
//! that a client runs may take for ever to answer. And what ends with its last descriptor takes its time: a memory file frees its
//! pages, a socket closes what lies unread in it, an eventfd leaves every set that watches it. So a client's descriptor is never
//! closed by a thread that has other things to do: files of foreign file systems are one thread's, which may be stuck in one
//! for ever; everything else is a few others', which always come on.
//!
//! That they do is seen to. A socket of another family may have been told to linger, for as long as its sender likes: it is told not to, and
//! where that was undone, or such a one lies unread in another socket, a signal ends the wait ([`bounded`]).
#![expect(unsafe_code, reason = "hands a descriptor on when its holder is dropped")]

use std::cell::Cell;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, FileType, StatxFlags, fcntl_get_seals, statx};
use rustix::net::sockopt::set_socket_linger;

use crate::events::bounded;
use crate::priority;

/// Files of foreign file systems that may wait to be closed.
const FOREIGN: usize = 64;
/// Other descriptors that may. They are open meanwhile, and no session's any more.
const WAITING: usize = 48;
/// Threads that close those: what one takes long with holds up no other.
const THREADS: usize = 3;
/// What threads that never close themselves may leave besides.
const LEFT: usize = 16;

struct Closers {
    foreign: SyncSender<OwnedFd>,
    others: SyncSender<OwnedFd>,
    left: Arc<Mutex<Vec<OwnedFd>>>,
}

static CLOSERS: OnceLock<Closers> = OnceLock::new();

static LOST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(0) };
    static NEVER: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread closes nothing of clients', however much waits: it serves others.
pub fn never_here() {
    NEVER.set(true);
}

/// How many descriptors stay open for ever because too many others wait to be closed.
pub fn lost() -> usize {
    LOST.load(Ordering::Relaxed)
}

/// How many of them the calling thread had to give up. Whoever sees it rise while it works for a client knows that the client is
/// hostile, and should end it.
pub fn lost_here() -> usize {
    OWN.get()
}

/// Starts the threads that close clients' descriptors. A server calls this before it gives up the right to start
/// threads; without it they are closed where they are dropped.
pub fn start() -> std::io::Result<()> {
    let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(64 << 10);
    let (foreign, files) = sync_channel(FOREIGN);
    thread("foreign").spawn(move || {
        priority::ordinary();
        files.iter().for_each(drop);
    })?;
    let (others, waiting) = sync_channel(WAITING);
    let (waiting, left) = (Arc::new(Mutex::new(waiting)), Arc::default());
    for _ in 0..THREADS {
        let (waiting, left) = (Arc::clone(&waiting), Arc::clone(&left));
        thread("close").spawn(move || {
            priority::ordinary();
            while close_next(&waiting, &left) {}
        })?;
    }
    // More threads, started meanwhile, end at once.
    let _ = CLOSERS.set(Closers { foreign, others, left });
    Ok(())
}

/// Closes what comes next, and what was left. False: nothing comes any more.
fn close_next(waiting: &Mutex<Receiver<OwnedFd>>, left: &Mutex<Vec<OwnedFd>>) -> bool {
    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
    let Ok(next) = next else { return false };
    close(next);
    loop {
        let last = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(last) = last else { return true };
        close(last);
    }
}

/// Takes no longer than two ticks where it is somebody's wish that it does.
fn close(fd: OwnedFd) {
    // Of what is no socket it is not heard.
    let _ = set_socket_linger(&fd, None);
    bounded(|| drop(fd));
}

/// Closes what is not wanted, without waiting. For everything that a client sent and that may be any file.
pub fn dispose(files: impl IntoIterator<Item = OwnedFd>) {
    for file in files {
        let Some(closers) = CLOSERS.get() else { continue };
        if may_wait(file.as_fd()) {
            hand_over(&closers.foreign, file);
        } else {
            later(closers, file);
        }
    }
}

/// A descriptor of a client's that is kept, and known to be no file of a foreign file system: an eventfd, a socket. Another thread
/// closes it.
#[derive(Debug)]
pub struct ClientFd(ManuallyDrop<OwnedFd>);

impl ClientFd {
    /// Keeps it.
    pub fn new(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl ClientFd {
    /// It is somebody else's from now on.
    pub fn into_owned(self) -> OwnedFd {
        let mut kept = ManuallyDrop::new(self);
        // SAFETY: it is taken once, here, and what would take it again is not dropped.
        unsafe { ManuallyDrop::take(&mut kept.0) }
    }
}

impl From<OwnedFd> for ClientFd {
    fn from(fd: OwnedFd) -> Self {
        Self::new(fd)
    }
}

impl AsFd for ClientFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for ClientFd {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and nothing looks at it again.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        match CLOSERS.get() {
            Some(closers) => later(closers, fd),
            None => drop(fd),
        }
    }
}

/// Who finds no room closes by itself: it takes its time, and comes back. Who never does leaves it.
fn later(closers: &Closers, fd: OwnedFd) {
    let Err(TrySendError::Full(fd) | TrySendError::Disconnected(fd)) = closers.others.try_send(fd) else {
        return;
    };
    if !NEVER.get() {
        return close(fd);
    }
    let mut left = closers.left.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever takes what is still before it looks here afterwards.
    match closers.others.try_send(fd) {
        Ok(()) => {}
        Err(TrySendError::Full(fd) | TrySendError::Disconnected(fd)) if left.len() < LEFT => left.push(fd),
        Err(TrySendError::Full(fd) | TrySendError::Disconnected(fd)) => {
            mem::drop(left);
            close(fd);
        }
    }
}

fn hand_over(closer: &SyncSender<OwnedFd>, file: OwnedFd) {
    if let Err(TrySendError::Full(file) | TrySendError::Disconnected(file)) = closer.try_send(file) {
        // The closer is stuck in somebody's file. To lose a descriptor is better than to get stuck as well.
        mem::forget(file);
        LOST.fetch_add(1, Ordering::Relaxed);
        OWN.set(OWN.get() + 1);
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
    fn what_a_stuck_closer_does_not_take_is_counted_and_by_whom() {
        // Nobody takes anything from it.
        let (stuck, waiting) = sync_channel(1);
        let file = || OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
        let (before, here) = (lost(), lost_here());
        hand_over(&stuck, file());
        assert_eq!((lost(), lost_here()), (before, here));
        hand_over(&stuck, file());
        std::thread::scope(|scope| scope.spawn(|| hand_over(&stuck, file())).join()).unwrap();
        assert_eq!((lost(), lost_here()), (before + 2, here + 1));
        drop(waiting);
    }

    /// Whether the open file description that locks it is gone, in a while.
    fn is_freed(file: &std::fs::File) -> bool {
        (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            file.try_lock().is_ok()
        })
    }

    #[test]
    fn what_is_disposed_of_is_closed() {
        start().unwrap();
        // A lock shows whether the open file description still is.
        for folder in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"] {
            let file = tempfile::NamedTempFile::new_in(folder).unwrap();
            for kept in [false, true] {
                let again = file.reopen().unwrap();
                again.lock().unwrap();
                match kept {
                    false => dispose([OwnedFd::from(again)]),
                    true => drop(ClientFd::new(again.into())),
                }
                assert!(is_freed(file.as_file()), "{folder}");
                file.as_file().unlock().unwrap();
            }
        }
    }

    #[test]
    fn who_never_closes_leaves_what_finds_no_room_and_it_is_closed_afterwards() {
        let (foreign, _never) = sync_channel(1);
        let (others, taken) = sync_channel(1);
        let closers = Closers { foreign, others, left: Arc::default() };
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                never_here();
                (0..3).for_each(|_| later(&closers, writer.try_clone().unwrap()));
            });
        });
        drop(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
        let (taken, left) = (Mutex::new(taken), Arc::clone(&closers.left));
        assert!(close_next(&taken, &left));
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
        drop(closers);
        assert!(!close_next(&taken, &left));
    }

    #[test]
    fn what_finds_no_room_is_closed_at_once() {
        let (foreign, _never) = sync_channel(1);
        let (others, _taken) = sync_channel(1);
        let closers = Closers { foreign, others, left: Arc::default() };
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        later(&closers, writer.try_clone().unwrap());
        later(&closers, writer);
        // One write end is left, in the queue.
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
        drop(_taken);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    }
}
