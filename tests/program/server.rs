//! The program under test.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nvme_client::{Error, Factory};
use nvme_linux::spawn::{Exit, Process, Spawn};
use rustix::process::Signal;

use crate::disk;

/// How long anything may take that should take no time. The machine may be busy.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A folder with a disk, and a server over it (or one that is about to be).
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    /// What is started: this build's, unless a test has another.
    program: Mutex<PathBuf>,
}

/// A program that runs, or ran.
pub(crate) struct Server {
    process: Process,
    log: PathBuf,
    ended: Option<Exit>,
}

impl Bench {
    /// A disk whose partitions are `before`, `attack`, `after` and `bystander`.
    pub(crate) fn new() -> Self {
        let dir = disk::memory_dir();
        std::fs::write(dir.path().join("disk"), disk::image(512)).unwrap();
        Self { dir, program: Mutex::new(env!("CARGO_BIN_EXE_nvme-drv").into()) }
    }

    /// Starts this program from now on.
    pub(crate) fn use_program(&self, program: &Path) {
        program.clone_into(&mut self.program.lock().unwrap());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The word for a capability that is a socket of that name.
    pub(crate) fn socket(&self, name: &str) -> String {
        format!("--cap={name}=unix:{}", self.path(name).display())
    }

    pub(crate) fn disk(&self) -> String {
        format!("--cap=vbus=soft:{},serial=SN 1:2", self.path("disk").display())
    }

    /// Starts the program with these words, these descriptors by name, and these variables.
    pub(crate) fn start(
        &self,
        words: &[&str],
        fds: &[(&str, BorrowedFd<'_>)],
        variables: &[(&str, &str)],
    ) -> Server {
        let log = self.path("log");
        // What the server before says from now on, if there is one, comes behind: two that write at places of their own would write over
        // each other's lines.
        drop(File::create(&log).unwrap());
        let stderr = File::options().append(true).open(&log).unwrap();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let program = self.program.lock().unwrap().clone();
        let mut spawn = Spawn::new(&program, OsStr::new("nvme-drv")).unwrap();
        for word in words {
            spawn.arg(OsStr::new(word)).unwrap();
        }
        for (name, value) in variables {
            spawn.env(OsStr::new(name), OsStr::new(value)).unwrap();
        }
        for (name, fd) in fds {
            spawn.fd(name, *fd).unwrap();
        }
        spawn
            .standard(0, null.as_fd())
            .standard(1, stderr.as_fd())
            .standard(2, stderr.as_fd())
            .die_with_parent();
        let process = spawn.start().unwrap();
        Server { process, log, ended: None }
    }

    /// A server over the disk with a factory, and more words.
    pub(crate) fn serve(&self, words: &[&str]) -> Server {
        let (disk, svr) = (self.disk(), self.socket("svr"));
        let all: Vec<&str> = [disk.as_str(), svr.as_str()].into_iter().chain(words.iter().copied()).collect();
        self.start(&all, &[], &[])
    }

    pub(crate) fn factory(&self) -> Factory {
        Factory::connect_retry(self.path("svr"), WAIT).unwrap()
    }

    /// A session. Tests run side by side in one process: a program that another test starts holds copies of this
    /// one's descriptors between its fork and its exec, so what was closed here may be in use for a moment longer.
    pub(crate) fn create(&self, words: &[&str]) -> OwnedFd {
        let deadline = Instant::now() + WAIT;
        loop {
            match self.factory().create(words, None) {
                Err(Error::Create { code: -16, .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other.unwrap_or_else(|e| panic!("{words:?}: {e}")),
            }
        }
    }

    /// The errno and the message with which the factory refuses.
    pub(crate) fn refused(&self, words: &[&str]) -> (i32, String) {
        match self.factory().create(words, None) {
            Err(Error::Create { code, message }) => (-code, message),
            other => panic!("{words:?}: {other:?}"),
        }
    }
}

impl Server {
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(crate) fn said(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn says(&self, what: &str) {
        wait_until(&format!("{what:?} in {}", self.said()), || self.said().contains(what));
    }

    /// One line of `/proc/PID/status`.
    pub(crate) fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    }

    /// Sends a signal. With STOP all of its threads stand still afterwards.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal).unwrap();
        if signal == Signal::STOP {
            let threads = || std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            // One that has ended meanwhile is none.
            let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
                let state = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
                state.map_or(true, |state| state.contains(") T "))
            };
            wait_until("the server stands still", || threads().all(stopped));
        }
    }

    /// Whether it has ended.
    pub(crate) fn status_now(&mut self) -> Option<i32> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().unwrap();
        }
        self.ended.map(Exit::status)
    }

    /// Waits for the program's end.
    pub(crate) fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + WAIT;
        while self.status_now().is_none() {
            assert!(Instant::now() < deadline, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.ended.map(Exit::status).unwrap()
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.process.signal(Signal::KILL);
            let _ = self.process.wait();
        }
    }
}

pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
