//! The first moments of a program, when it is alone with what it inherited.
#![expect(unsafe_code, reason = "takes what the process inherited, while it is alone")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::caps::{CapError, CapWord, Inherited};
use crate::logger::Notifier;

/// The right to take what was inherited: there is one in the life of a process, and only while it has one thread.
#[derive(Debug)]
pub struct Start(());

impl Start {
    /// To be called first thing in `main`, before the program opens anything itself: [`take`](Self::take) closes
    /// every descriptor above 2 that was not named. `None` the second time, and when there are other
    /// threads already.
    pub fn of_process() -> Option<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let alone = std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() <= 1);
        (alone && !TAKEN.swap(true, Ordering::SeqCst)).then_some(Self(()))
    }

    /// Lets each signal do what it does by itself, whatever whoever started the program left behind: a fault of memory that is
    /// ignored ends the process, handler or not. (What is blocked, [`settle_signals`](crate::events::settle_signals) says, and what
    /// those do that it names.) What stays ignored is what a shell has a program in the background ignore. Of those that report a write that failed, the error is report enough.
    pub fn reset_signals(&self) {
        for signal in 1..libc::SIGRTMAX() + 1 {
            let action = match signal {
                libc::SIGKILL | libc::SIGSTOP => continue,
                libc::SIGHUP
                | libc::SIGUSR1
                | libc::SIGUSR2
                | libc::SIGINT
                | libc::SIGQUIT
                | libc::SIGTSTP
                | libc::SIGTTIN
                | libc::SIGTTOU => {
                    continue;
                }
                libc::SIGPIPE | libc::SIGXFSZ => libc::SIG_IGN,
                _ => libc::SIG_DFL,
            };
            // The C library keeps two for itself, and refuses them.
            // SAFETY: neither action runs code of ours.
            unsafe { libc::signal(signal, action) };
        }
    }

    /// The inherited descriptors that the environment and these words name; all others are closed. And the connection
    /// to the service manager, if there is one.
    pub fn take(self, words: &[CapWord]) -> Result<(Inherited, io::Result<Notifier>), CapError> {
        // SAFETY: the process had one thread and had opened nothing when this value was made.
        let inherited = unsafe { Inherited::take(words) }?;
        // SAFETY: there is still one thread; nothing above starts any.
        let notifier = unsafe { Notifier::from_env() };
        Ok((inherited, notifier))
    }
}
