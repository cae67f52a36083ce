//! The programs that were started: waiting for them, ending them, and signals on their way to them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nvme_linux::spawn::{Exit, Process};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a program may take to end after SIGTERM: the server drains for 30 s at most.
const DRAIN: Duration = Duration::from_secs(35);

/// How long `kill()` waits before it insists.
const KILL: Duration = Duration::from_secs(5);

/// A process of a program.
pub(crate) enum Runs {
    /// One that was started here.
    Child(Process),
    /// One that took over from that, and was started by somebody else.
    Other(OwnedFd, i32),
}

impl Runs {
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Self::Child(process) => process.pid(),
            Self::Other(_, pid) => *pid,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // What has ended needs no signal.
        let _ = match self {
            Self::Child(process) => process.signal(signal),
            Self::Other(pidfd, _) => rustix::process::pidfd_send_signal(pidfd, signal).map_err(Into::into),
        };
    }

    /// Readable once it has ended.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        match self {
            Self::Child(process) => process.as_fd(),
            Self::Other(pidfd, _) => pidfd.as_fd(),
        }
    }
}

/// A program that was started.
pub(crate) struct Program {
    name: String,
    runs: Mutex<Arc<Runs>>,
    exit: Mutex<Option<Exit>>,
    /// Of one that is started again when it dies: hangs up once that is over, and who started it knows how it ended.
    over: Option<OwnedFd>,
    /// Somebody here told it to end.
    told: AtomicBool,
    /// Whether a script has its status, so that it need not be told otherwise.
    collected: AtomicBool,
}

impl Program {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> i32 {
        self.runs().pid()
    }

    /// Its process at the moment.
    pub(crate) fn runs(&self) -> Arc<Runs> {
        Arc::clone(&lock(&self.runs))
    }

    /// It has another process now.
    pub(crate) fn goes_on_as(&self, runs: Runs) {
        *lock(&self.runs) = Arc::new(runs);
    }

    /// Whether somebody here told it to end.
    pub(crate) fn was_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// It has ended, and is not started again.
    pub(crate) fn is_over(&self, how: Exit) {
        *lock(&self.exit) = Some(how);
    }

    /// Its end, if it has ended.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let mut exit = lock(&self.exit);
        if exit.is_none()
            && self.over.is_none()
            && let Runs::Child(process) = &*self.runs()
        {
            *exit = how_it_ended(process);
        }
        *exit
    }

    pub(crate) fn ended(&self) -> bool {
        self.exit().is_some()
    }

    /// Waits for its end, until a deadline if there is one.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Exit> {
        loop {
            if let Some(exit) = self.exit() {
                return Some(exit);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return None;
            }
            wait_for_any(std::slice::from_ref(&self), deadline);
        }
    }

    /// The script knows how it ended.
    pub(crate) fn collect(&self) {
        self.collected.store(true, Ordering::Relaxed);
    }

    /// Ends it: kindly first.
    pub(crate) fn kill(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.runs().signal(Signal::TERM);
        if self.wait(Some(Instant::now() + KILL)).is_none() {
            self.runs().signal(Signal::KILL);
            self.wait(None);
        }
    }

    /// What it does, in words.
    pub(crate) fn describe(&self) -> String {
        match self.exit() {
            None => format!("{} ({}) runs", self.name, self.pid()),
            Some(Exit::Code(code)) => format!("{} ({}) ended with status {code}", self.name, self.pid()),
            Some(Exit::Signal(signal)) => {
                format!("{} ({}) was ended by signal {signal}", self.name, self.pid())
            }
        }
    }
}

/// How it ended, if it has.
pub(crate) fn how_it_ended(process: &Process) -> Option<Exit> {
    // Nobody else reaps it, so an error means that its end cannot be known: as good as killed.
    process.try_wait().unwrap_or(Some(Exit::Signal(Signal::KILL.as_raw())))
}

/// All programs, and whether they are to end.
#[derive(Default)]
pub(crate) struct Supervisor {
    programs: Mutex<Vec<Arc<Program>>>,
    ending: AtomicBool,
}

impl Supervisor {
    /// Hands SIGTERM, SIGINT and SIGHUP on to the programs, as SIGTERM; the second one kills them.
    pub(crate) fn forward_signals(self: &Arc<Self>) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let this = Arc::clone(self);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                let again = this.ending.swap(true, Ordering::SeqCst);
                this.signal(if again { Signal::KILL } else { Signal::TERM });
            }
        })?;
        Ok(())
    }

    /// Whether the end was asked for.
    pub(crate) fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Starts looking after a program.
    pub(crate) fn add(&self, name: &str, process: Process) -> Arc<Program> {
        self.look_after(name, process, None)
    }

    /// The same for one that somebody starts again when it dies: `over` hangs up once nobody does any more.
    pub(crate) fn look_after(&self, name: &str, process: Process, over: Option<OwnedFd>) -> Arc<Program> {
        let program = Arc::new(Program {
            name: name.to_owned(),
            runs: Mutex::new(Arc::new(Runs::Child(process))),
            exit: Mutex::new(None),
            over,
            told: false.into(),
            collected: false.into(),
        });
        lock(&self.programs).push(Arc::clone(&program));
        self.is_there(&program);
        program
    }

    /// The signal to end may have come between a program's start and its place in the list.
    pub(crate) fn is_there(&self, program: &Program) {
        if self.ending() || program.was_told() {
            program.runs().signal(Signal::TERM);
        }
    }

    /// Tells all programs to end.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.signal(Signal::TERM);
    }

    /// Waits until all have ended; kills what has not ended in time once the end was asked for. Returns the status of
    /// the first that nobody asked for and that went wrong.
    /// `each` does what a program's end leads to, and says whether there was anything: it may start others.
    pub(crate) fn wait_for_all(&self, each: &mut dyn FnMut() -> bool) -> Result<(), (String, Exit)> {
        let mut deadline = None;
        loop {
            let programs = lock(&self.programs).clone();
            let running: Vec<&Program> =
                programs.iter().map(Arc::as_ref).filter(|one| !one.ended()).collect();
            if each() {
                continue;
            }
            if running.is_empty() {
                let wrong = programs.iter().find_map(|program| self.wrong(program));
                return wrong.map_or(Ok(()), Err);
            }
            if self.ending() {
                let until = *deadline.get_or_insert_with(|| Instant::now() + DRAIN);
                if Instant::now() >= until {
                    self.signal(Signal::KILL);
                }
            }
            // In steps, so that a signal that came meanwhile starts its deadline.
            wait_for_any(&running, Some(Instant::now() + Duration::from_millis(500)));
        }
    }

    fn wrong(&self, program: &Program) -> Option<(String, Exit)> {
        let exit = program.exit()?;
        let told_to = self.ending() && matches!(exit, Exit::Signal(15 | 9 | 2 | 1));
        let known = program.collected.load(Ordering::Relaxed);
        (!exit.success() && !told_to && !known).then(|| (program.describe(), exit))
    }

    fn signal(&self, signal: Signal) {
        for program in lock(&self.programs).iter() {
            program.runs().signal(signal);
        }
    }
}

/// Waits until one of them has ended, or the deadline; may return early.
fn wait_for_any(programs: &[&Program], deadline: Option<Instant>) {
    let runs: Vec<Arc<Runs>> = programs.iter().map(|program| program.runs()).collect();
    let ends = programs.iter().zip(&runs);
    let ends = ends.map(|(program, runs)| program.over.as_ref().map_or_else(|| runs.end(), AsFd::as_fd));
    let mut fds: Vec<PollFd<'_>> = ends.map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)).collect();
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    // An interrupted wait is an early return.
    let _ = rustix::event::poll(&mut fds, left.as_ref());
}

/// Nothing here panics while it holds a lock; if something did, the data is whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
