//! A service manager of the tests' own, as far as it keeps descriptors (sd_notify(3)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nvme_client::{Client, Options};
use nvme_linux::socket::{receive_from, tell_senders};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::server::{Bench, Server, wait_until};

/// What `RestartSec=` is in the tests.
pub(crate) const RESTART: Duration = Duration::from_millis(100);

pub(crate) type Store = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// A service manager, as far as it keeps descriptors (sd_notify(3)).
pub(crate) struct Manager {
    pub(crate) store: Store,
    /// The main process, which is the only one that is listened to; 0: it is being started.
    main: Arc<AtomicI32>,
    path: String,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    pub(crate) fn new(bench: &Bench, room: usize) -> Self {
        let path = bench.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        tell_senders(&socket).unwrap();
        let (store, main) = (Store::default(), Arc::new(AtomicI32::new(0)));
        let (kept, its_main) = (Arc::clone(&store), Arc::clone(&main));
        let thread = std::thread::spawn(move || hear(&socket, &kept, &its_main, room));
        Self { store, main, path: path.display().to_string(), thread: Some(thread) }
    }

    /// Starts a server with what is kept, as the manager does.
    pub(crate) fn start(&self, bench: &Bench, words: &[&str]) -> Server {
        self.main.store(0, Ordering::Relaxed);
        let kept = self.store.lock().unwrap();
        let fds: Vec<(&str, BorrowedFd<'_>)> =
            kept.iter().map(|(name, file)| (name.as_str(), file.as_fd())).collect();
        let server = bench.start(words, &fds, &[("NOTIFY_SOCKET", &self.path)]);
        self.main.store(server.pid(), Ordering::Relaxed);
        server
    }

    /// The server is killed, and started again after its time.
    pub(crate) fn restart(&self, bench: &Bench, mut server: Server, words: &[&str]) -> Server {
        server.signal(Signal::KILL);
        server.wait();
        std::thread::sleep(RESTART);
        self.start(bench, words)
    }

    /// The next server, as a reload starts it: with no word of the manager.
    pub(crate) fn next(&self, bench: &Bench, words: &[&str]) -> Server {
        bench.start(words, &[], &[])
    }

    /// The next server has taken over from that one.
    pub(crate) fn upgrade(&self, bench: &Bench, mut server: Server, words: &[&str]) -> Server {
        let mut next = self.next(bench, words);
        wait_until("the end of one of them", || server.status_now().is_some() || next.status_now().is_some());
        assert_eq!(next.status_now(), None, "{}", next.said());
        assert_eq!(server.wait(), 0, "{}", server.said());
        next.says("took over from pid");
        wait_until("the next main process", || self.main.load(Ordering::Relaxed) == next.pid());
        next
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

fn hear(socket: &UnixDatagram, kept: &Store, main: &AtomicI32, room: usize) {
    loop {
        poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
        let mut bytes = [0; 4096];
        let (length, files, sender) = receive_from(socket, &mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let has = |line: &str| text.lines().any(|other| other == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
        if has("END=1") {
            return;
        }
        let sender = sender.unwrap().pid;
        while main.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        if main.load(Ordering::Relaxed) != sender {
            continue;
        }
        if let Some(pid) = text.lines().find_map(|line| line.strip_prefix("MAINPID=")) {
            main.store(pid.parse().unwrap(), Ordering::Relaxed);
        }
        let mut kept = kept.lock().unwrap();
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
