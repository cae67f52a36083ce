//! Whose work has the server's share of the processors, where that is more than others have (`Nice=` of its unit).
//!
//! Control and the workers do: they serve everybody. A thread that does for one client what that client makes take long has no more than any
//! program of the client's own.

use std::sync::OnceLock;

use rustix::process::{getpriority_process, setpriority_process};

/// Whether the process was started with more.
static MORE: OnceLock<bool> = OnceLock::new();

/// To be called before the first thread is started.
pub fn look() {
    let _ = MORE.get_or_init(|| getpriority_process(None).is_ok_and(|nice| nice < 0));
}

/// The calling thread has an ordinary share from now on. The filter lets that through, and nothing else of its kind.
pub fn ordinary() {
    if MORE.get().is_some_and(|more| *more) {
        // Nobody is ever refused less.
        let _ = setpriority_process(None, 0);
    }
}
