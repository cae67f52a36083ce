//! A server's sessions outlive it: what it has kept (sd_pid_notify_with_fds(3), as systemd's `FileDescriptorStoreMax=`) lies here, and a server
//! that died is started again with that.
//!
//! Each server has a thread, which hears what it says, and starts it. A server that ended by itself, or was told to end here, stays away, and so
//! does one that has nothing kept: there is nothing to go on with. What was handed to it, listening sockets above all, is held as long
//! as it may be started again, so who connects meanwhile waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_linux::socket::{receive_from, tell_senders};
use nvme_linux::spawn::{Exit, FDS_MAX, Process};
use nvme_linux::standard::complain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open, unlink};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Resource, Signal, getrlimit, pidfd_open};

use crate::channel::runtime_folder;
use crate::exec::Start;
use crate::supervise::{Program, Runs, Supervisor, how_it_ended};

/// How long a server is dead before it is started again.
const RESTART: Duration = Duration::from_millis(100);
/// So often within so long it is started again; then it stays away.
const STARTS: usize = 10;
const WITHIN: Duration = Duration::from_secs(60);
/// Most descriptors that are kept of one server, as in the unit.
const ROOM: usize = 1024;
/// Descriptors that the loader needs besides.
const OWN: usize = 64;

/// What is kept of a server.
struct Store {
    socket: UnixDatagram,
    kept: Vec<(String, OwnedFd)>,
    room: usize,
}

/// A server, and all that it takes to start it again.
struct Keeper {
    start: Start,
    store: Store,
    /// Where its socket is: it has no name, as those of channels.
    place: OwnedFd,
    program: Arc<Program>,
    supervisor: Arc<Supervisor>,
    /// Who was the main process before another took over, until it has ended.
    before: Vec<Arc<Runs>>,
    starts: VecDeque<Instant>,
}

/// Starts a server, and looks after it.
pub(crate) fn start(start: Start, name: &str, supervisor: &Arc<Supervisor>) -> io::Result<Arc<Program>> {
    let folder = tempfile::Builder::new().prefix(".nvme-ned-").tempdir_in(runtime_folder())?;
    let path = folder.path().join("n");
    let socket = UnixDatagram::bind(&path)?;
    let place = open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    unlink(&path)?;
    folder.close()?;
    tell_senders(&socket)?;
    let store = Store { socket, kept: Vec::new(), room: room(start.descriptors()) };
    let process = start.spawn(&[], Some(&way_to(&place)))?;
    let (over, held) = pipe_with(PipeFlags::CLOEXEC)?;
    let program = supervisor.look_after(name, process, Some(over));
    let keeper = Keeper {
        start,
        store,
        place,
        program: Arc::clone(&program),
        supervisor: Arc::clone(supervisor),
        before: Vec::new(),
        starts: VecDeque::new(),
    };
    let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || {
        let program = Arc::clone(&keeper.program);
        // What was kept and what was handed to it goes first: whoever is told of its end finds that nobody listens.
        let how = keeper.run();
        program.is_over(how);
        drop(held);
    });
    if let Err(why) = thread {
        program.runs().signal(Signal::KILL);
        program.is_over(Exit::Signal(Signal::KILL.as_raw()));
        return Err(why);
    }
    Ok(program)
}

/// Room for what is kept: each of it is there twice when the server is started.
fn room(handed: usize) -> usize {
    let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    let most = most.map_or(ROOM, |most| most.saturating_sub(OWN) / 2);
    most.min(FDS_MAX).saturating_sub(handed).min(ROOM)
}

/// How a process of this user gets there.
fn way_to(place: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), place.as_raw_fd())
}

impl Keeper {
    /// Until it has ended for good. How.
    fn run(mut self) -> Exit {
        loop {
            let runs = self.program.runs();
            self.wait(&runs);
            let ended = is_readable(&runs);
            // What it said before it ended comes first.
            self.hear(&runs);
            if !Arc::ptr_eq(&runs, &self.program.runs()) {
                self.before.push(runs);
                continue;
            }
            self.before.retain(|runs| !has_ended(runs));
            if !ended {
                continue;
            }
            let how = match &*runs {
                Runs::Child(process) => match how_it_ended(process) {
                    Some(how) => how,
                    None => continue,
                },
                // Whose child it is knows. One that ended well has let go of everything.
                Runs::Other(..) if self.store.kept.is_empty() => Exit::Code(0),
                Runs::Other(..) => Exit::Signal(Signal::KILL.as_raw()),
            };
            if !self.starts_again(how) {
                return how;
            }
            let what = self.program.name();
            complain(format_args!(
                "nvme-ned: {what} ({}) died ({}); it is started again",
                runs.pid(),
                describe(how)
            ));
            match self.start.spawn(&self.store.kept, Some(&way_to(&self.place))) {
                Ok(process) => self.goes_on_as(process),
                Err(why) => {
                    complain(format_args!("nvme-ned: {what} cannot be started again: {why}"));
                    return how;
                }
            }
        }
    }

    fn goes_on_as(&self, process: Process) {
        self.program.goes_on_as(Runs::Child(process));
        self.supervisor.is_there(&self.program);
    }

    /// Waits until something is to be done.
    fn wait(&self, runs: &Runs) {
        let before = self.before.iter().map(|runs| PollFd::from_borrowed_fd(runs.end(), PollFlags::IN));
        let mut fds = vec![
            PollFd::new(&self.store.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(runs.end(), PollFlags::IN),
        ];
        fds.extend(before);
        // An interrupted wait is an early return.
        let _ = poll(&mut fds, None);
    }

    /// Whether it is to be started again, after a moment.
    fn starts_again(&mut self, how: Exit) -> bool {
        let is_to_end = |keeper: &Self| keeper.supervisor.ending() || keeper.program.was_told();
        let died = matches!(how, Exit::Signal(_) | Exit::Code(1));
        if !died || self.store.kept.is_empty() || is_to_end(self) {
            return false;
        }
        let now = Instant::now();
        self.starts.retain(|start| *start + WITHIN > now);
        if self.starts.len() >= STARTS {
            let what = self.program.name();
            complain(format_args!(
                "nvme-ned: {what} died {STARTS} times within a minute, and is not started again"
            ));
            return false;
        }
        self.starts.push_back(now);
        std::thread::sleep(RESTART);
        !is_to_end(self)
    }

    /// Hears all that was said by now. Only the main process is listened to.
    fn hear(&mut self, runs: &Arc<Runs>) {
        let mut main = runs.pid();
        let mut bytes = [0; 4096];
        while let Ok((length, files, sender)) = receive_from(&self.store.socket, &mut bytes) {
            if sender.is_none_or(|sender| sender.pid != main) {
                continue;
            }
            let Some(Ok(text)) = bytes.get(..length).map(std::str::from_utf8) else { continue };
            if let Some(other) = self.store.hear(text, files)
                && other != main
                && let Some(pid) = Pid::from_raw(other)
                && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            {
                self.program.goes_on_as(Runs::Other(pidfd, other));
                self.supervisor.is_there(&self.program);
                main = other;
            }
        }
    }
}

impl Store {
    /// Does what it is told. Answers whom it is to listen to from now on, if it is told so.
    fn hear(&mut self, text: &str, files: Vec<OwnedFd>) -> Option<i32> {
        let has = |line: &str| text.lines().any(|other| other == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        if has("FDSTORE=1") && nvme_linux::spawn::is_name(name) {
            let left = self.room.saturating_sub(self.kept.len());
            self.kept.extend(files.into_iter().take(left).map(|file| (name.to_owned(), file)));
        } else if has("FDSTOREREMOVE=1") {
            self.kept.retain(|(known, _)| known != name);
        }
        // What comes with BARRIER=1 is closed, now.
        text.lines().find_map(|line| line.strip_prefix("MAINPID="))?.parse().ok()
    }
}

fn is_readable(runs: &Runs) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(runs.end(), PollFlags::IN)];
    poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Whether it has ended. Then it is reaped.
fn has_ended(runs: &Runs) -> bool {
    match runs {
        Runs::Child(process) => how_it_ended(process).is_some(),
        Runs::Other(..) => is_readable(runs),
    }
}

fn describe(how: Exit) -> String {
    match how {
        Exit::Code(code) => format!("status {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn what_is_kept_is_kept_by_name_as_far_as_there_is_room() {
        let (socket, _) = UnixDatagram::pair().unwrap();
        let mut store = Store { socket, kept: Vec::new(), room: 3 };
        let files =
            |n| (0..n).map(|_| memfd_create("kept", MemfdFlags::CLOEXEC).unwrap()).collect::<Vec<_>>();
        assert_eq!(store.hear("FDSTORE=1\nFDNAME=a\nFDPOLL=0", files(2)), None);
        assert_eq!(store.hear("FDSTORE=1\nFDNAME=b:c", files(1)), None, "no name");
        assert_eq!(store.hear("FDSTORE=1\nFDNAME=b", files(2)), None);
        let names = |store: &Store| store.kept.iter().map(|(name, _)| name.clone()).collect::<String>();
        assert_eq!(names(&store), "aab");
        assert_eq!(store.hear("READY=1\nSTATUS=serving", files(1)), None);
        assert_eq!(store.hear("FDSTOREREMOVE=1\nFDNAME=a", Vec::new()), None);
        assert_eq!(names(&store), "b");
        assert_eq!(store.hear("MAINPID=77", Vec::new()), Some(77));
        assert_eq!(store.hear("MAINPID=x", Vec::new()), None);
    }
}
