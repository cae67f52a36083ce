//! Taking connections from a listening socket that a client made.
//!
//! The client shares the socket's flags: it can take the waiting connection itself and make the socket block in the moment
//! before we accept, and who accepts then waits for as long as the client likes. So a thread of its own accepts, and one
//! that does not come back at once is freed by shutting the listening socket down, which its client has earned.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::accept;

/// How long a connection that is there may take to be accepted; all of it is scheduling.
const PATIENCE: Duration = Duration::from_millis(100);

type Accepted = Result<Option<OwnedFd>, Errno>;

/// The thread that accepts from clients' sockets. To be made before the process gives up the right to start threads.
#[derive(Debug)]
pub struct Acceptor {
    thread: Mutex<Thread>,
}

#[derive(Debug)]
struct Thread {
    listeners: SyncSender<(u64, OwnedFd)>,
    accepted: Receiver<(u64, Accepted)>,
    turn: u64,
}

impl Thread {
    /// The answer of this turn; one that comes from an earlier turn is too late.
    fn answer(&self) -> Option<Accepted> {
        loop {
            match self.accepted.recv_timeout(PATIENCE) {
                Ok((turn, accepted)) if turn == self.turn => return Some(accepted),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Acceptor {
    /// Starts the thread; it ends when this value is dropped.
    pub fn new() -> std::io::Result<Self> {
        let (listeners, work) = sync_channel::<(u64, OwnedFd)>(1);
        let (done, accepted) = sync_channel(1);
        std::thread::Builder::new().name("accept".into()).stack_size(64 << 10).spawn(move || {
            for (turn, listener) in work {
                if done.send((turn, accept(&listener))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { thread: Mutex::new(Thread { listeners, accepted, turn: 0 }) })
    }

    /// As [`accept`], from a listening socket that a client made, and in bounded time. `TIMEDOUT`: the client made its
    /// socket block; it was shut down, and its session is to end.
    pub fn accept(&self, listener: impl AsFd) -> Accepted {
        let mut ready = [PollFd::new(&listener, PollFlags::IN)];
        if poll(&mut ready, Some(&Timespec::default()))? == 0 {
            return Ok(None);
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(&listener, 3)?;
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.turn = thread.turn.wrapping_add(1);
        thread.listeners.try_send((thread.turn, copy)).map_err(|_| Errno::TIMEDOUT)?;
        if let Some(accepted) = thread.answer() {
            return accepted;
        }
        shutdown(&listener, Shutdown::Both)?;
        // The thread comes back now; what it brings is a connection that came too late, or none.
        let _ = thread.answer();
        Err(Errno::TIMEDOUT)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_connection_that_waits_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let acceptor = Acceptor::new().unwrap();
        assert!(acceptor.accept(&listener).unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(acceptor.accept(&listener).unwrap().is_some());
        assert!(acceptor.accept(&listener).unwrap().is_none());
    }

    #[test]
    fn a_socket_that_blocks_holds_nobody_up_and_is_shut_down() {
        let directory = tempfile::tempdir().unwrap();
        let [hostile, good] =
            ["hostile", "good"].map(|name| UnixListener::bind(directory.path().join(name)).unwrap());
        let acceptor = Acceptor::new().unwrap();
        // What a client that wins the race does: nothing waits any more, and the socket blocks.
        let thread = acceptor.thread.lock().unwrap();
        thread.listeners.send((0, OwnedFd::from(hostile.try_clone().unwrap()))).unwrap();
        assert!(thread.answer().is_none(), "it blocks");
        shutdown(&hostile, Shutdown::Both).unwrap();
        assert_eq!(thread.answer().unwrap().unwrap_err(), Errno::INVAL);
        drop(thread);
        let _client = UnixStream::connect(directory.path().join("good")).unwrap();
        let start = Instant::now();
        assert!(acceptor.accept(&good).unwrap().is_some());
        assert!(start.elapsed() < PATIENCE);
    }
}
