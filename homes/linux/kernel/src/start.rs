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
