//! A service manager of the tests' own, as far as it keeps descriptors (sd_notify(3)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nvme_client::{Client, Options};
use nvme_linux::socket::receive;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::server::{Bench, Server};

/// What `RestartSec=` is in the tests.
const RESTART: Duration = Duration::from_millis(100);

pub(crate) type Store = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// A service manager, as far as it keeps descriptors (sd_notify(3)).
pub(crate) struct Manager {
    pub(crate) store: Store,
    path: String,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    pub(crate) fn new(bench: &Bench, room: usize) -> Self {
        let path = bench.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let store = Store::default();
        let kept = Arc::clone(&store);
        let thread = std::thread::spawn(move || hear(&socket, &kept, room));
        Self { store, path: path.display().to_string(), thread: Some(thread) }
    }

    /// Starts a server with what is kept, as the manager does.
    pub(crate) fn start(&self, bench: &Bench, words: &[&str]) -> Server {
        let kept = self.store.lock().unwrap();
        let fds: Vec<(&str, BorrowedFd<'_>)> =
            kept.iter().map(|(name, file)| (name.as_str(), file.as_fd())).collect();
        bench.start(words, &fds, &[("NOTIFY_SOCKET", &self.path)])
    }

    /// The server is killed, and started again after its time.
    pub(crate) fn restart(&self, bench: &Bench, mut server: Server, words: &[&str]) -> Server {
        server.signal(Signal::KILL);
        server.wait();
        std::thread::sleep(RESTART);
        self.start(bench, words)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.store.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let end = UnixDatagram::unbound().unwrap();
        end.send_to(b"END=1", &self.path).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn hear(socket: &UnixDatagram, kept: &Store, room: usize) {
    loop {
        poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
        let mut bytes = [0; 4096];
        let (length, files) = receive(socket, &mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let has = |line: &str| text.lines().any(|other| other == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
        let mut kept = kept.lock().unwrap();
        if has("END=1") {
            return;
        }
        if has("FDSTORE=1") {
            assert!(has("FDPOLL=0"), "it would let go of what hangs up");
            let left = room - kept.len();
            kept.extend(files.into_iter().take(left).map(|file| (name.to_owned(), file)));
        } else if has("FDSTOREREMOVE=1") {
            kept.retain(|(known, _)| known != name);
        }
        // With BARRIER=1 comes something that is closed, now.
    }
}

/// A client that has said all: whoever is killed in the middle of a message closes its connection, and the last has no answer.
pub(crate) fn client(bench: &Bench, words: &[&str]) -> Client {
    said_all(bench.create(words))
}

/// The same of a session's capability.
pub(crate) fn said_all(session: OwnedFd) -> Client {
    let client = Client::from_fd(session, &Options::default()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    client
}
